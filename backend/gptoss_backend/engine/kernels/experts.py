"""The mixture of experts on a GPU, its matrices packed: the torch reference is `engine/experts.py`.

Owns: the order of the kernels. Nothing waits for the device, so a step can be captured in a CUDA graph.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gptoss_backend.engine.experts import Addition, ExpertShape, ExpertWeights, Mixture, mix_experts
from gptoss_backend.engine.kernels.gemv import (
    NO_TENSOR_CORES,
    TENSOR_CORES,
    GemvTiles,
    down_for_pairs,
    gate_up_for_pairs,
)
from gptoss_backend.engine.kernels.grouped_gemm import GemmTile, down_for_sorted, gate_up_for_sorted
from gptoss_backend.engine.kernels.norm import Norm, add_and_norm, norm_and_score
from gptoss_backend.engine.kernels.operators import KernelOperators
from gptoss_backend.engine.kernels.routing import Routes, pick_experts, sort_pairs
from gptoss_backend.engine.mxfp4 import PackedMatrices

_PAIRS_WORTH_SORTING = 8
"""In whose time all pairs are sorted: on an H100, with the 20B, that of 7.7, which gives it 6 tokens, the 120B 12."""


def mix_packed_experts(hidden: Tensor, weights: ExpertWeights, shape: ExpertShape) -> Addition:
    """Do what `mix_experts` does, with packed matrices on the device of `hidden`, but for the sum.

    Sums run in float32 and only what goes into the second matmul is rounded to hidden's dtype: it is below
    (limit + 1) * limit, so in float16 too all stays finite. Does not wait for the device, except for many tokens on
    cards before Ampere.
    """
    with torch.cuda.device_of(hidden):  # type: ignore[no-untyped-call]
        if _are_few(hidden, weights, shape):
            return _score_and_mix(hidden, None, None, weights, shape)[1]
        return _mix_many(hidden.contiguous(), weights, shape)


def norm_and_mix(
    hidden: Tensor, addition: Tensor, norm: Norm, weights: ExpertWeights, shape: ExpertShape
) -> tuple[Tensor, Addition]:
    """Return (hidden + addition, what the experts make of its norm), with few tokens' norm and scores in one kernel."""
    with torch.cuda.device_of(hidden):  # type: ignore[no-untyped-call]
        if _are_few(hidden, weights, shape):
            return _score_and_mix(hidden, addition, norm, weights, shape)
        hidden, normed = add_and_norm(hidden, addition, norm)
        return hidden, _mix_many(normed, weights, shape)


def _are_few(hidden: Tensor, weights: ExpertWeights, shape: ExpertShape) -> bool:
    """Say whether so few pairs share an expert that reading it for each is quicker than sorting them."""
    num_experts, num_pairs = len(weights.router), len(hidden) * shape.num_experts_per_token
    num_read = num_experts * (1 - (1 - shape.num_experts_per_token / num_experts) ** len(hidden))  # drawn evenly
    return num_pairs - num_read <= _PAIRS_WORTH_SORTING


def _score_and_mix(
    hidden: Tensor, addition: Tensor | None, norm: Norm | None, weights: ExpertWeights, shape: ExpertShape
) -> tuple[Tensor, Mixture]:
    tiles = TENSOR_CORES if _has_tile_multiplication(hidden.device) else NO_TENSOR_CORES
    padded = tiles.gate_up.padded(hidden.shape[1])
    total, scored = norm_and_score(hidden, addition, norm, weights, padded, tiles.gate_up.width)
    routes = pick_experts(scored.scores, shape.num_experts_per_token)
    return total, Mixture(apply_to_few(scored.rows, routes, weights, shape, tiles), routes.shares)


def _mix_many(hidden: Tensor, weights: ExpertWeights, shape: ExpertShape) -> Addition:
    if not _has_tile_multiplication(hidden.device):
        return mix_experts(hidden, weights, shape)
    scores = KernelOperators.linear(hidden, weights.router, weights.router_bias)
    routes = pick_experts(scores, shape.num_experts_per_token)
    tile = GemmTile.for_rows(routes.experts.numel(), len(weights.router))
    return Mixture(apply_to_many(hidden, routes, weights, shape, tile), routes.shares)


def _has_tile_multiplication(device: torch.device) -> bool:
    # Triton multiplies tiles without tensor cores on Volta and Turing, with most of a tile spilt to memory
    return device.type != "cuda" or torch.cuda.get_device_capability(device) >= (8, 0)


def apply_to_few(rows: Tensor, routes: Routes, weights: ExpertWeights, shape: ExpertShape, tiles: GemvTiles) -> Tensor:
    """Return what each pair's expert makes of its token, [num_tokens * top_k, hidden] float32: one pair at a time.

    rows: of `norm_and_score`, for these tiles.
    """
    gate_up, down = _packed(weights)
    activations = gate_up_for_pairs(rows, routes, gate_up, weights.gate_up_bias, shape, tiles)
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
