"""Random steps over a random paged cache, for attention kernels to be compared on."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from gptoss_backend.engine.batch import Batch, Chunk
from gptoss_backend.engine.cache_plan import CachePlan
from gptoss_backend.engine.operators import Projection
from gptoss_backend.engine.precision import FLOAT8

BLOCK_SIZE = 16


@dataclass(frozen=True, slots=True)
class Heads:
    """The shape of one layer's attention."""

    num_heads: int
    num_kv_heads: int
    head_dim: int


@dataclass(frozen=True, slots=True)
class Table:
    """One layer group's block table."""

    table: Tensor
    window: int | None


@dataclass(frozen=True, slots=True)
class Tables:
    """Block tables that nobody keeps accounts of."""

    plan: CachePlan
    full: Table
    sliding: Table


@dataclass(frozen=True, slots=True)
class AttentionCase:
    """A step and one layer's memory."""

    batch: Batch
    tables: Tables
    shape: Heads
    heads: Tensor
    keys: Tensor
    values: Tensor
    sinks: Tensor

    @classmethod
    def random(
        cls,
        decodes: list[int],
        chunks: list[tuple[int, int]],
        shape: Heads,
        *,
        window: int,
        dtype: torch.dtype,
        device: torch.device,
        cache_dtype: torch.dtype | None = None,
    ) -> AttentionCase:
        """Draw a step of sequences decoding at these positions, and chunks of (position, length).

        Blocks lie in no order, rows of the tables neither; blocks before a window are the null block. cache_dtype: of
        keys and values; None: as the heads.
        """
        starts = [(position, 1) for position in decodes] + chunks
        num_rows, width = len(starts) + 1, max(-(-sum(start) // BLOCK_SIZE) for start in starts)
        generator = torch.Generator().manual_seed(17)
        full = 1 + torch.randperm(num_rows * width, generator=generator).view(num_rows, width).int()
        rows = torch.randperm(num_rows, generator=generator)[: len(starts)].tolist()
        sliding = full.clone()
        for row, (position, _) in zip(rows, starts, strict=True):
            sliding[row, : max(0, position - window + 1) // BLOCK_SIZE] = 0
        num_blocks = num_rows * width + 1
        memory = (shape.num_kv_heads, num_blocks * BLOCK_SIZE, shape.head_dim)

        def normal(*sizes: int) -> Tensor:
            return torch.randn(sizes, generator=generator).to(device, dtype)

        batch = _batch(starts, rows, len(decodes))
        return cls(
            batch,
            Tables(
                CachePlan(BLOCK_SIZE, num_rows, width * BLOCK_SIZE, num_blocks, num_blocks, 0),
                Table(full, None),
                Table(sliding, window),
            ),
            shape,
            normal(len(batch.token_ids), (shape.num_heads + 2 * shape.num_kv_heads) * shape.head_dim),
            normal(*memory).to(cache_dtype),
            normal(*memory).to(cache_dtype),
            normal(shape.num_heads).float(),
        )

    def widened(self) -> AttentionCase:
        """Return the same numbers in float64, in which what is computed counts as exact; a float8 cache stays one."""
        keys, values = (
            (self.keys, self.values) if self.keys.dtype == FLOAT8 else (self.keys.double(), self.values.double())
        )
        return dataclasses.replace(self, heads=self.heads.double(), keys=keys, values=values)

    def identity(self) -> Projection:
        """Return what makes queries, keys and values of `heads`, which are these."""
        size = self.heads.shape[1]
        return Projection(torch.eye(size, dtype=self.heads.dtype, device=self.heads.device), None)

    def slot(self, row: int, position: int) -> int:
        """Return where a position of full layers lives."""
        return int(self.tables.full.table[row, position // BLOCK_SIZE]) * BLOCK_SIZE + position % BLOCK_SIZE


def _batch(starts: list[tuple[int, int]], rows: list[int], num_decodes: int) -> Batch:
    batch = Batch([], [], [], [], num_decodes, [])
    for index, ((position, length), row) in enumerate(zip(starts, rows, strict=True)):
        if index >= num_decodes:
            batch.chunks.append(Chunk(len(batch.token_ids), length, row, position))
        batch.token_ids.extend([0] * length)
        batch.positions.extend(range(position, position + length))
        batch.rows.extend([row] * length)
    return batch
