"""What a step that is recorded once and replayed reads: memory that stays where it is.

Owns: the tokens' numbers, the tiles of their attention and the block tables on the device, and how they get there.
Does not know: what is computed.
"""

from __future__ import annotations

from collections import deque
from dataclasses import fields

import torch
from torch import Tensor

from gptoss_backend.engine.batch import Batch
from gptoss_backend.engine.block_tables import BlockTable, BlockTables
from gptoss_backend.engine.cache_plan import CachePlan
from gptoss_backend.engine.kernels.embedding import take_chosen
from gptoss_backend.engine.model import Draws
from gptoss_backend.engine.transfer import to_device

CHUNK_TILE = 16
"""Tokens of a chunk that attend together: with eight heads that share keys, 128 rows of a tile multiplication."""
# a chunk's last tile may be less than full; one that is not needed still costs programs, which end at once
_PARTIAL_TILES = 24


DRAW_LINES = len(fields(Draws))
"""Of `Draws`"""


class DecodeRows:
    """One token for each of `size` rows of a batch; where there are fewer, the first one stands in for the others."""

    def __init__(self, size: int, device: torch.device) -> None:
        self.size = size
        # two, so that one can be filled while the other is still on its way
        self._staged = deque(_Staged(size, device) for _ in range(2))
        self._numbers = torch.zeros(4, size, dtype=torch.int64, device=device)
        self.draws = torch.zeros(DRAW_LINES, size, dtype=torch.float64, device=device)
        """The lines of `Draws`, [size] each; a temperature of 0: the likeliest token."""
        self.token_ids, self.positions, self.rows, self.is_real = self._numbers
        """[size] int64 each. is_real: 0 where a row is a stand-in: it reads as the first one, writes nothing."""

    def fill(self, batch: Batch, draws: Draws | None, chosen: Tensor | None) -> None:
        """Send a batch of decodes to the device. draws: None: none.

        chosen: [num_samples] int64 on the device: what the batch launched before chooses; None: nobody here asks.
        """
        staged = self._staged[0]
        self._staged.rotate()
        staged.fill(batch, draws)
        self._numbers.copy_(staged.numbers, non_blocking=True)
        self.draws.copy_(staged.draws, non_blocking=True)
        staged.crossing.begin()
        put_awaited(batch, self.token_ids, chosen)

    @property
    def chunks(self) -> Tensor:
        """There are none."""
        return self._numbers.new_empty(0, 4, dtype=torch.int32)


class PassRows:
    """Up to `size` tokens of a step with chunks; where there are fewer, the first one stands in for the others."""

    def __init__(self, size: int, num_decodes: int, device: torch.device) -> None:
        """num_decodes: sequences that may decode beside the chunks."""
        self.size = size
        self._num_decodes = min(size, num_decodes)
        self.num_full_tiles = max(1, size // CHUNK_TILE)
        """Of chunks, where all tokens are one chunk's."""
        num_tiles = self._num_decodes + size // CHUNK_TILE + min(size, _PARTIAL_TILES)
        pinned = device.type == "cuda"
        self._staged_numbers = torch.zeros(4, size, dtype=torch.int64, pin_memory=pinned)
        self._staged_tiles = torch.zeros(num_tiles, 4, dtype=torch.int32, pin_memory=pinned)
        self._crossing = _Crossing(device)
        self._numbers = torch.zeros(4, size, dtype=torch.int64, device=device)
        self._tiles = torch.zeros(num_tiles, 4, dtype=torch.int32, device=device)
        self.token_ids, self.positions, self.rows, self.is_real = self._numbers
        """As in `DecodeRows`."""
        self.decodes, self.chunks = self._tiles[: self._num_decodes], self._tiles[self._num_decodes :]
        """Tiles of attention, as `QueryTiles.places`; those that are not needed hold no tokens."""

    def holds(self, batch: Batch) -> bool:
        """Say whether a step fits."""
        num_tiles = sum(-(-chunk.length // CHUNK_TILE) for chunk in batch.chunks)
        return (
            len(batch.token_ids) <= self.size
            and batch.num_decodes <= self._num_decodes
            and num_tiles <= len(self.chunks)
        )

    def fill(self, batch: Batch, chosen: Tensor | None) -> None:
        """Send a step that fits to the device. chosen: as for `DecodeRows`."""
        self._crossing.wait()
        _lay_out(batch, self._staged_numbers)
        self._staged_tiles.zero_()
        decodes, chunks = decode_tiles(batch), chunk_tiles(batch)
        self._staged_tiles[: len(decodes)] = decodes
        self._staged_tiles[self._num_decodes :][: len(chunks)] = chunks
        self._numbers.copy_(self._staged_numbers, non_blocking=True)
        self._tiles.copy_(self._staged_tiles, non_blocking=True)
        self._crossing.begin()
        put_awaited(batch, self.token_ids, chosen)


def put_awaited(batch: Batch, token_ids: Tensor, chosen: Tensor | None) -> None:
    """Put what the batch launched before chooses where it is awaited, in place. chosen: as for `DecodeRows`."""
    if batch.follows and chosen is not None:
        take_chosen(token_ids, chosen)


def decode_tiles(batch: Batch) -> Tensor:
    """Return the tiles of a step's decodes, as `QueryTiles.places`, on the host."""
    tiles = [(token, 1, batch.rows[token], batch.positions[token]) for token in range(batch.num_decodes)]
    return torch.tensor(tiles, dtype=torch.int32).view(-1, 4)


def chunk_tiles(batch: Batch) -> Tensor:
    """Return the tiles of a step's chunks, as `QueryTiles.places`, on the host."""
    tiles = [
        (chunk.start + first, min(CHUNK_TILE, chunk.length - first), chunk.row, chunk.position + first)
        for chunk in batch.chunks
        for first in range(0, chunk.length, CHUNK_TILE)
    ]
    return torch.tensor(tiles, dtype=torch.int32).view(-1, 4)


class _Staged:
    """Decodes on the host."""

    def __init__(self, size: int, device: torch.device) -> None:
        # pinned, so that the copy to the device waits for nothing
        pinned = device.type == "cuda"
        self.numbers = torch.zeros(4, size, dtype=torch.int64, pin_memory=pinned)
        self.draws = torch.zeros(DRAW_LINES, size, dtype=torch.float64, pin_memory=pinned)
        self.crossing = _Crossing(device)

    def fill(self, batch: Batch, draws: Draws | None) -> None:
        self.crossing.wait()
        _lay_out(batch, self.numbers)
        if draws is None:
            self.draws.zero_()
            return
        self.draws[:, : batch.num_decodes] = torch.tensor(draws.lines, dtype=torch.float64)
        # whoever stands in for the first row goes on with its token, and so with its experts
        self.draws[:, batch.num_decodes :] = self.draws[:, :1]


class _Crossing:
    """The way of what is staged on the host to the device: until it is there, nothing else may be staged.

    Not every step is waited for: a chunk without a sample by nobody, a pipeline's steps by its last stage.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        # one that was never recorded counts as done
        self._there = torch.cuda.Event() if device.type == "cuda" else None  # type: ignore[no-untyped-call]

    def begin(self) -> None:
        """Note that the copies to the device have been asked for."""
        if self._there is not None:
            self._there.record(torch.cuda.current_stream(self._device))

    def wait(self) -> None:
        if self._there is not None:
            self._there.synchronize()


def _lay_out(batch: Batch, lines: Tensor) -> None:
    """Write a step's numbers on the host, [4, size]: ids, positions, rows, and whether a token is real."""
    count = len(batch.positions)
    for line, numbers in zip(lines, (batch.token_ids, batch.positions, batch.rows), strict=False):
        line[:count] = torch.tensor(numbers)
        line[count:] = numbers[0]
    lines[3, :count], lines[3, count:] = 1, 0


class DeviceTables:
    """The block tables on the device, kept up with what the host changes: [num_rows, max_blocks_per_row] int32."""

    def __init__(self, plan: CachePlan, sliding_window: int, device: torch.device) -> None:
        self.plan = plan
        self.window = sliding_window
        shape = (plan.num_rows, plan.max_blocks_per_row)
        self.full, self.sliding = (torch.zeros(shape, dtype=torch.int32, device=device) for _ in range(2))

    def follow(self, tables: BlockTables) -> None:
        """Take over what has changed in the host's tables since the last call."""
        for there, here in ((self.full, tables.full), (self.sliding, tables.sliding)):
            _follow(there, here)


def _follow(table: Tensor, host: BlockTable) -> None:
    latest: dict[int, int] = {}
    changes = host.take_changes()
    for row, first, entries in changes:
        start = row * table.shape[1] + first
        latest.update(zip(range(start, start + len(entries)), entries, strict=True))
    if not latest:
        return
    try:
        places, blocks = to_device([list(latest), list(latest.values())], torch.int64, table.device)
        table.view(-1).index_copy_(0, places, blocks.to(table.dtype))
    except RuntimeError:  # the step fails for want of memory; the next one must know of these, too
        host.put_back(changes)
        raise
