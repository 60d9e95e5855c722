"""What the engine's process says to the others, as bytes.

Owns: the layout of a step on the wire, the mirror of the block tables that its changes keep up to date.
Does not know: connections.

A step is one run of 32-bit integers, eight counts and then the lists they count, and behind it the numbers that tokens
are drawn by, 64-bit floats. All hosts have the same byte order.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterator
from dataclasses import dataclass, fields
from itertools import chain

from gptoss_backend.engine.batch import Batch, Chunk
from gptoss_backend.engine.block_tables import BlockTable, TableChange
from gptoss_backend.engine.cache_plan import CachePlan
from gptoss_backend.engine.model import Draws

_NUM_COUNTS = 8
_CHUNK_INTS = 4


@dataclass(frozen=True, slots=True)
class StepMessage:
    """One step, and what has changed in the block tables since the one before."""

    batch: Batch
    with_logits: bool
    draws: Draws | None
    full_changes: list[TableChange]
    sliding_changes: list[TableChange]

    def encode(self) -> bytes:
        """Return the bytes that `decode` reads."""
        batch, draws = self.batch, self.draws
        full, sliding = _flat_changes(self.full_changes), _flat_changes(self.sliding_changes)
        chunks = [n for chunk in batch.chunks for n in (chunk.start, chunk.length, chunk.row, chunk.position)]
        numbers = array("i", [len(batch.positions), len(batch.samples), batch.num_decodes, len(batch.chunks)])
        numbers.extend([int(self.with_logits), int(draws is not None), len(full), len(sliding)])
        for part in (batch.token_ids, batch.positions, batch.rows, batch.samples, chunks, full, sliding):
            numbers.extend(part)
        drawn = array("d") if draws is None else array("d", chain.from_iterable(draws.lines))
        return numbers.tobytes() + drawn.tobytes()

    @classmethod
    def decode(cls, raw: bytes) -> StepMessage:
        """Return the step that `encode` wrote."""
        reader = _Reader(raw)
        num_tokens, num_samples, num_decodes, num_chunks, *rest = reader.take(_NUM_COUNTS)
        with_logits, has_draws, num_full, num_sliding = rest
        token_ids, positions, rows = (reader.take(num_tokens) for _ in range(3))
        samples = reader.take(num_samples)
        flat = reader.take(num_chunks * _CHUNK_INTS)
        chunks = [Chunk(*flat[i : i + _CHUNK_INTS]) for i in range(0, len(flat), _CHUNK_INTS)]
        batch = Batch(token_ids, positions, rows, samples, num_decodes, chunks)
        full, sliding = list(_changes(reader.take(num_full))), list(_changes(reader.take(num_sliding)))
        draws = _draws_of(reader.rest) if has_draws else None
        return cls(batch, bool(with_logits), draws, full, sliding)


class _Reader:
    def __init__(self, raw: bytes) -> None:
        self._raw = raw
        self._place = 0

    def take(self, count: int) -> list[int]:
        """Return the next integers."""
        numbers = array("i")
        end = self._place + count * numbers.itemsize
        numbers.frombytes(self._raw[self._place : end])
        self._place = end
        return numbers.tolist()

    @property
    def rest(self) -> bytes:
        return self._raw[self._place :]


def _draws_of(raw: bytes) -> Draws:
    numbers = array("d")
    numbers.frombytes(raw)
    num_lines = len(fields(Draws))
    count = len(numbers) // num_lines
    return Draws(*(numbers[line * count : (line + 1) * count].tolist() for line in range(num_lines)))


class MirroredTables:
    """Both block tables of a cache whose accounting is elsewhere."""

    def __init__(self, plan: CachePlan, sliding_window: int) -> None:
        self.plan = plan
        self.full = BlockTable(None, plan)
        self.sliding = BlockTable(sliding_window, plan)

    def apply(self, message: StepMessage) -> None:
        """Bring them to where they were when the step was launched."""
        for table, changes in ((self.full, message.full_changes), (self.sliding, message.sliding_changes)):
            for change in changes:
                table.write(*change)


def _flat_changes(changes: list[TableChange]) -> list[int]:
    return [number for row, start, entries in changes for number in (row, start, len(entries), *entries)]


def _changes(numbers: list[int]) -> Iterator[TableChange]:
    place = 0
    while place < len(numbers):
        row, start, count = numbers[place : place + 3]
        place += 3 + count
        yield row, start, numbers[place - count : place]
