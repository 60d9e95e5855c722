"""What a step that is recorded once and replayed reads: memory that stays where it is.

Owns: the tokens' numbers, the tiles of their attention and the block tables on the device, and how they get there.
Does not know: what is computed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import fields

import torch
from torch import Tensor

from gptoss_backend.engine.batch import Batch
from gptoss_backend.engine.block_tables import BlockTables
from gptoss_backend.engine.cache_plan import CachePlan
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
        self._sent = _SentNumbers([(torch.int64, 4, size), (torch.float64, DRAW_LINES, size)], device)
        numbers, self.draws = self._sent.parts
        """draws: the lines of `Draws`, [size] each; a temperature of 0: the likeliest token."""
        self.token_ids, self.positions, self.rows, self.is_real = numbers.unbind()
        """[size] int64 each. token_ids: -1 - n for what the step before chooses for its sample n, until that is taken.
        is_real: 0 where a row is a stand-in: it reads as the first one, writes nothing."""

    def fill(self, batch: Batch, draws: Draws | None) -> None:
        """Send a batch of decodes to the device. draws: None: none."""
        numbers, lines = self._sent.staged()
        _lay_out(batch, numbers)
        if draws is None:
            lines.zero_()
        else:
            lines[:, : batch.num_decodes] = torch.tensor(draws.lines, dtype=torch.float64)
            # whoever stands in for the first row goes on with its token, and so with its experts
            lines[:, batch.num_decodes :] = lines[:, :1]
        self._sent.send()

    @property
    def chunks(self) -> Tensor:
        """There are none."""
        return self.token_ids.new_empty(0, 4, dtype=torch.int32)


class PassRows:
    """Up to `size` tokens of a step with chunks; where there are fewer, the first one stands in for the others."""

    def __init__(self, size: int, num_decodes: int, device: torch.device) -> None:
        """num_decodes: sequences that may decode beside the chunks."""
        self.size = size
        self._num_decodes = min(size, num_decodes)
        self.num_full_tiles = max(1, size // CHUNK_TILE)
        """Of chunks, where all tokens are one chunk's."""
        num_tiles = self._num_decodes + size // CHUNK_TILE + min(size, _PARTIAL_TILES)
        self._sent = _SentNumbers([(torch.int64, 4, size), (torch.int32, num_tiles, 4)], device)
        numbers, tiles = self._sent.parts
        self.token_ids, self.positions, self.rows, self.is_real = numbers.unbind()
        """As in `DecodeRows`."""
        self.decodes, self.chunks = tiles[: self._num_decodes], tiles[self._num_decodes :]
        """Tiles of attention, as `QueryTiles.places`; those that are not needed hold no tokens."""

    def holds(self, batch: Batch) -> bool:
        """Say whether a step fits."""
        num_tiles = sum(-(-chunk.length // CHUNK_TILE) for chunk in batch.chunks)
        return (
            len(batch.token_ids) <= self.size
            and batch.num_decodes <= self._num_decodes
            and num_tiles <= len(self.chunks)
        )

    def fill(self, batch: Batch) -> None:
        """Send a step that fits to the device."""
        numbers, tiles = self._sent.staged()
        _lay_out(batch, numbers)
        tiles.zero_()
        decodes, chunks = decode_tiles(batch), chunk_tiles(batch)
        tiles[: len(decodes)] = decodes
        tiles[self._num_decodes :][: len(chunks)] = chunks
        self._sent.send()


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


class _SentNumbers:
    """Numbers of several dtypes that are staged on the host and come to the device in one copy."""

    def __init__(self, parts: Sequence[tuple[torch.dtype, int, int]], device: torch.device) -> None:
        """parts: a dtype and two sizes each, the widest dtypes first, so that all lie where such numbers may."""
        num_bytes = sum(_sizes(parts))
        self._memory = torch.zeros(num_bytes, dtype=torch.uint8, device=device)
        self.parts = _split(self._memory, parts)
        """The parts on the device"""
        # pinned, so that the copy waits for nothing; two, so that one can be filled while the other is on its way
        staged = [torch.zeros(num_bytes, dtype=torch.uint8, pin_memory=device.type == "cuda") for _ in range(2)]
        self._staged = deque((memory, _split(memory, parts), _Crossing(device)) for memory in staged)

    def staged(self) -> list[Tensor]:
        """Return the parts on the host, to be filled anew, once what was sent last but one is there."""
        _, parts, crossing = self._staged[0]
        crossing.wait()
        return parts

    def send(self) -> None:
        """Send what `staged` returned."""
        memory, _, crossing = self._staged[0]
        self._staged.rotate()
        self._memory.copy_(memory, non_blocking=True)
        crossing.begin()


def _split(memory: Tensor, parts: Sequence[tuple[torch.dtype, int, int]]) -> list[Tensor]:
    pieces = torch.split(memory, _sizes(parts))
    return [piece.view(dtype).view(rows, columns) for piece, (dtype, rows, columns) in zip(pieces, parts, strict=True)]


def _sizes(parts: Sequence[tuple[torch.dtype, int, int]]) -> list[int]:
    return [dtype.itemsize * rows * columns for dtype, rows, columns in parts]


class _Crossing:
    """The way of what is staged on the host to the device: until it is there, nothing else may be staged in its place.

    Not every step is waited for: a chunk without a sample by nobody, a pipeline's steps by its last stage.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        # one that was never recorded counts as done
        self._arrived = torch.cuda.Event() if device.type == "cuda" else None  # type: ignore[no-untyped-call]

    def begin(self) -> None:
        """Note that the copy to the device has been asked for."""
        if self._arrived is not None:
            self._arrived.record(torch.cuda.current_stream(self._device))

    def wait(self) -> None:
        if self._arrived is not None:
            self._arrived.synchronize()


def _lay_out(batch: Batch, lines: Tensor) -> None:
    """Write a step's numbers on the host, [4, size]: ids, positions, rows, and whether a token is real."""
    count = len(batch.positions)
    for line, numbers in zip(lines, (batch.token_ids, batch.positions, batch.rows), strict=False):
        line[:count] = torch.tensor(numbers)
        line[count:] = numbers[0]
    lines[3, :count], lines[3, count:] = 1, 0


class DeviceTables:
    """The block tables on the device, kept up with what the host changes: [num_rows, width] int32."""

    def __init__(self, plan: CachePlan, sliding_window: int, device: torch.device) -> None:
        self.plan = plan
        self.window = sliding_window
        # each begins where 16 bytes do, as Triton sees in any other table: else it would compile other kernels
        self._width = -(-plan.max_blocks_per_row // 4) * 4
        self._both = torch.zeros(2, plan.num_rows, self._width, dtype=torch.int32, device=device)
        self.full, self.sliding = self._both

    def follow(self, tables: BlockTables) -> None:
        """Take over what has changed in the host's tables since the last call."""
        changes = [(table, table.take_changes()) for table in (tables.full, tables.sliding)]
        latest: dict[int, int] = {}
        for number, (_, changed) in enumerate(changes):
            for row, first, entries in changed:
                start = (number * self.plan.num_rows + row) * self._width + first
                latest.update(zip(range(start, start + len(entries)), entries, strict=True))
        if not latest:
            return
        try:
            places, blocks = to_device([list(latest), list(latest.values())], torch.int64, self._both.device)
            self._both.view(-1).index_copy_(0, places, blocks.to(self._both.dtype))
        except RuntimeError:  # the step fails for want of memory; the next one must know of these, too
            for table, changed in changes:
                table.put_back(changed)
            raise
