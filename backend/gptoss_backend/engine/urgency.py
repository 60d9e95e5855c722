"""Sequences in the order in which they are served.

Stage 4 of a request: schedule. Owns: the sorted list, found in by binary search.
Does not know: what makes one sequence more urgent than another (scheduler.py).
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator

from gptoss_backend.engine.sequence import Sequence


class ByUrgency:
    """Sequences from the most to the least urgent. Adding and removing cost a binary search."""

    def __init__(self) -> None:
        self._sequences: list[Sequence] = []

    def __len__(self) -> int:
        return len(self._sequences)

    def __getitem__(self, index: int) -> Sequence:
        return self._sequences[index]

    def __iter__(self) -> Iterator[Sequence]:
        return iter(self._sequences)

    def __contains__(self, sequence: Sequence) -> bool:
        index = bisect_left(self._sequences, sequence.rank, key=_rank)
        return index < len(self._sequences) and self._sequences[index] is sequence

    def add(self, sequence: Sequence) -> None:
        """Put a sequence in its place."""
        insort(self._sequences, sequence, key=_rank)

    def remove(self, sequence: Sequence) -> None:
        """Take a sequence out, which must be in."""
        index = bisect_left(self._sequences, sequence.rank, key=_rank)
        assert self._sequences[index] is sequence, "ranks are unique and do not change"  # noqa: S101
        del self._sequences[index]


def _rank(sequence: Sequence) -> tuple[float, int]:
    return sequence.rank
