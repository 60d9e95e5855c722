"""Which experts a token goes to, and the (token, expert) pairs brought into the experts' order, without a host's help.

Owns: the router's top-k with its softmax, the sorting of pairs, and of the values in the rows that are then multiplied.
A pair's number is token * top_k + rank.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from gptoss_backend.engine.kernels.dependent_launch import launch_options, wait_for_inputs
from gptoss_backend.engine.kernels.mxfp4 import place_in_lanes, width_of_warpgroups

_CHUNK_PAIRS = 1024


@dataclass(frozen=True, slots=True)
class Routes:
    """The experts of each token."""

    experts: Tensor
    """[num_tokens, top_k] int32, the likeliest first; of equal ones the first"""
    shares: Tensor
    """[num_tokens, top_k] float32, which sum to 1 for each token"""


@dataclass(frozen=True, slots=True)
class PairOrder:
    """Pairs sorted by expert; a token's pairs stay in the tokens' order."""

    pairs: Tensor
    """[num_pairs] int32, the pair in each place"""
    ends: Tensor
    """[num_experts] int32, the place after the last pair of each expert"""
    rows: Tensor
    """[num_tokens, padded], each token's own, in the lanes' order of `mxfp4.py`, with zeros behind"""


def pick_experts(scores: Tensor, top_k: int) -> Routes:
    """Return the top_k experts of each token and the softmax of their scores, [num_tokens, num_experts]."""
    num_tokens, num_experts = scores.shape
    experts = torch.empty(num_tokens, top_k, dtype=torch.int32, device=scores.device)
    shares = torch.empty(num_tokens, top_k, dtype=torch.float32, device=scores.device)
    _pick_experts[(num_tokens,)](
        scores.contiguous(),
        experts,
        shares,
        NUM_EXPERTS=num_experts,
        TOP_K=top_k,
        LANES=triton.next_power_of_2(num_experts),
        RANKS=triton.next_power_of_2(top_k),
        num_warps=1,
        **launch_options(),
    )
    return Routes(experts, shares)


def sort_pairs(experts: Tensor, num_experts: int, hidden: Tensor, padded: int) -> PairOrder:
    """Return the pairs in their experts' order, and the tokens' rows as they are multiplied.

    experts: [num_tokens, top_k] int32. hidden: [num_tokens, num_values]. padded: of `GemmTile`, a multiple of 128.
    """
    num_tokens, num_values = hidden.shape
    pairs = torch.empty(experts.numel(), dtype=torch.int32, device=experts.device)
    ends = torch.empty(num_experts, dtype=torch.int32, device=experts.device)
    rows = torch.empty(num_tokens, padded, dtype=hidden.dtype, device=hidden.device)
    _sort_pairs[(num_experts + num_tokens,)](
        experts,
        pairs,
        ends,
        hidden,
        rows,
        experts.numel(),
        num_experts,
        num_values,
        padded,
        CHUNK=_CHUNK_PAIRS,
        **launch_options(),
    )
    return PairOrder(pairs, ends, rows)


@triton.jit
def _pick_experts(
    scores: tl.tensor,
    experts: tl.tensor,
    shares: tl.tensor,
    NUM_EXPERTS: tl.constexpr,
    TOP_K: tl.constexpr,
    LANES: tl.constexpr,
    RANKS: tl.constexpr,
    DEPENDENT: tl.constexpr,
) -> None:
    wait_for_inputs(DEPENDENT)
    token = tl.program_id(0).to(tl.int64)
    lanes = tl.arange(0, LANES)
    ranks = tl.arange(0, RANKS)
    left = tl.load(scores + token * NUM_EXPERTS + lanes, mask=lanes < NUM_EXPERTS, other=float("-inf")).to(tl.float32)
    top_scores = tl.full([RANKS], float("-inf"), tl.float32)
    top_experts = tl.zeros([RANKS], tl.int32)
    for rank in tl.static_range(TOP_K):
        score, expert = tl.max(left, axis=0, return_indices=True)
        # scores that are no numbers must not lead outside of the weights
        top_experts = tl.where(ranks == rank, tl.minimum(expert, NUM_EXPERTS - 1), top_experts)
        top_scores = tl.where(ranks == rank, score, top_scores)
        left = tl.where(lanes == expert, float("-inf"), left)
    weights = tl.exp(top_scores - tl.max(top_scores, axis=0))
    places = token * TOP_K + ranks
    tl.store(experts + places, top_experts, mask=ranks < TOP_K)
    tl.store(shares + places, weights / tl.sum(weights, axis=0), mask=ranks < TOP_K)


@triton.jit(do_not_specialize=["num_pairs"])
def _sort_pairs(
    experts: tl.tensor,
    pairs: tl.tensor,
    ends: tl.tensor,
    hidden: tl.tensor,
    rows: tl.tensor,
    num_pairs: tl.tensor,
    num_experts: tl.tensor,
    num_values: tl.tensor,
    padded: tl.tensor,
    CHUNK: tl.constexpr,
    DEPENDENT: tl.constexpr,
) -> None:
    wait_for_inputs(DEPENDENT)
    # a program for each expert, then one for each token, which fill the device meanwhile
    if tl.program_id(0) < num_experts:
        _place_pairs(experts, pairs, ends, tl.program_id(0), num_pairs, CHUNK)
    else:
        token = (tl.program_id(0) - num_experts).to(tl.int64)
        _put_in_lanes(hidden + token * num_values, rows + token * padded, num_values, padded, CHUNK)


@triton.jit
def _place_pairs(
    experts: tl.tensor,
    pairs: tl.tensor,
    ends: tl.tensor,
    expert: tl.tensor,
    num_pairs: tl.tensor,
    CHUNK: tl.constexpr,
) -> None:
    # count what goes before the expert's pairs, then place them
    lanes = tl.arange(0, CHUNK)
    earlier = tl.zeros([CHUNK], tl.int32)
    for first in range(0, num_pairs, CHUNK):
        inside = first + lanes < num_pairs
        earlier += (tl.load(experts + first + lanes, mask=inside, other=expert) < expert).to(tl.int32)
    end = tl.sum(earlier, axis=0)
    for first in range(0, num_pairs, CHUNK):
        mine = tl.load(experts + first + lanes, mask=first + lanes < num_pairs, other=-1) == expert
        count = tl.cumsum(mine.to(tl.int32), axis=0)
        tl.store(pairs + end + count - 1, first + lanes, mask=mine)
        end += tl.sum(mine.to(tl.int32), axis=0)
    tl.store(ends + expert, end)


@triton.jit
def _put_in_lanes(
    values: tl.tensor, places: tl.tensor, num_values: tl.tensor, padded: tl.tensor, CHUNK: tl.constexpr
) -> None:
    for first in range(0, padded, CHUNK):
        number = first + tl.arange(0, CHUNK)
        value = tl.load(values + number, mask=number < num_values, other=0)
        tl.store(places + place_in_lanes(number, width_of_warpgroups()), value, mask=number < padded)
