"""The blocks of one layer group: who holds them, and which can be reused by content.

Owns: reference counts, the free list in least-recently-used order, the index from content hash to block.
Does not know: tensors, sequences, what a hash is made of.
"""

from __future__ import annotations

from collections import OrderedDict

from gptoss_backend.engine.errors import CacheFull

NULL_BLOCK = 0
"""Always zero, never written: the target of padding and of positions that left a sliding window."""


class BlockPool:
    """A fixed number of blocks. A free block keeps its content, and can be found by it, until it is handed out anew."""

    def __init__(self, num_blocks: int) -> None:
        """num_blocks counts the null block, which is never handed out."""
        self._references = [0] * num_blocks
        self._hashes: list[bytes | None] = [None] * num_blocks
        self._by_hash: dict[bytes, int] = {}
        self._free: OrderedDict[int, None] = OrderedDict.fromkeys(range(1, num_blocks))

    @property
    def num_free(self) -> int:
        """Blocks that `take` can hand out."""
        return len(self._free)

    @property
    def num_used(self) -> int:
        """Blocks held by at least one sequence."""
        return len(self._references) - 1 - len(self._free)

    def take(self, count: int) -> list[int]:
        """Hand out `count` blocks, the least recently used first. Raises CacheFull with nothing changed."""
        if count > len(self._free):
            raise CacheFull(f"{count} blocks wanted, {len(self._free)} free")
        return [self._take_one() for _ in range(count)]

    def _take_one(self) -> int:
        block, _ = self._free.popitem(last=False)
        self._references[block] = 1
        content = self._hashes[block]
        if content is not None:
            del self._by_hash[content]
            self._hashes[block] = None
        return block

    def find(self, content: bytes) -> int | None:
        """Return the block that holds this content, without taking it."""
        return self._by_hash.get(content)

    def is_free(self, block: int) -> bool:
        """True where nobody holds the block, so that sharing it takes one from the free list."""
        return self._references[block] == 0

    def share(self, block: int) -> None:
        """Hold one more reference to a block that `find` returned."""
        if self._references[block] == 0:
            del self._free[block]
        self._references[block] += 1

    def release(self, block: int) -> None:
        """Give one reference back. The null block is passed over."""
        if block == NULL_BLOCK:
            return
        self._references[block] -= 1
        if self._references[block] == 0:
            self._free[block] = None
            if self._hashes[block] is None:
                # nothing to find here: hand it out before any block with content
                self._free.move_to_end(block, last=False)

    def label(self, block: int, content: bytes) -> None:
        """Make a filled block findable. The first block with a content keeps it."""
        if content not in self._by_hash:
            self._by_hash[content] = block
            self._hashes[block] = content
