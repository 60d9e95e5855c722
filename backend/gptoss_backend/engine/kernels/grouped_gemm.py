"""Experts for many rows: pairs sorted by expert, and each expert's rows multiplied tile by tile on the tensor cores.

Owns: the two matmuls of an expert for sorted pairs. The grid is as large as any routing can need, so that the host
need not know how many rows an expert has: each program finds its tile from where the experts' pairs end.

Rows lie in memory in the lanes' order (`mxfp4.py`), with zeros up to a multiple of what is multiplied at a time, so
that the tensor cores read them where asynchronous copies leave them. Tokens' rows are put so by `sort_pairs`, and the
first matmul writes its outcome so for the second.
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
    factor_type,
    has_tensor_memory,
    place_in_lanes,
    restored,
    rows_of_scales,
    scales_of_rows,
    weights_in_lanes,
    width_of_warpgroups,
    words_of,
)
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
    """MXFP4 blocks multiplied at a time, a multiple of four"""
    num_warps: int = 4
    num_stages: int = 3

    @classmethod
    def for_rows(cls, num_pairs: int, num_experts: int) -> GemmTile:
        """Return the tile for experts that get num_pairs / num_experts rows on average."""
        # twice the average: nearly every expert's rows fit, and each tile more reads and unpacks its weights again
        rows = min(64, max(16, triton.next_power_of_2(2 * num_pairs // num_experts)))
        # rows come once for each tile of outputs, which is most of what such a tile reads
        return cls(rows) if rows < 64 else cls(rows, outputs=128, num_warps=8)

    def stages_for(self, rows: Tensor) -> int:
        """Return how many rounds' copies are under way; of float32 as many outgrow the memory of small cards."""
        return self.num_stages if rows.itemsize <= 2 else 1

    def most_tiles(self, num_pairs: int, num_experts: int) -> int:
        """Return how many tiles of rows there are at most, however the pairs fall."""
        return num_pairs // self.rows + min(num_experts, num_pairs)

    def padded(self, num_values: int) -> int:
        """Return how many values a row of so many has in memory."""
        at_a_time = BLOCK_VALUES * self.blocks
        return -(-num_values // at_a_time) * at_a_time

    def grid(self, num_outputs: int, num_pairs: int, num_experts: int) -> tuple[int, int]:
        """Return the programs for so many outputs of each pair: tiles of outputs, tiles of rows.

        The first axis runs first, so the tiles of rows that no expert needs come last, when all others are under way.
        """
        return triton.cdiv(num_outputs, self.outputs), self.most_tiles(num_pairs, num_experts)


def gate_up_for_sorted(
    order: PairOrder, matrices: PackedMatrices, bias: Tensor, shape: ExpertShape, tile: GemmTile
) -> Tensor:
    """Return SwiGLU(matrix @ row + bias) of the pairs as they are sorted, [num_pairs, padded inner] in the rows' dtype.

    Each row is in the lanes' order. matrices: [num_experts, 2 * inner, hidden], gate and up rows alternating.
    """
    num_experts, num_outputs, num_blocks = matrices.scales.shape
    num_pairs = len(order.pairs)
    padded = tile.padded(num_outputs // 2)
    activations = torch.empty(num_pairs, padded, dtype=order.rows.dtype, device=order.rows.device)
    # what is beyond the last output is computed like the rest: SwiGLU makes zeros of zeros
    _gate_up_for_sorted[tile.grid(2 * padded, num_pairs, num_experts)](
        order.rows,
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
        DTYPE=factor_type(order.rows),
        num_warps=tile.num_warps,
        num_stages=tile.stages_for(order.rows),
        **launch_options(),
    )
    return activations


def down_for_sorted(
    activations: Tensor, order: PairOrder, matrices: PackedMatrices, bias: Tensor, tile: GemmTile
) -> Tensor:
    """Return matrix @ row + bias, back in the pairs' own order, [num_pairs, hidden] float32.

    activations: of `gate_up_for_sorted`. matrices: [num_experts, hidden, inner].
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
        num_stages=tile.stages_for(activations),
        **launch_options(),
    )
    return outputs


@triton.jit
def _gate_up_for_sorted(
    rows: tl.tensor,
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
    first_output = tl.program_id(0) * OUTPUTS
    outputs = first_output + tl.arange(0, OUTPUTS)
    matrix_start = expert.to(tl.int64) * num_outputs
    sums = multiply_tile(
        rows,
        tokens,
        places < end,
        words,
        scales,
        matrix_start + first_output,
        num_outputs - first_output,
        num_blocks,
        OUTPUTS,
        BLOCKS,
        DTYPE,
    )
    sums += tl.load(bias + matrix_start + outputs, mask=outputs < num_outputs, other=0).to(tl.float32)[:, None]
    gate, up = tl.split(tl.permute(tl.reshape(sums, [OUTPUTS // 2, 2, ROWS]), (0, 2, 1)))
    inner = first_output // 2 + tl.arange(0, OUTPUTS // 2)
    activated = swiglu(gate, up, alpha, limit).to(activations.dtype.element_ty)
    padded = tl.cdiv(num_outputs // 2, 32 * BLOCKS) * 32 * BLOCKS
    starts = activations + places.to(tl.int64)[None, :] * padded
    within = (inner < padded)[:, None] & (places < end)[None, :]
    tl.store(starts + place_in_lanes(inner, width_of_warpgroups())[:, None], activated, mask=within)


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
    first_output = tl.program_id(0) * OUTPUTS
    columns = first_output + tl.arange(0, OUTPUTS)
    inside = columns < num_outputs
    matrix_start = expert.to(tl.int64) * num_outputs
    sums = multiply_tile(
        activations,
        places,
        places < end,
        words,
        scales,
        matrix_start + first_output,
        num_outputs - first_output,
        num_blocks,
        OUTPUTS,
        BLOCKS,
        DTYPE,
    )
    sums += tl.load(bias + matrix_start + columns, mask=inside, other=0).to(tl.float32)[:, None]
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
    first_output: tl.tensor,
    num_outputs: tl.tensor,
    num_blocks: tl.tensor,
    OUTPUTS: tl.constexpr,
    BLOCKS: tl.constexpr,
    DTYPE: tl.constexpr,
) -> tl.tensor:
    """Return matrix @ inputs.T for some rows of both, float32 [OUTPUTS, len(input_rows)]; zeros beyond num_outputs.

    first_output: the matrix's first row, int64. num_outputs: how many rows there are from it on. The weights are on the
    left, because a tensor core takes its left side from the registers that they are unpacked in.
    """
    output = tl.arange(0, OUTPUTS)[:, None]
    matrix_starts = words + (first_output + output) * num_blocks * 4
    input_starts = inputs + input_rows.to(tl.int64)[:, None] * (tl.cdiv(num_blocks, BLOCKS) * BLOCKS * 32)
    # a warp multiplies bands of 16 outputs
    output_of_scale = rows_of_scales(OUTPUTS // 16, 16)[:, None]
    # it is first_output, but nothing that Triton would compute twice: where it can, 3.6 loads scales as words are laid
    # out in memory, not in the lanes, and all weights then change lanes through shared memory
    first_scale = tl.min(first_output + tl.arange(0, OUTPUTS), axis=0)
    scale_starts, has_scale = scales + (first_scale + output_of_scale) * num_blocks, output_of_scale < num_outputs
    scale_block = tl.arange(0, BLOCKS)[None, :]
    scale = tl.load(scale_starts + scale_block, mask=has_scale & (scale_block < num_blocks), other=0)
    sums = tl.zeros([OUTPUTS, input_rows.shape[0]], tl.float32)
    for first in range(0, num_blocks, BLOCKS):
        word = first * 4 + tl.arange(0, BLOCKS * 4)[None, :]
        packed = tl.load(matrix_starts + word, mask=(output < num_outputs) & (word < num_blocks * 4), other=0)
        # a byte cannot be copied asynchronously: what is asked for here arrives while this round is computed
        block = first + BLOCKS + scale_block
        next_scale = tl.load(scale_starts + block, mask=has_scale & (block < num_blocks), other=0)
        weights = weights_in_lanes(packed, scales_of_rows(scale, OUTPUTS // 16), DTYPE, width_of_warpgroups())
        if has_tensor_memory() and tl.float32 != DTYPE:
            # for Blackwell Triton 3.7 looks for a layout in memory behind what it is multiplied from, and fails on ours
            weights = tl.inline_asm_elementwise(
                "mov.b32 $0, $1;", "=r,r", [weights], dtype=weights.dtype, is_pure=True, pack=2
            )
        value = first * 32 + tl.arange(0, BLOCKS * 32)[None, :]
        rows = tl.load(input_starts + value, mask=has_row[:, None], other=0).to(DTYPE)
        # float32 inputs are for tests, which want its precision
        sums = tl.dot(weights, tl.trans(rows), sums, input_precision="ieee")
        if width_of_warpgroups() == 2 and tl.float32 != DTYPE:
            # Hopper's instruction reads its registers while others run. Triton 3.7 waits for it rounds later, and ptxas
            # gives the registers away before (triton issue 9433): to look at the sums is to wait for it in this round
            sums = tl.inline_asm_elementwise("mov.b32 $0, $1;", "=r,r", [sums], dtype=tl.float32, is_pure=True, pack=1)
        scale = next_scale
    return restored(sums, DTYPE)
