"""What happens between two matmuls of a layer on the device, in one pass over a row.

Owns: the experts' weighted sum, residual add and RMSNorm, and for few rows the router's scores with them. The torch
references are `TorchOperators.add_and_norm`, and `Mixture.sum` and the first line of `mix_experts` in `experts.py`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from gptoss_backend.engine.experts import Addition, ExpertWeights, Mixture
from gptoss_backend.engine.kernels.dependent_launch import launch_options, wait_for_inputs
from gptoss_backend.engine.kernels.mxfp4 import place_in_lanes

_SCORING_PROGRAMS = 32
"""For each row"""
_TILE_COLUMNS = 512


@dataclass(frozen=True, slots=True)
class Norm:
    """An RMSNorm of the residual stream."""

    weight: Tensor
    eps: float
    dtype: torch.dtype
    """Of the outcome"""


@dataclass(frozen=True, slots=True)
class ScoredRows:
    """Few rows on their way to the experts."""

    rows: Tensor
    """[num_tokens, padded]: normalised, with zeros behind, in the order that was asked for"""
    scores: Tensor
    """[num_tokens, num_experts], the router's, in the rows' dtype"""


def add_and_norm(hidden: Tensor, addition: Addition | None, norm: Norm) -> tuple[Tensor, Tensor]:
    """Return (hidden + addition, its RMSNorm), both [num_tokens, hidden]; without an addition hidden itself.

    The norm is of the sum before it is rounded to hidden's dtype. A mixture is summed in the router's order first.
    """
    hidden = hidden.contiguous()
    num_tokens, size = hidden.shape
    total = hidden if addition is None else torch.empty_like(hidden)
    normed = torch.empty(num_tokens, size, dtype=norm.dtype, device=hidden.device)
    added, shares, top_k = _added(hidden, addition)
    _add_and_norm[(num_tokens,)](
        hidden,
        added,
        shares,
        norm.weight,
        total,
        normed,
        norm.eps,
        SIZE=size,
        LANES=triton.next_power_of_2(size),
        ADDS=addition is not None,
        TOP_K=top_k,
        num_warps=8,
        **launch_options(),
    )
    return total, normed


def norm_and_score(
    hidden: Tensor, addition: Tensor | None, norm: Norm | None, experts: ExpertWeights, padded: int, width: int
) -> tuple[Tensor, ScoredRows]:
    """Return (hidden + addition, its RMSNorm as rows for the experts with their scores); without a norm hidden's own.

    padded: values that a row takes, a multiple of 128. width: of the lanes' order (`mxfp4.py`) that rows are put into,
    0: their own. One kernel, whose programs all add and normalise and then compute the scores of a few experts each.
    """
    hidden = hidden.contiguous()
    num_tokens, size = hidden.shape
    num_experts = len(experts.router)
    dtype = hidden.dtype if norm is None else norm.dtype
    total = hidden if addition is None else torch.empty_like(hidden)
    rows = torch.empty(num_tokens, padded, dtype=dtype, device=hidden.device)
    scores = torch.empty(num_tokens, num_experts, dtype=dtype, device=hidden.device)
    at_a_time = triton.cdiv(num_experts, _SCORING_PROGRAMS)
    _norm_and_score[(num_tokens, triton.cdiv(num_experts, at_a_time))](
        hidden,
        hidden if addition is None else addition.contiguous(),
        experts.router if norm is None else norm.weight,
        experts.router,
        experts.router_bias,
        total,
        rows,
        scores,
        0.0 if norm is None else norm.eps,
        num_experts,
        SIZE=size,
        LANES=triton.next_power_of_2(padded),
        PADDED=padded,
        WIDTH=width,
        ADDS=addition is not None,
        NORMS=norm is not None,
        EXPERTS=triton.next_power_of_2(at_a_time),
        num_warps=8,
        **launch_options(),
    )
    return total, ScoredRows(rows, scores)


def sum_mixture(mixture: Mixture) -> Tensor:
    """Do what `Mixture.sum` does, in one kernel."""
    outputs, shares = mixture.outputs, mixture.shares
    num_tokens, top_k = shares.shape
    num_columns = outputs.shape[1]
    mixed = torch.empty(num_tokens, num_columns, dtype=torch.float32, device=outputs.device)
    with torch.cuda.device_of(outputs):  # type: ignore[no-untyped-call]
        _sum_experts[(num_tokens, triton.cdiv(num_columns, _TILE_COLUMNS))](
            outputs, shares, mixed, num_columns, TOP_K=top_k, COLUMNS=_TILE_COLUMNS, **launch_options()
        )
    return mixed


def _added(hidden: Tensor, addition: Addition | None) -> tuple[Tensor, Tensor, int]:
    """Return what is added, its shares and how many rows of it each token has; hidden where there is none."""
    if isinstance(addition, Mixture):
        return addition.outputs, addition.shares, addition.shares.shape[1]
    return (hidden, hidden, 0) if addition is None else (addition.contiguous(), hidden, 0)


@triton.jit
def _add_and_norm(
    hidden: tl.tensor,
    addition: tl.tensor,
    shares: tl.tensor,
    weight: tl.tensor,
    total: tl.tensor,
    normed: tl.tensor,
    eps: tl.tensor,
    SIZE: tl.constexpr,
    LANES: tl.constexpr,
    ADDS: tl.constexpr,
    TOP_K: tl.constexpr,
    DEPENDENT: tl.constexpr,
) -> None:
    wait_for_inputs(DEPENDENT)
    token = tl.program_id(0).to(tl.int64)
    lane = tl.arange(0, LANES)
    inside = lane < SIZE
    place = token * SIZE + lane
    row = tl.load(hidden + place, mask=inside, other=0).to(tl.float32)
    if ADDS:
        if TOP_K:
            row += _sum_outputs(addition, shares, token, lane, inside, SIZE, TOP_K)
        else:
            row += tl.load(addition + place, mask=inside, other=0).to(tl.float32)
        tl.store(total + place, row.to(total.dtype.element_ty), mask=inside)
    scaled = _normalised(row, tl.load(weight + lane, mask=inside, other=0), eps, SIZE)
    tl.store(normed + place, scaled.to(normed.dtype.element_ty), mask=inside)


@triton.jit
def _norm_and_score(
    hidden: tl.tensor,
    addition: tl.tensor,
    weight: tl.tensor,
    router: tl.tensor,
    router_bias: tl.tensor,
    total: tl.tensor,
    rows: tl.tensor,
    scores: tl.tensor,
    eps: tl.tensor,
    num_experts: tl.tensor,
    SIZE: tl.constexpr,
    LANES: tl.constexpr,
    PADDED: tl.constexpr,
    WIDTH: tl.constexpr,
    ADDS: tl.constexpr,
    NORMS: tl.constexpr,
    EXPERTS: tl.constexpr,
    DEPENDENT: tl.constexpr,
) -> None:
    lane = tl.arange(0, LANES)
    inside = lane < SIZE
    expert = tl.program_id(1) * tl.cdiv(num_experts, tl.num_programs(1)) + tl.arange(0, EXPERTS)
    is_mine = (expert < num_experts) & (tl.arange(0, EXPERTS) < tl.cdiv(num_experts, tl.num_programs(1)))
    # the memory has something to do while what comes before ends
    weights = tl.load(router + expert[:, None] * SIZE + lane[None, :], mask=is_mine[:, None] & inside[None, :], other=0)
    added = tl.load(router_bias + expert, mask=is_mine, other=0).to(tl.float32)
    wait_for_inputs(DEPENDENT)
    token = tl.program_id(0).to(tl.int64)
    place = token * SIZE + lane
    row = tl.load(hidden + place, mask=inside, other=0).to(tl.float32)
    if ADDS:
        row += tl.load(addition + place, mask=inside, other=0).to(tl.float32)
    scaled = row
    if NORMS:
        scaled = _normalised(row, tl.load(weight + lane, mask=inside, other=0), eps, SIZE)
    rounded = scaled.to(rows.dtype.element_ty)
    if tl.program_id(1) == 0:
        if ADDS:
            tl.store(total + place, row.to(total.dtype.element_ty), mask=inside)
        target = lane
        if WIDTH:
            target = place_in_lanes(lane, WIDTH)
        tl.store(rows + token * PADDED + target, rounded, mask=lane < PADDED)
    score = tl.sum(weights.to(tl.float32) * rounded.to(tl.float32)[None, :], axis=1) + added
    tl.store(scores + token * num_experts + expert, score.to(scores.dtype.element_ty), mask=is_mine)


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
    total = _sum_outputs(outputs, shares, token, columns, inside, num_columns, TOP_K)
    tl.store(mixed + token * num_columns + columns, total, mask=inside)


@triton.jit
def _sum_outputs(
    outputs: tl.tensor,
    shares: tl.tensor,
    token: tl.tensor,
    columns: tl.tensor,
    inside: tl.tensor,
    num_columns: tl.tensor,
    TOP_K: tl.constexpr,
) -> tl.tensor:
    """Return some columns of a token's mixture, of which outputs and shares are those of `Mixture`; float32."""
    total = tl.zeros(columns.shape, tl.float32)
    for rank in tl.static_range(TOP_K):
        pair = token * TOP_K + rank
        total += tl.load(shares + pair) * tl.load(outputs + pair * num_columns + columns, mask=inside, other=0)
    return total


@triton.jit
def _normalised(row: tl.tensor, weight: tl.tensor, eps: tl.tensor, SIZE: tl.constexpr) -> tl.tensor:
    return row * tl.rsqrt(tl.sum(row * row, axis=0) / SIZE + eps) * weight.to(tl.float32)
