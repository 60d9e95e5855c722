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
from gptoss_backend.engine.kernels.dependent_launch import launch_options, wait_for_inputs
from gptoss_backend.engine.kernels.mxfp4 import eased_weights, factor_type, restored, shuffled, words_of
from gptoss_backend.engine.kernels.routing import PairOrder
from gptoss_backend.engine.mxfp4 import PackedMatrices


@dataclass(frozen=True, slots=True)
class GemmTile:
    """What a program computes, and how."""

    rows: int
    """Pairs"""
    outputs: int = 64
    """Rows of the matrix"""
    blocks: int = 4
    """MXFP4 blocks multiplied at a time"""
    num_warps: int = 4
    num_stages: int = 3

    @classmethod
    def for_rows(cls, num_pairs: int, num_experts: int) -> GemmTile:
        """Return the tile for experts that get num_pairs / num_experts rows on average."""
        # twice the average: nearly every expert's rows fit, and each tile more reads and unpacks its weights again
        rows = min(64, max(16, triton.next_power_of_2(2 * num_pairs // num_experts)))
        # rows come once for each tile of outputs, which is most of what such a tile reads
        return cls(rows) if rows < 64 else cls(rows, outputs=128, num_warps=8)

    def most_tiles(self, num_pairs: int, num_experts: int) -> int:
        """Return how many tiles of rows there are at most, however the pairs fall."""
        return num_pairs // self.rows + min(num_experts, num_pairs)

    def grid(self, num_outputs: int, num_pairs: int, num_experts: int) -> tuple[int, int]:
        """Return the programs for so many outputs of each pair: tiles of outputs, tiles of rows.

        The first axis runs first, so the tiles of rows that no expert needs come last, when all others are under way.
        """
        return triton.cdiv(num_outputs, self.outputs), self.most_tiles(num_pairs, num_experts)


def gate_up_for_sorted(
    hidden: Tensor, order: PairOrder, matrices: PackedMatrices, bias: Tensor, shape: ExpertShape, tile: GemmTile
) -> Tensor:
    """Return SwiGLU(matrix @ row + bias) in the pairs' sorted order, [num_pairs, inner] in hidden's dtype.

    hidden: [num_tokens, hidden]. matrices: [num_experts, 2 * inner, hidden], gate and up rows alternating.
    """
    num_experts, num_outputs, num_blocks = matrices.scales.shape
    num_pairs = len(order.pairs)
    activations = torch.empty(num_pairs, num_outputs // 2, dtype=hidden.dtype, device=hidden.device)
    _gate_up_for_sorted[tile.grid(num_outputs, num_pairs, num_experts)](
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
        DTYPE=factor_type(hidden),
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
        **launch_options(),
    )
    return activations


def down_for_sorted(
    activations: Tensor, order: PairOrder, matrices: PackedMatrices, bias: Tensor, tile: GemmTile
) -> Tensor:
    """Return matrix @ row + bias, back in the pairs' own order, [num_pairs, hidden] float32.

    activations: [num_pairs, inner], sorted. matrices: [num_experts, hidden, inner].
    """
    num_experts, num_outputs, num_blocks = matrices.scales.shape
    num_pairs = len(order.pairs)
    outputs = torch.empty(num_pairs, num_outputs, dtype=torch.float32, device=activations.device)
    _down_for_sorted[tile.grid(num_outputs, num_pairs, num_experts)](
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
        DTYPE=factor_type(activations),
        num_warps=tile.num_warps,
        num_stages=tile.num_stages,
        **launch_options(),
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
    DTYPE: tl.constexpr,
    DEPENDENT: tl.constexpr,
) -> None:
    wait_for_inputs(DEPENDENT)
    expert, first_place, end = find_tile(ends, NUM_EXPERTS, LANES, ROWS)
    if first_place >= end:
        return
    places = first_place + tl.arange(0, ROWS)
    tokens = tl.load(pairs + places, mask=places < end, other=0) // TOP_K
    outputs = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    matrix_rows = expert.to(tl.int64) * num_outputs + outputs
    inside = outputs < num_outputs
    sums = multiply_tile(hidden, tokens, places < end, words, scales, matrix_rows, inside, num_blocks, BLOCKS, DTYPE)
    sums += tl.load(bias + matrix_rows, mask=inside, other=0).to(tl.float32)[:, None]
    gate, up = tl.split(tl.permute(tl.reshape(sums, [OUTPUTS // 2, 2, ROWS]), (0, 2, 1)))
    num_inner = num_outputs // 2
    inner = tl.program_id(0) * (OUTPUTS // 2) + tl.arange(0, OUTPUTS // 2)
    activated = swiglu(gate, up, alpha, limit).to(activations.dtype.element_ty)
    within = (inner < num_inner)[:, None] & (places < end)[None, :]
    tl.store(activations + places.to(tl.int64)[None, :] * num_inner + inner[:, None], activated, mask=within)


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
    DTYPE: tl.constexpr,
    DEPENDENT: tl.constexpr,
) -> None:
    wait_for_inputs(DEPENDENT)
    expert, first_place, end = find_tile(ends, NUM_EXPERTS, LANES, ROWS)
    if first_place >= end:
        return
    places = first_place + tl.arange(0, ROWS)
    columns = tl.program_id(0) * OUTPUTS + tl.arange(0, OUTPUTS)
    matrix_rows = expert.to(tl.int64) * num_outputs + columns
    inside = columns < num_outputs
    sums = multiply_tile(
        activations, places, places < end, words, scales, matrix_rows, inside, num_blocks, BLOCKS, DTYPE
    )
    sums += tl.load(bias + matrix_rows, mask=inside, other=0).to(tl.float32)[:, None]
    pair = tl.load(pairs + places, mask=places < end, other=0).to(tl.int64)
    within = inside[:, None] & (places < end)[None, :]
    tl.store(outputs + pair[None, :] * num_outputs + columns[:, None], sums, mask=within)


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
    tile = tl.program_id(1)
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
    DTYPE: tl.constexpr,
) -> tl.tensor:
    """Return matrix @ inputs.T for some rows of both, float32 [len(matrix_rows), len(input_rows)].

    The weights are on the left, because a tensor core takes its left side from the registers that they are unpacked in.
    """
    sums = tl.zeros([matrix_rows.shape[0], input_rows.shape[0]], tl.float32)
    input_starts = inputs + input_rows.to(tl.int64)[:, None] * num_blocks * 32
    matrix_starts = matrix_rows[:, None] * num_blocks
    for first in range(0, num_blocks, BLOCKS):
        word = first * 4 + tl.arange(0, BLOCKS * 4)[None, :]
        packed = tl.load(words + matrix_starts * 4 + word, mask=inside[:, None] & (word < num_blocks * 4), other=0)
        block = first + tl.arange(0, BLOCKS)[None, :]
        scale = tl.load(scales + matrix_starts + block, mask=inside[:, None] & (block < num_blocks), other=0)
        weights = eased_weights(packed, scale, DTYPE)
        value = first * 32 + tl.arange(0, BLOCKS * 32)[None, :]
        rows = tl.load(input_starts + value, mask=has_row[:, None] & (value < num_blocks * 32), other=0)
        # float32 inputs are for tests, which want its precision
        sums = tl.dot(weights, tl.trans(shuffled(rows.to(DTYPE))), sums, input_precision="ieee")
    return restored(sums, DTYPE)
