"""The mixture of experts on a GPU, its matrices packed: the torch reference is `engine/experts.py`.

Owns: the order of the kernels. Nothing waits for the device, so a step can be captured in a CUDA graph.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from gptoss_backend.engine.experts import ExpertShape, ExpertWeights, mix_experts
from gptoss_backend.engine.kernels.dependent_launch import launch_options, wait_for_inputs
from gptoss_backend.engine.kernels.gemv import (
    NO_TENSOR_CORES,
    TENSOR_CORES,
    GemvTiles,
    down_for_pairs,
    gate_up_for_pairs,
)
from gptoss_backend.engine.kernels.grouped_gemm import GemmTile, down_for_sorted, gate_up_for_sorted
from gptoss_backend.engine.kernels.operators import KernelOperators
from gptoss_backend.engine.kernels.routing import Routes, pick_experts, sort_pairs
from gptoss_backend.engine.mxfp4 import PackedMatrices

_TILE_COLUMNS = 512


def mix_packed_experts(hidden: Tensor, weights: ExpertWeights, shape: ExpertShape) -> Tensor:
    """Do what `mix_experts` does, with packed matrices on the device of `hidden`; float32 [num_tokens, hidden].

    Sums run in float32 and only what goes into the second matmul is rounded to hidden's dtype: it is below
    (limit + 1) * limit, so in float16 too all stays finite. Does not wait for the device, except for many tokens on
    cards before Ampere.
    """
    num_pairs, num_experts = len(hidden) * shape.num_experts_per_token, len(weights.router)
    # beyond, so many pairs share an expert that reading it once is quicker (an H100, the 20B: from 6 tokens on)
    few = 4 * num_pairs <= 3 * num_experts
    if not few and not _has_tile_multiplication(hidden.device):
        return mix_experts(hidden, weights, shape)
    with torch.cuda.device_of(hidden):  # type: ignore[no-untyped-call]
        hidden = hidden.contiguous()
        scores = _scores(hidden, weights)
        routes = pick_experts(scores, shape.num_experts_per_token)
        if few:
            tiles = TENSOR_CORES if _has_tile_multiplication(hidden.device) else NO_TENSOR_CORES
            outputs = apply_to_few(hidden, routes, weights, shape, tiles)
        else:
            outputs = apply_to_many(hidden, routes, weights, shape, GemmTile.for_rows(num_pairs, num_experts))
        return sum_experts(outputs, routes.shares)


def _scores(hidden: Tensor, weights: ExpertWeights) -> Tensor:
    # the router is small: a single row takes 3.5 µs here and 7.7 in cuBLAS, which divides it and adds up
    linear = KernelOperators.linear if _has_tile_multiplication(hidden.device) else F.linear
    return linear(hidden, weights.router, weights.router_bias)


def _has_tile_multiplication(device: torch.device) -> bool:
    # Triton multiplies tiles without tensor cores on Volta and Turing, with most of a tile spilt to memory
    return device.type != "cuda" or torch.cuda.get_device_capability(device) >= (8, 0)


def apply_to_few(
    hidden: Tensor, routes: Routes, weights: ExpertWeights, shape: ExpertShape, tiles: GemvTiles
) -> Tensor:
    """Return what each pair's expert makes of its token, [num_tokens * top_k, hidden] float32: one pair at a time."""
    gate_up, down = _packed(weights)
    activations = gate_up_for_pairs(hidden, routes, gate_up, weights.gate_up_bias, shape, tiles.gate_up)
    return down_for_pairs(activations, routes, down, weights.down_bias, tiles.down)


def apply_to_many(hidden: Tensor, routes: Routes, weights: ExpertWeights, shape: ExpertShape, tile: GemmTile) -> Tensor:
    """Return the same: all pairs of an expert together."""
    gate_up, down = _packed(weights)
    order = sort_pairs(routes.experts, len(weights.router), hidden, tile.padded(hidden.shape[1]))
    activations = gate_up_for_sorted(order, gate_up, weights.gate_up_bias, shape, tile)
    return down_for_sorted(activations, order, down, weights.down_bias, tile)


def _packed(weights: ExpertWeights) -> tuple[PackedMatrices, PackedMatrices]:
    gate_up, down = weights.gate_up, weights.down
    assert isinstance(gate_up, PackedMatrices)  # noqa: S101 (the caller chose this function for it)
    assert isinstance(down, PackedMatrices)  # noqa: S101
    return gate_up, down


def sum_experts(outputs: Tensor, shares: Tensor) -> Tensor:
    """Return each token's weighted sum of its pairs' outputs, summed in the router's order.

    outputs: [num_tokens * top_k, hidden] float32. shares: [num_tokens, top_k]. Returns [num_tokens, hidden] float32.
    """
    num_tokens, top_k = shares.shape
    num_columns = outputs.shape[1]
    mixed = torch.empty(num_tokens, num_columns, dtype=torch.float32, device=outputs.device)
    _sum_experts[(num_tokens, triton.cdiv(num_columns, _TILE_COLUMNS))](
        outputs, shares, mixed, num_columns, TOP_K=top_k, COLUMNS=_TILE_COLUMNS, **launch_options()
    )
    return mixed


@triton.jit
def _sum_experts(
    outputs: tl.tensor,
    shares: tl.tensor,
    mixed: tl.tensor,
    num_columns: tl.tensor,
    TOP_K: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPENDENT: tl.constexpr,
) -> None:
    wait_for_inputs(DEPENDENT)
    token = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    inside = columns < num_columns
    total = tl.zeros([COLUMNS], tl.float32)
    for rank in tl.static_range(TOP_K):
        pair = token * TOP_K + rank
        total += tl.load(shares + pair) * tl.load(outputs + pair * num_columns + columns, mask=inside, other=0)
    tl.store(mixed + token * num_columns + columns, total, mask=inside)
