"""The paged KV cache's accounting: block tables for both attention kinds, and prefix reuse.

Owns: the block tables, who holds which block, which prefixes are still there.
Does not know: how many blocks there is room for (cache_plan); the memory behind them, which is the model's; the order
in which sequences run.

A sequence holds a row of the tables from `open` to `close`. Position p of a row lives in slot
`table[row, p // block_size] * block_size + p % block_size`, in every layer of a group alike. Sliding layers share a
second table whose entries fall back to the null block once their positions have left the window.
"""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field

from gptoss_backend.engine.block_hashes import BlockHashes
from gptoss_backend.engine.block_pool import NULL_BLOCK, BlockPool
from gptoss_backend.engine.block_tables import BlockTable
from gptoss_backend.engine.cache_plan import CachePlan
from gptoss_backend.engine.errors import CacheFull
from gptoss_backend.engine.sequence import TokenIds


class LayerGroup(BlockTable):
    """The layers of one attention kind: they share a block pool and a block table."""

    def __init__(self, num_blocks: int, window: int | None, plan: CachePlan) -> None:
        super().__init__(window, plan)
        self.pool = BlockPool(num_blocks)
        self._block_size = plan.block_size

    def first_needed(self, position: int) -> int:
        """Return the first block that a query at `position` still reads."""
        return 0 if self.window is None else max(0, position - self.window + 1) // self._block_size

    def append(self, row: int, blocks: array[int], new: list[int]) -> None:
        """Extend a row's table by `new`, in place."""
        self.write(row, len(blocks), new)
        blocks.extend(new)

    def drop(self, row: int, blocks: array[int], index: int) -> None:
        """Give one block back and leave the null block in its place."""
        self.pool.release(blocks[index])
        blocks[index] = NULL_BLOCK
        self.write(row, index, [NULL_BLOCK])

    def clear(self, row: int, blocks: array[int]) -> None:
        """Give a row's blocks back, the last first, so that beginnings of conversations outlive their ends."""
        self.write(row, 0, [NULL_BLOCK] * len(blocks))
        for block in reversed(blocks):
            self.pool.release(block)


@dataclass(slots=True)
class _Row:
    """What one sequence holds."""

    hashes: BlockHashes
    """The sequence's own."""
    num_labelled: int
    full: array[int] = field(default_factory=lambda: array("i"))
    sliding: array[int] = field(default_factory=lambda: array("i"))
    first_sliding: int = 0
    """Sliding blocks before this one have been dropped."""


class KVCache:
    """Which blocks of keys and values belong to whom. Used by the engine's thread only."""

    def __init__(self, plan: CachePlan, sliding_window: int) -> None:
        self.plan = plan
        self.full = LayerGroup(plan.num_full_blocks, None, plan)
        self.sliding = LayerGroup(plan.num_sliding_blocks, sliding_window, plan)
        self._rows: dict[int, _Row] = {}
        self._free_rows = list(reversed(range(plan.num_rows)))
        self.num_closes = 0
        """While it stays the same, and no more of its prompt is found, `open` refuses again what it refused."""

    @property
    def num_free_rows(self) -> int:
        """Sequences that can still be opened."""
        return len(self._free_rows)

    def num_missing(self, row: int, num_tokens: int) -> int:
        """Return how many blocks `reserve` would still take for these positions."""
        return max(0, -(-num_tokens // self.plan.block_size) - len(self._rows[row].full))

    def open(
        self, token_ids: TokenIds, spare_blocks: int = 0, block_hashes: BlockHashes | None = None
    ) -> tuple[int, int]:
        """Give a sequence a row, holding whatever prefix of its tokens is still cached.

        block_hashes: of the tokens, as far as they are known; extended in place until `close`.
        Returns (row, num_cached_tokens); at least the last token is left to compute. Raises CacheFull, with nothing
        changed, where no row is free or the rest would not fit right now with `spare_blocks` left over.
        """
        if not self._free_rows:
            raise CacheFull("no free row")
        block_size = self.plan.block_size
        hashes = BlockHashes() if block_hashes is None else block_hashes
        hashes.extend_over(token_ids, block_size)
        num_cached = self._longest_prefix(hashes, (len(token_ids) - 1) // block_size)
        shared = [self._found(self.full, content) for content in hashes[:num_cached]]
        reclaimed = sum(self.full.pool.is_free(block) for block in shared)
        if -(-len(token_ids) // block_size) - num_cached + reclaimed + spare_blocks > self.full.pool.num_free:
            raise CacheFull("the prompt does not fit beside what is running")

        row = self._free_rows.pop()
        state = self._rows[row] = _Row(hashes=hashes, num_labelled=num_cached)
        for block in shared:
            self.full.pool.share(block)
        self.full.append(row, state.full, shared)
        state.first_sliding = self.sliding.first_needed(num_cached * block_size)
        window = [self._found(self.sliding, content) for content in hashes[state.first_sliding : num_cached]]
        for block in window:
            self.sliding.pool.share(block)
        self.sliding.append(row, state.sliding, [NULL_BLOCK] * state.first_sliding + window)
        return row, num_cached * block_size

    def num_findable(self, hashes: list[bytes]) -> int:
        """Return how many leading blocks the full group holds."""
        find = self.full.pool.find
        return next((index for index, content in enumerate(hashes) if find(content) is None), len(hashes))

    def reserve(self, row: int, num_tokens: int) -> None:
        """Make positions before `num_tokens` of a row writable. Raises CacheFull with nothing changed."""
        state = self._rows[row]
        missing = -(-num_tokens // self.plan.block_size) - len(state.full)
        if missing <= 0:
            return
        if missing > min(self.full.pool.num_free, self.sliding.pool.num_free):
            raise CacheFull(f"{missing} blocks wanted")
        self.full.append(row, state.full, self.full.pool.take(missing))
        self.sliding.append(row, state.sliding, self.sliding.pool.take(missing))

    def commit(self, row: int, token_ids: TokenIds, num_computed: int) -> None:
        """Note that keys and values of the first `num_computed` tokens are in place.

        Makes whole blocks findable by content and gives back those that left the sliding window. There is something
        to note only where a block was filled.
        """
        state = self._rows[row]
        block_size = self.plan.block_size
        num_whole = num_computed // block_size
        if num_whole == state.num_labelled:
            return
        hashes = state.hashes
        hashes.extend_over(token_ids, block_size, num_whole)
        for index in range(state.num_labelled, num_whole):
            self.full.pool.label(state.full[index], hashes[index])
            if state.sliding[index] != NULL_BLOCK:
                self.sliding.pool.label(state.sliding[index], hashes[index])
        state.num_labelled = num_whole
        first = self.sliding.first_needed(num_computed)
        for index in range(state.first_sliding, first):
            self.sliding.drop(row, state.sliding, index)
        state.first_sliding = max(state.first_sliding, first)

    def close(self, row: int) -> None:
        """Give a sequence's row and blocks back. What they hold stays findable until it is overwritten."""
        state = self._rows.pop(row)
        self.full.clear(row, state.full)
        self.sliding.clear(row, state.sliding)
        self._free_rows.append(row)
        self.num_closes += 1

    def _longest_prefix(self, hashes: list[bytes], most: int) -> int:
        """Return how many leading blocks, `most` at most, can be reused.

        In the full group all of them must be there, in the sliding one those of the last window.
        """
        length = self.num_findable(hashes[:most])
        while length:
            first = self.sliding.first_needed(length * self.plan.block_size)
            window = range(length - 1, first - 1, -1)
            missing = next((index for index in window if self.sliding.pool.find(hashes[index]) is None), None)
            if missing is None:
                return length
            length = missing  # every length between has this block in its window, too
        return 0

    @staticmethod
    def _found(group: LayerGroup, content: bytes) -> int:
        block = group.pool.find(content)
        assert block is not None, "_longest_prefix has just found it"  # noqa: S101
        return block
