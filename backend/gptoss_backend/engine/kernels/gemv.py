"""Experts for few rows: a matrix times a vector for one (token, expert) pair at a time.

Owns: the two matmuls of an expert for such pairs. A program computes a few outputs of one pair from whole rows of its
expert's matrix: every byte of weights is read once, and a row's sum has the same order whatever else is in the batch.

Unpacking is what bounds them, rather than the memory. The tensor cores, though their eight columns all compute the
same, take the widening to float32 and the multiplication off the other units; cards before Ampere do without.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from gptoss_backend.engine.config import BLOCK_VALUES
from gptoss_backend.engine.experts import ExpertShape
from gptoss_backend.engine.kernels.activation import swiglu
from gptoss_backend.engine.kernels.dependent_launch import launch_options, wait_for_inputs
from gptoss_backend.engine.kernels.mxfp4 import (
    EASE,
    GROWTH,
    factor_type,
    place_in_lanes,
    power_of_two,
    restored,
    rows_of_scales,
    scales_of_rows,
    shrunken_values,
    weights_in_lanes,
    words_of,
)
from gptoss_backend.engine.kernels.routing import Routes
from gptoss_backend.engine.mxfp4 import PackedMatrices

_COLUMNS = tl.constexpr(8)
"""Of the smallest tile that a tensor core multiplies with."""
_WIDTH = tl.constexpr(4)
"""Of the lanes' order: each warp multiplies for itself, by the instruction that Hopper shares with older cards."""


@dataclass(frozen=True, slots=True)
class GemvTile:
    """What a program reads at a time."""

    rows: int
    blocks: int
    """MXFP4 blocks of a row, in each part"""
    parts: int = 1
    """Of a row, one for each warp; 0 without tensor cores, where one warp reads it all"""
    num_stages: int = 3

    @property
    def num_warps(self) -> int:
        """One for each part."""
        return max(1, self.parts)

    @property
    def width(self) -> int:
        """Of the lanes' order that vectors are in (`mxfp4.py`); 0: their own."""
        return _WIDTH.value if self.parts else 0

    def padded(self, num_values: int) -> int:
        """Return how many values a vector of so many has in memory."""
        at_a_time = self.parts * self.blocks * BLOCK_VALUES
        return -(-num_values // at_a_time) * at_a_time if self.parts else num_values


@dataclass(frozen=True, slots=True)
class GemvTiles:
    """Of an expert's two matmuls."""

    gate_up: GemvTile
    down: GemvTile


# the second matmul has half of the first's programs, which four parts each make up for: as many bytes are under way
TENSOR_CORES = GemvTiles(
    gate_up=GemvTile(rows=16, blocks=4, parts=2, num_stages=4), down=GemvTile(rows=16, blocks=4, parts=4, num_stages=4)
)
# 16 blocks of 16 bytes: two rows are a warp's widest loads. On an H100 for one token 4 rows take 39.0 µs for both
# matmuls of the 20B, 8 take 42.9, 16 with four warps 41.6
NO_TENSOR_CORES = GemvTiles(*2 * [GemvTile(rows=4, blocks=16, parts=0)])


def gate_up_for_pairs(
    rows: Tensor, routes: Routes, matrices: PackedMatrices, bias: Tensor, shape: ExpertShape, tiles: GemvTiles
) -> Tensor:
    """Return SwiGLU(matrix @ row + bias) of each pair, [num_pairs, padded inner] in the rows' dtype.

    rows: [num_tokens, padded hidden], in the order and with the zeros that the first tile wants; what is returned is so
    for the second. matrices: [num_experts, 2 * inner, hidden], gate and up rows alternating.
    """
    tile = tiles.gate_up
    num_outputs, num_blocks = matrices.scales.shape[1:]
    num_pairs, padded = routes.experts.numel(), tiles.down.padded(num_outputs // 2)
    activations = torch.empty(num_pairs, padded, dtype=rows.dtype, device=rows.device)
    _gate_up_for_pairs[(triton.cdiv(2 * padded, tile.rows), num_pairs)](
        rows,
        routes.experts,
        words_of(matrices),
        matrices.scales,
        bias,
        activations,
        num_outputs,
        num_blocks,
        padded,
        shape.swiglu_alpha,
        shape.swiglu_limit,
        TOP_K=shape.num_experts_per_token,
        ROWS=tile.rows,
        PARTS=tile.parts,
        BLOCKS=tile.blocks,
        DTYPE=factor_type(rows),
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
        **launch_options(),
    )
    return activations


def down_for_pairs(
    activations: Tensor, routes: Routes, matrices: PackedMatrices, bias: Tensor, tile: GemvTile
) -> Tensor:
    """Return matrix @ row + bias of each pair, [num_pairs, hidden] float32.

    activations: of `gate_up_for_pairs`. matrices: [num_experts, hidden, inner].
    """
    num_outputs, num_blocks = matrices.scales.shape[1:]
    num_pairs = len(activations)
    outputs = torch.empty(num_pairs, num_outputs, dtype=torch.float32, device=activations.device)
    _down_for_pairs[(triton.cdiv(num_outputs, tile.rows), num_pairs)](
        activations,
        routes.experts,
        words_of(matrices),
        matrices.scales,
        bias,
        outputs,
        num_outputs,
        num_blocks,
        ROWS=tile.rows,
        PARTS=tile.parts,
        BLOCKS=tile.blocks,
        DTYPE=factor_type(activations),
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
        **launch_options(),
    )
    return outputs


@triton.jit
def _gate_up_for_pairs(
    rows: tl.tensor,
    experts: tl.tensor,
    words: tl.tensor,
    scales: tl.tensor,
    bias: tl.tensor,
    activations: tl.tensor,
    num_outputs: tl.tensor,
    num_blocks: tl.tensor,
    padded: tl.tensor,
    alpha: tl.tensor,
    limit: tl.tensor,
    TOP_K: tl.constexpr,
    ROWS: tl.constexpr,
    PARTS: tl.constexpr,
    BLOCKS: tl.constexpr,
    DTYPE: tl.constexpr,
    DEPENDENT: tl.constexpr,
) -> None:
    wait_for_inputs(DEPENDENT)
    tile, pair = tl.program_id(0), tl.program_id(1).to(tl.int64)
    inner = tile * (ROWS // 2) + tl.arange(0, ROWS // 2)
    target = inner
    if PARTS:
        target = place_in_lanes(inner, _WIDTH)
    target += pair * padded
    if tile * ROWS >= num_outputs:
        tl.store(activations + target, tl.zeros([ROWS // 2], activations.dtype.element_ty), mask=inner < padded)
        return
    outputs = tile * ROWS + tl.arange(0, ROWS)
    expert_start = tl.load(experts + pair).to(tl.int64) * num_outputs
    vector = rows + pair // TOP_K * _padded(num_blocks, PARTS, BLOCKS)
    first_row, num_rows = expert_start + tile * ROWS, num_outputs - tile * ROWS
    added = tl.load(bias + expert_start + outputs, mask=outputs < num_outputs, other=0).to(tl.float32)
    sums = dot_rows(vector, words, scales, first_row, num_rows, num_blocks, ROWS, PARTS, BLOCKS, DTYPE) + added
    gate, up = tl.split(tl.reshape(sums, [ROWS // 2, 2]))
    # beyond the last output SwiGLU makes zeros of zeros
    tl.store(activations + target, swiglu(gate, up, alpha, limit).to(activations.dtype.element_ty), mask=inner < padded)


@triton.jit
def _padded(num_blocks: tl.tensor, PARTS: tl.constexpr, BLOCKS: tl.constexpr) -> tl.tensor:
    """Return how many values a vector of so many blocks has in memory, as `GemvTile.padded`."""
    if PARTS:
        num_blocks = tl.cdiv(num_blocks, PARTS * BLOCKS) * PARTS * BLOCKS
    return num_blocks * 32


@triton.jit
def _down_for_pairs(
    activations: tl.tensor,
    experts: tl.tensor,
    words: tl.tensor,
    scales: tl.tensor,
    bias: tl.tensor,
    outputs: tl.tensor,
    num_outputs: tl.tensor,
    num_blocks: tl.tensor,
    ROWS: tl.constexpr,
    PARTS: tl.constexpr,
    BLOCKS: tl.constexpr,
    DTYPE: tl.constexpr,
    DEPENDENT: tl.constexpr,
) -> None:
    wait_for_inputs(DEPENDENT)
    tile, pair = tl.program_id(0), tl.program_id(1).to(tl.int64)
    columns = tile * ROWS + tl.arange(0, ROWS)
    expert_start = tl.load(experts + pair).to(tl.int64) * num_outputs
    inside = columns < num_outputs
    vector = activations + pair * _padded(num_blocks, PARTS, BLOCKS)
    first_row, num_rows = expert_start + tile * ROWS, num_outputs - tile * ROWS
    added = tl.load(bias + expert_start + columns, mask=inside, other=0).to(tl.float32)
    sums = dot_rows(vector, words, scales, first_row, num_rows, num_blocks, ROWS, PARTS, BLOCKS, DTYPE) + added
    tl.store(outputs + pair * num_outputs + columns, sums, mask=inside)


@triton.jit
def dot_rows(
    vector: tl.tensor,
    words: tl.tensor,
    scales: tl.tensor,
    first_row: tl.tensor,
    num_rows: tl.tensor,
    num_blocks: tl.tensor,
    ROWS: tl.constexpr,
    PARTS: tl.constexpr,
    BLOCKS: tl.constexpr,
    DTYPE: tl.constexpr,
) -> tl.tensor:
    """Return the products of packed rows with a vector of num_blocks * 32, [ROWS] float32; zeros beyond num_rows.

    vector: in the lanes' order and padded where PARTS is not 0. first_row: int64. num_rows: how many rows there are
    from it on, which may be more than ROWS.
    """
    if PARTS == 0:
        row = tl.arange(0, ROWS)
        sums = _dot_in_registers(vector, words, scales, first_row + row, row < num_rows, num_blocks, BLOCKS)
    else:  # Triton compiles what follows an `if`, whatever that says
        sums = _dot_on_tensor_cores(vector, words, scales, first_row, num_rows, num_blocks, ROWS, PARTS, BLOCKS, DTYPE)
    return sums


@triton.jit
def _dot_on_tensor_cores(
    vector: tl.tensor,
    words: tl.tensor,
    scales: tl.tensor,
    first_row: tl.tensor,
    num_rows: tl.tensor,
    num_blocks: tl.tensor,
    ROWS: tl.constexpr,
    PARTS: tl.constexpr,
    BLOCKS: tl.constexpr,
    DTYPE: tl.constexpr,
) -> tl.tensor:
    row = tl.arange(0, ROWS)[None, :, None]
    starts = words + (first_row + row) * num_blocks * 4
    part = tl.arange(0, PARTS)[:, None, None]
    place = rows_of_scales(PARTS, ROWS)[:, None]
    scale_starts, has_scale = scales + (first_row + place % ROWS) * num_blocks, place % ROWS < num_rows
    scale_block = place // ROWS * BLOCKS + tl.arange(0, BLOCKS)[None, :]
    scale = tl.load(scale_starts + scale_block, mask=has_scale & (scale_block < num_blocks), other=0)
    sums = tl.zeros([PARTS, ROWS, _COLUMNS], tl.float32)
    for first in range(0, num_blocks, PARTS * BLOCKS):
        begin = first + part * BLOCKS
        word = begin * 4 + tl.arange(0, BLOCKS * 4)[None, None, :]
        packed = tl.load(starts + word, mask=(row < num_rows) & (word < num_blocks * 4), other=0)
        # a byte cannot be copied asynchronously: what is asked for here arrives while this round is computed
        block = first + PARTS * BLOCKS + scale_block
        next_scale = tl.load(scale_starts + block, mask=has_scale & (block < num_blocks), other=0)
        packed = tl.reshape(packed, [PARTS * ROWS, BLOCKS * 4])
        weights = weights_in_lanes(packed, scales_of_rows(scale, PARTS), DTYPE, _WIDTH)
        weights = tl.reshape(weights, [PARTS, ROWS, BLOCKS * 32])
        value = begin * 32 + tl.arange(0, BLOCKS * 32)[None, :, None]
        columns = tl.broadcast_to(tl.load(vector + value).to(DTYPE), [PARTS, BLOCKS * 32, _COLUMNS])
        # float32 inputs are for tests, which want its precision
        sums = tl.dot(weights, columns, sums, input_precision="ieee")
        scale = next_scale
    # the vector is in every column, so that one load serves all lanes
    return restored(tl.max(tl.sum(sums, axis=0), axis=1), DTYPE)


@triton.jit
def _dot_in_registers(
    vector: tl.tensor,
    words: tl.tensor,
    scales: tl.tensor,
    rows: tl.tensor,
    inside: tl.tensor,
    num_blocks: tl.tensor,
    BLOCKS: tl.constexpr,
) -> tl.tensor:
    sums = tl.zeros([rows.shape[0], BLOCKS], tl.float32)
    for first in range(0, num_blocks, BLOCKS):
        block = first + tl.arange(0, BLOCKS)
        within = inside[:, None] & (block < num_blocks)[None, :]
        place = rows[:, None] * num_blocks + block[None, :]
        scale = power_of_two(tl.load(scales + place, mask=within, other=0))
        packed = tl.load(
            words + place[:, :, None] * 4 + tl.arange(0, 4)[None, None, :], mask=within[:, :, None], other=0
        )
        value = block[:, None] * 32 + tl.arange(0, 32)[None, :]
        # eased, products with weights divided by GROWTH are no subnormals
        values = tl.load(vector + value, mask=(block < num_blocks)[:, None], other=0).to(tl.float32) * EASE
        sums += tl.sum(shrunken_values(packed) * values[None, :, :], axis=2) * scale
    return tl.sum(sums, axis=1) * (GROWTH / EASE)
