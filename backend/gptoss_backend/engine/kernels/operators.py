"""A step's attention, norms and matmuls by the kernels in here; the torch reference is `engine/operators.py`.

Owns: what a step's kernels are told of its batch. Nothing waits for the device.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from gptoss_backend.engine.batch import Batch
from gptoss_backend.engine.block_tables import BlockTable, BlockTables
from gptoss_backend.engine.experts import Addition, Mixture
from gptoss_backend.engine.int8 import Matrix
from gptoss_backend.engine.kernels.attention import PagedCache, QueryTiles, attend_tiles, splits_for
from gptoss_backend.engine.kernels.norm import Norm, add_and_norm, sum_mixture
from gptoss_backend.engine.kernels.qkv import project_and_store
from gptoss_backend.engine.kernels.rotary import rotate_and_store
from gptoss_backend.engine.kernels.skinny import MOST_ROWS, multiply_few
from gptoss_backend.engine.kernels.step_inputs import (
    CHUNK_TILE,
    DecodeRows,
    DeviceTables,
    PassRows,
    chunk_tiles,
    decode_tiles,
)
from gptoss_backend.engine.kernels.step_setup import set_up
from gptoss_backend.engine.operators import LayerCache, Projection, TorchOperators
from gptoss_backend.engine.rope import RotaryEmbedding
from gptoss_backend.engine.transfer import sent, to_device

# one long row among many short ones must not be read by a single program
_LEAST_DECODE_SPLITS = 8


class KernelOperators:
    """What a forward pass is made of besides experts, as kernels in the Triton language."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def attention(
        self, batch: Batch, tables: BlockTables, rope: RotaryEmbedding, dtype: torch.dtype, first: int = 0
    ) -> _KernelAttention:
        """Tell the device where the step's tokens stand, and make what all layers share.

        Angles stay float32, whatever `dtype` is: a rotation is rounded once.
        """
        device, block_size = self._device, tables.plan.block_size
        positions, rows = to_device([batch.positions, batch.rows], torch.int64, device)
        longest = max(batch.positions) + 1
        groups = [_Group.of(group, rows, positions, longest, block_size, device) for group in _both(tables)]
        return _KernelAttention(
            rotation=rope.angles(positions, torch.float32),
            block_size=block_size,
            longest=longest,
            full=groups[0],
            sliding=groups[1],
            decodes=sent(decode_tiles(batch), device),
            chunks=sent(chunks := chunk_tiles(batch), device),
            num_chunk_tiles=len(chunks),
            first=first,
        )

    def recorded_attention(
        self, rows: DecodeRows | PassRows, tables: DeviceTables, rope: RotaryEmbedding, chosen: Tensor, first: int = 0
    ) -> _KernelAttention:
        """Do the same for a step that is recorded, by what is on the device already: nothing here waits or varies.

        The longest context that there may be settles into how many parts all contexts' keys are divided. chosen: int64,
        by the step before, which takes its places in `rows.token_ids`.
        """
        shared = set_up(rows, tables, rope, chosen)
        return _KernelAttention(
            rotation=shared.rotation,
            block_size=tables.plan.block_size,
            longest=tables.plan.max_model_len,
            full=_Group(tables.full, shared.full_slots, None),
            sliding=_Group(tables.sliding, shared.sliding_slots, tables.window),
            decodes=shared.decodes if isinstance(rows, DecodeRows) else rows.decodes,
            chunks=rows.chunks,
            num_chunk_tiles=0 if isinstance(rows, DecodeRows) else rows.num_full_tiles,
            first=first,
            has_stand_ins=isinstance(rows, PassRows),
        )

    def add_and_norm(
        self, hidden: Tensor, addition: Addition | None, weight: Tensor, eps: float, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        """Add and normalise in one kernel, as `Operators` says."""
        with torch.cuda.device_of(hidden):  # type: ignore[no-untyped-call]
            return add_and_norm(hidden, addition, Norm(weight, eps, dtype))

    @staticmethod
    def sum(addition: Addition) -> Tensor:
        """Sum in one kernel, as `Operators` says."""
        return sum_mixture(addition) if isinstance(addition, Mixture) else addition

    @staticmethod
    def linear(rows: Tensor, weight: Matrix, bias: Tensor | None = None, *, out: Tensor | None = None) -> Tensor:
        """Multiply few rows in one kernel, many as torch does, as `Operators` says."""
        if not _are_few(rows):
            return TorchOperators.linear(rows, weight, bias, out=out)
        with torch.cuda.device_of(rows):  # type: ignore[no-untyped-call]
            return multiply_few(rows, weight, bias, out=out)

    @staticmethod
    def project(rows: Tensor, weight: Matrix, bias: Tensor) -> Tensor:
        """Multiply few rows in one kernel, whose float32 sums need not be made smaller for float16."""
        if not _are_few(rows):
            return TorchOperators.project(rows, weight, bias)
        dtype = torch.float32 if rows.dtype == torch.float16 else rows.dtype
        with torch.cuda.device_of(rows):  # type: ignore[no-untyped-call]
            return multiply_few(rows, weight, bias, dtype=dtype)


@dataclass(frozen=True, slots=True)
class _Group:
    """One layer group in one step."""

    table: Tensor
    slots: Tensor
    window: int | None

    @classmethod
    def of(
        cls, group: BlockTable, rows: Tensor, positions: Tensor, longest: int, block_size: int, device: torch.device
    ) -> _Group:
        # no more of the table's width than the longest context takes: at 131,072 positions it is 32 KiB a row
        table = sent(group.table[:, : -(-longest // block_size)].contiguous(), device)
        slots = table[rows, positions // block_size].long() * block_size + positions % block_size
        return cls(table, slots, group.window)


@dataclass(slots=True)
class _KernelAttention:
    rotation: tuple[Tensor, Tensor]
    block_size: int
    longest: int
    full: _Group
    sliding: _Group
    decodes: Tensor
    chunks: Tensor
    num_chunk_tiles: int
    """With tokens: of a recorded pass, when it is full of one chunk"""
    first: int = 0
    has_stand_ins: bool = False
    """Whether there are tokens that are in no tile"""
    _kept: Tensor | None = None
    """What was attended last, [num_tokens, num_heads, head_dim], where there are such tokens"""

    def attend(self, rows: Tensor, qkv: Projection, cache: LayerCache, sinks: Tensor) -> Tensor:
        group = self.sliding if cache.is_sliding else self.full
        paged = PagedCache(cache.keys, cache.values, group.table, self.block_size, group.window, self.first)
        memory = self.rotation, group.slots, cache.keys, cache.values
        with torch.cuda.device_of(rows):  # type: ignore[no-untyped-call]
            if _are_few(rows):
                queries = project_and_store(rows, qkv.weight, qkv.bias, *memory)
            else:
                queries = rotate_and_store(TorchOperators.linear(rows, qkv.weight, qkv.bias), *memory)
            output = self._room_for(queries)
            # decodes come first, so only they need memory for the parts into which their many keys are divided
            for places, num_tiles, width, least, count in (
                (self.decodes, len(self.decodes), 1, _LEAST_DECODE_SPLITS, len(self.decodes)),
                (self.chunks, self.num_chunk_tiles, CHUNK_TILE, 1, len(queries)),
            ):
                if len(places):
                    num_splits = splits_for(num_tiles, len(cache.keys), self.longest, least)
                    tiles = QueryTiles(places, width, num_splits)
                    attend_tiles(queries[:count], paged, sinks, tiles, output[:count])
        return output.flatten(1)

    def _room_for(self, queries: Tensor) -> Tensor:
        """Return what attention is written to; in it a token that only stands in says nothing, rather than anything."""
        if not self.has_stand_ins:
            return torch.empty_like(queries)
        if self._kept is None:
            self._kept = torch.zeros_like(queries)
        return self._kept  # the layer before is done with it, and wrote what this one does


def _are_few(rows: Tensor) -> bool:
    return 0 < len(rows) <= MOST_ROWS


def _both(tables: BlockTables) -> tuple[BlockTable, BlockTable]:
    return tables.full, tables.sliding
