"""Experts for many rows: pairs sorted by expert, and each expert's rows multiplied tile by tile on the tensor cores.

Owns: the two matmuls of an expert for sorted pairs. The grid is as large as any routing can need, so that the host
need not know how many rows an expert has: each program finds its tile from where the experts' pairs end.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from gptoss_backend.engine.experts import ExpertShape
from gptoss_backend.engine.kernels.activation import swiglu
from gptoss_backend.engine.kernels.mxfp4 import GROWTH, power_of_two, shrunken_values, words_of
from gptoss_backend.engine.kernels.routing import PairOrder
from gptoss_backend.engine.mxfp4 import PackedMatrices


@dataclass(frozen=True, slots=True)
class GemmTile:
    """What a program computes, and how."""

    rows: int
    """Pairs"""
    outputs: int = 128
    """Rows of the matrix"""
    blocks: int = 2
    """MXFP4 blocks multiplied at a time"""
    num_warps: int = 4

    @classmethod
    def for_rows(cls, num_pairs: int, num_experts: int) -> GemmTile:
        """Return the tile for experts that get num_pairs / num_experts rows on average."""
        rows = min(64, max(16, triton.next_power_of_2(num_pairs // num_experts)))
        # the quickest of twelve shapes for each number of rows on an H100, at the 20B's sizes
        return {16: cls(16, outputs=64, blocks=4), 32: cls(32), 64: cls(64, outputs=64)}[rows]

    def most_tiles(self, num_pairs: int, num_experts: int) -> int:
        """Return how many tiles of rows there are at most, however the pairs fall."""
        return num_pairs // self.rows + min(num_experts, num_pairs)


def gate_up_for_sorted(
    hidden: Tensor, order: PairOrder, matrices: PackedMatrices, bias: Tensor, shape: ExpertShape
) -> Tensor:
    """Return SwiGLU(matrix @ row + bias) in the pairs' sorted order, [num_pairs, inner] in hidden's dtype.

    hidden: [num_tokens, hidden]. matrices: [num_experts, 2 * inner, hidden], gate and up rows alternating.
    """
    num_experts, num_outputs, num_blocks = matrices.scales.shape
    num_pairs = len(order.pairs)
    tile = GemmTile.for_rows(num_pairs, num_experts)
    activations = torch.empty(num_pairs, num_outputs // 2, dtype=hidden.dtype, device=hidden.device)
    _gate_up_for_sorted[(tile.most_tiles(num_pairs, num_experts), triton.cdiv(num_outputs, tile.outputs))](
        hidden,
        order.pairs,
        order.ends,
        words_of(matrices),
        matrices.scales,
        bias,
        activations,
        num_outputs,
        num_blocks,
        shape.swiglu_alpha,
        shape.swiglu_limit,
        TOP_K=shape.num_experts_per_token,
        NUM_EXPERTS=num_experts,
        LANES=triton.next_power_of_2(num_experts),
        ROWS=tile.rows,
        OUTPUTS=tile.outputs,
        BLOCKS=tile.blocks,
        num_warps=tile.num_warps,
    )
    return activations


def down_for_sorted(activations: Tensor, order: PairOrder, matrices: PackedMatrices, bias: Tensor) -> Tensor:
    """Return matrix @ row + bias, back in the pairs' own order, [num_pairs, hidden] float32.

    activations: [num_pairs, inner], sorted. matrices: [num_experts, hidden, inner].
    """
    num_experts, num_outputs, num_blocks = matrices.scales.shape
    num_pairs = len(order.pairs)
    tile = GemmTile.for_rows(num_pairs, num_experts)
    outputs = torch.empty(num_pairs, num_outputs, dtype=torch.float32, device=activations.device)
    _down_for_sorted[(tile.most_tiles(num_pairs, num_experts), triton.cdiv(num_outputs, tile.outputs))](
        activations,
        order.pairs,
        order.ends,
        words_of(matrices),
        matrices.scales,
        bias,
        outputs,
        num_outputs,
        num_blocks,
        NUM_EXPERTS=num_experts,
        LANES=triton.next_power_of_2(num_experts),
        ROWS=tile.rows,
        OUTPUTS=tile.outputs,
        BLOCKS=tile.blocks,
        num_warps=tile.num_warps,
    )
    return outputs


@triton.jit
def _gate_up_for_sorted(
    hidden: tl.tensor,
    pairs: tl.tensor,
    ends: tl.tensor,
    words: tl.tensor,
    scales: tl.tensor,
    bias: tl.tensor,
    activations: tl.tensor,
    num_outputs: tl.tensor,
    num_blocks: tl.tensor,
    alpha: tl.tensor,
    limit: tl.tensor,
    TOP_K: tl.constexpr,
    NUM_EXPERTS: tl.constexpr,
    LANES: tl.constexpr,
    ROWS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    BLOCKS: tl.constexpr,
) -> None:
    expert, first_place, end = find_tile(ends, NUM_EXPERTS, LANES, ROWS)
    if first_place >= end:
        return
    places = first_place + tl.arange(0, ROWS)
    tokens = tl.load(pairs + places, mask=places < end, other=0) // TOP_K
    outputs = tl.program_id(1) * OUTPUTS + tl.arange(0, OUTPUTS)
    matrix_rows = expert.to(tl.int64) * num_outputs + outputs
    inside = outputs < num_outputs
    sums = multiply_tile(hidden, tokens, places < end, words, scales, matrix_rows, inside, num_blocks, BLOCKS)
    sums += tl.load(bias + matrix_rows, mask=inside, other=0).to(tl.float32)[None, :]
    gate, up = tl.split(tl.reshape(sums, [ROWS, OUTPUTS // 2, 2]))
    num_inner = num_outputs // 2
    inner = tl.program_id(1) * (OUTPUTS // 2) + tl.arange(0, OUTPUTS // 2)
    activated = swiglu(gate, up, alpha, limit).to(activations.dtype.element_ty)
    within = (places < end)[:, None] & (inner < num_inner)[None, :]
    tl.store(activations + places.to(tl.int64)[:, None] * num_inner + inner[None, :], activated, mask=within)


@triton.jit
def _down_for_sorted(
    activations: tl.tensor,
    pairs: tl.tensor,
    ends: tl.tensor,
    words: tl.tensor,
    scales: tl.tensor,
    bias: tl.tensor,
    outputs: tl.tensor,
    num_outputs: tl.tensor,
    num_blocks: tl.tensor,
    NUM_EXPERTS: tl.constexpr,
    LANES: tl.constexpr,
    ROWS: tl.constexpr,
    OUTPUTS: tl.constexpr,
    BLOCKS: tl.constexpr,
) -> None:
    expert, first_place, end = find_tile(ends, NUM_EXPERTS, LANES, ROWS)
    if first_place >= end:
        return
    places = first_place + tl.arange(0, ROWS)
    columns = tl.program_id(1) * OUTPUTS + tl.arange(0, OUTPUTS)
    matrix_rows = expert.to(tl.int64) * num_outputs + columns
    inside = columns < num_outputs
    sums = multiply_tile(activations, places, places < end, words, scales, matrix_rows, inside, num_blocks, BLOCKS)
    sums += tl.load(bias + matrix_rows, mask=inside, other=0).to(tl.float32)[None, :]
    pair = tl.load(pairs + places, mask=places < end, other=0).to(tl.int64)
    within = (places < end)[:, None] & inside[None, :]
    tl.store(outputs + pair[:, None] * num_outputs + columns[None, :], sums, mask=within)


@triton.jit
def find_tile(
    ends: tl.tensor, NUM_EXPERTS: tl.constexpr, LANES: tl.constexpr, ROWS: tl.constexpr
) -> tuple[tl.tensor, tl.tensor, tl.tensor]:
    """Return this program's (expert, first place, end of the expert's places); beyond the last tile an empty span."""
    experts = tl.arange(0, LANES)
    end = tl.load(ends + experts, mask=experts < NUM_EXPERTS, other=0)
    start = tl.load(ends + experts - 1, mask=(experts > 0) & (experts < NUM_EXPERTS), other=0)
    tiles = (end - start + ROWS - 1) // ROWS
    last_tiles = tl.cumsum(tiles, axis=0)
    tile = tl.program_id(0)
    expert = tl.sum((last_tiles <= tile).to(tl.int32), axis=0)
    mine = experts == expert
    first_place = tl.sum(tl.where(mine, start + (tile - last_tiles + tiles) * ROWS, 0), axis=0)
    return expert, first_place, tl.sum(tl.where(mine, end, 0), axis=0)


@triton.jit
def multiply_tile(
    inputs: tl.tensor,
    input_rows: tl.tensor,
    has_row: tl.tensor,
    words: tl.tensor,
    scales: tl.tensor,
    matrix_rows: tl.tensor,
    inside: tl.tensor,
    num_blocks: tl.tensor,
    BLOCKS: tl.constexpr,
) -> tl.tensor:
    """Return inputs @ matrix.T for some rows of both, float32 [len(input_rows), len(matrix_rows)]."""
    dtype: tl.constexpr = inputs.dtype.element_ty
    OUTPUTS: tl.constexpr = matrix_rows.shape[0]
    sums = tl.zeros([input_rows.shape[0], OUTPUTS], tl.float32)
    input_starts = input_rows.to(tl.int64) * num_blocks * 32
    for first in range(0, num_blocks, BLOCKS):
        block = first + tl.arange(0, BLOCKS)
        value = first * 32 + tl.arange(0, BLOCKS * 32)
        wanted = has_row[:, None] & (value < num_blocks * 32)[None, :]
        rows = tl.load(inputs + input_starts[:, None] + value[None, :], mask=wanted, other=0)
        within = inside[:, None] & (block < num_blocks)[None, :]
        place = matrix_rows[:, None] * num_blocks + block[None, :]
        scale = power_of_two(tl.load(scales + place, mask=within, other=0)) * GROWTH
        packed = tl.load(
            words + place[:, :, None] * 4 + tl.arange(0, 4)[None, None, :], mask=within[:, :, None], other=0
        )
        weights = (shrunken_values(packed).to(tl.float32) * scale[:, :, None]).to(dtype)
        weights = tl.reshape(weights, [OUTPUTS, BLOCKS * 32])
        # float32 inputs are for tests, which want its precision
        sums = tl.dot(rows, tl.trans(weights), sums, input_precision="ieee")
    return sums
