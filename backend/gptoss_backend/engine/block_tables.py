"""Where the layers of a model find the blocks of their sequences' keys and values.

Owns: `BlockTable`, one attention kind's table on the host, and what has changed in it since it was last mirrored.
Does not know: who holds which block, devices.
"""

from __future__ import annotations

from typing import Protocol

import torch

from gptoss_backend.engine.cache_plan import CachePlan

TableChange = tuple[int, int, list[int]]
"""(row, first index, new entries) of a block table."""


class BlockTable:
    """A table of the layers of one attention kind."""

    def __init__(self, window: int | None, plan: CachePlan) -> None:
        """window: positions that a query sees, itself included; None: all."""
        self.window = window
        self.table = torch.zeros(plan.num_rows, plan.max_blocks_per_row, dtype=torch.int32)
        """[num_rows, max_blocks_per_row] int32, on the host."""
        self._entries = self.table.numpy()  # the same memory; writing one entry is ten times cheaper this way
        self._changes: list[TableChange] | None = None  # None: nobody has asked yet

    def write(self, row: int, first: int, entries: list[int]) -> None:
        """Set consecutive entries of a row."""
        if not entries:
            return
        self._entries[row, first : first + len(entries)] = entries
        if self._changes is not None:
            self._changes.append((row, first, entries))

    def take_changes(self) -> list[TableChange]:
        """Return what has changed since the last call; at the first one, all that the table holds."""
        changes, self._changes = self._changes, []
        if changes is not None:
            return changes
        return [(row, 0, entries) for row, entries in enumerate(self._entries.tolist()) if any(entries)]

    def put_back(self, changes: list[TableChange]) -> None:
        """Take changes back that were taken and did not get to where they were to."""
        self._changes = changes + (self._changes or [])


class BlockTables(Protocol):
    """All that a forward pass has to know of the cache."""

    @property
    def plan(self) -> CachePlan:
        """The cache's size."""

    @property
    def full(self) -> BlockTable:
        """Of the layers that see everything."""

    @property
    def sliding(self) -> BlockTable:
        """Of the layers that see a window."""
