"""Experts for few rows: matrix times vector, MXFP4 unpacked in registers.

Owns: the two matmuls of an expert for one (token, expert) pair at a time. A program computes a few outputs of one pair
from whole rows of its expert's matrix, so every byte of weights is read once and goes through no shared memory, and a
row's sum has the same order whatever else is in the batch.
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
from gptoss_backend.engine.kernels.routing import Routes
from gptoss_backend.engine.mxfp4 import PackedMatrices


@dataclass(frozen=True, slots=True)
class GemvTile:
    """What a program reads at a time."""

    rows: int = 4
    """On an H100 for one token: 4 take 39.0 µs for both matmuls of the 20B, 8 take 42.9, 16 with four warps 41.6"""
    blocks: int = 16
    """MXFP4 blocks of a row: 16 of 16 bytes, so two rows are a warp's widest loads"""
    num_warps: int = 1


GEMV_TILE = GemvTile()


def gate_up_for_pairs(
    hidden: Tensor, routes: Routes, matrices: PackedMatrices, bias: Tensor, shape: ExpertShape
) -> Tensor:
    """Return SwiGLU(matrix @ row + bias) of each pair, [num_pairs, inner] in hidden's dtype.

    hidden: [num_tokens, hidden]. matrices: [num_experts, 2 * inner, hidden], gate and up rows alternating.
    """
    num_outputs, num_blocks = matrices.scales.shape[1:]
    num_pairs, tile = routes.experts.numel(), GEMV_TILE
    activations = torch.empty(num_pairs, num_outputs // 2, dtype=hidden.dtype, device=hidden.device)
    _gate_up_for_pairs[(triton.cdiv(num_outputs, tile.rows), num_pairs)](
        hidden,
        routes.experts,
        words_of(matrices),
        matrices.scales,
        bias,
        activations,
        num_outputs,
        num_blocks,
        shape.swiglu_alpha,
        shape.swiglu_limit,
        TOP_K=shape.num_experts_per_token,
        ROWS=tile.rows,
        BLOCKS=tile.blocks,
        num_warps=tile.num_warps,
    )
    return activations


def down_for_pairs(activations: Tensor, routes: Routes, matrices: PackedMatrices, bias: Tensor) -> Tensor:
    """Return matrix @ row + bias of each pair, [num_pairs, hidden] float32.

    activations: [num_pairs, inner]. matrices: [num_experts, hidden, inner].
    """
    num_outputs, num_blocks = matrices.scales.shape[1:]
    num_pairs, tile = len(activations), GEMV_TILE
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
        BLOCKS=tile.blocks,
        num_warps=tile.num_warps,
    )
    return outputs


@triton.jit
def _gate_up_for_pairs(
    hidden: tl.tensor,
    experts: tl.tensor,
    words: tl.tensor,
    scales: tl.tensor,
    bias: tl.tensor,
    activations: tl.tensor,
    num_outputs: tl.tensor,
    num_blocks: tl.tensor,
    alpha: tl.tensor,
    limit: tl.tensor,
    TOP_K: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCKS: tl.constexpr,
) -> None:
    tile, pair = tl.program_id(0), tl.program_id(1).to(tl.int64)
    outputs = tile * ROWS + tl.arange(0, ROWS)
    rows = tl.load(experts + pair).to(tl.int64) * num_outputs + outputs
    inside = outputs < num_outputs
    vector = hidden + pair // TOP_K * num_blocks * 32
    sums = dot_rows(vector, words, scales, rows, inside, num_blocks, ROWS, BLOCKS)
    sums += tl.load(bias + rows, mask=inside, other=0).to(tl.float32)
    gate, up = tl.split(tl.reshape(sums, [ROWS // 2, 2]))
    num_inner = num_outputs // 2
    inner = tile * (ROWS // 2) + tl.arange(0, ROWS // 2)
    activated = swiglu(gate, up, alpha, limit).to(activations.dtype.element_ty)
    tl.store(activations + pair * num_inner + inner, activated, mask=inner < num_inner)


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
    BLOCKS: tl.constexpr,
) -> None:
    pair = tl.program_id(1).to(tl.int64)
    columns = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    rows = tl.load(experts + pair).to(tl.int64) * num_outputs + columns
    inside = columns < num_outputs
    vector = activations + pair * num_blocks * 32
    sums = dot_rows(vector, words, scales, rows, inside, num_blocks, ROWS, BLOCKS)
    sums += tl.load(bias + rows, mask=inside, other=0).to(tl.float32)
    tl.store(outputs + pair * num_outputs + columns, sums, mask=inside)


@triton.jit
def dot_rows(
    vector: tl.tensor,
    words: tl.tensor,
    scales: tl.tensor,
    rows: tl.tensor,
    inside: tl.tensor,
    num_blocks: tl.tensor,
    ROWS: tl.constexpr,
    BLOCKS: tl.constexpr,
) -> tl.tensor:
    """Return the products of packed rows with a vector of num_blocks * 32, [ROWS] float32; rows: [ROWS] int64."""
    sums = tl.zeros([ROWS, BLOCKS], tl.float32)
    for first in range(0, num_blocks, BLOCKS):
        block = first + tl.arange(0, BLOCKS)
        within = inside[:, None] & (block < num_blocks)[None, :]
        place = rows[:, None] * num_blocks + block[None, :]
        scale = power_of_two(tl.load(scales + place, mask=within, other=0)) * GROWTH
        packed = tl.load(
            words + place[:, :, None] * 4 + tl.arange(0, 4)[None, None, :], mask=within[:, :, None], other=0
        )
        value = block[:, None] * 32 + tl.arange(0, 32)[None, :]
        values = tl.load(vector + value, mask=(block < num_blocks)[:, None], other=0).to(tl.float32)
        products = shrunken_values(packed).to(tl.float32) * values[None, :, :]
        sums += tl.sum(products, axis=2) * scale
    return tl.sum(sums, axis=1)
