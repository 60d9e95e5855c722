"""What the engine's process says to the others, as bytes.

Owns: the layout of a step on the wire, the mirror of the block tables that its changes keep up to date.
Does not know: connections.

A step is one run of 32-bit integers: seven counts, then the lists they count. All hosts have the same byte order.
"""

from __future__ import annotations

from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor

from gptoss_backend.engine.batch import Batch, Chunk
from gptoss_backend.engine.cache_plan import CachePlan
from gptoss_backend.engine.kv_cache import TableChange

_NUM_COUNTS = 7
_CHUNK_INTS = 4


@dataclass(frozen=True, slots=True)
class StepMessage:
    """One step, and what has changed in the block tables since the one before."""

    batch: Batch
    with_logits: bool
    full_changes: list[TableChange]
    sliding_changes: list[TableChange]

    def encode(self) -> bytes:
        """Return the bytes that `decode` reads."""
        batch = self.batch
        full, sliding = _flat_changes(self.full_changes), _flat_changes(self.sliding_changes)
        chunks = [n for chunk in batch.chunks for n in (chunk.start, chunk.length, chunk.row, chunk.position)]
        numbers = array("i", [len(batch.token_ids), len(batch.samples), batch.num_decodes, len(batch.chunks)])
        numbers.extend([int(self.with_logits), len(full), len(sliding)])
        for part in (batch.token_ids, batch.positions, batch.rows, batch.samples, chunks, full, sliding):
            numbers.extend(part)
        return numbers.tobytes()

    @classmethod
    def decode(cls, raw: bytes) -> StepMessage:
        """Return the step that `encode` wrote."""
        numbers = array("i")
        numbers.frombytes(raw)
        num_tokens, num_samples, num_decodes, num_chunks, with_logits, num_full, num_sliding = numbers[:_NUM_COUNTS]
        place = _NUM_COUNTS

        def take(count: int) -> list[int]:
            nonlocal place
            place += count
            return numbers[place - count : place].tolist()

        token_ids, positions, rows = take(num_tokens), take(num_tokens), take(num_tokens)
        samples, flat = take(num_samples), take(num_chunks * _CHUNK_INTS)
        chunks = [Chunk(*flat[i : i + _CHUNK_INTS]) for i in range(0, len(flat), _CHUNK_INTS)]
        batch = Batch(token_ids, positions, rows, samples, num_decodes, chunks)
        full, sliding = list(_changes(take(num_full))), list(_changes(take(num_sliding)))
        return cls(batch, bool(with_logits), full, sliding)


class MirroredTable:
    """A block table as it is in the engine's process."""

    def __init__(self, plan: CachePlan, window: int | None) -> None:
        self.window = window
        self.table: Tensor = torch.zeros(plan.num_rows, plan.max_blocks_per_row, dtype=torch.int32)
        self._entries = self.table.numpy()

    def apply(self, changes: Iterable[TableChange]) -> None:
        """Bring it up to date."""
        for row, start, entries in changes:
            self._entries[row, start : start + len(entries)] = entries


class MirroredTables:
    """Both block tables of a cache whose accounting is elsewhere."""

    def __init__(self, plan: CachePlan, sliding_window: int) -> None:
        self.plan = plan
        self.full = MirroredTable(plan, None)
        self.sliding = MirroredTable(plan, sliding_window)

    def apply(self, message: StepMessage) -> None:
        """Bring them to where they were when the step was launched."""
        self.full.apply(message.full_changes)
        self.sliding.apply(message.sliding_changes)


def _flat_changes(changes: list[TableChange]) -> list[int]:
    return [number for row, start, entries in changes for number in (row, start, len(entries), *entries)]


def _changes(numbers: list[int]) -> Iterator[TableChange]:
    place = 0
    while place < len(numbers):
        row, start, count = numbers[place : place + 3]
        place += 3 + count
        yield row, start, numbers[place - count : place]
