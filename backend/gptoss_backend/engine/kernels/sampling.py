"""A token for each row of logits, chosen on the device: the likeliest, or one drawn from all of them.

Owns: `choose_tokens`. The torch reference is `drawing.draw_plain`, with which it shares the order of the vocabulary: a
number drawn for a row leads to the same token here and there, but for rounding.

As there, token r × width + c is in column c, and a draw looks up a column, then a place in it. The first kernel reads
the logits once and keeps two numbers a column; the second needs one column more. No sum depends on other rows.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from gptoss_backend.engine.kernels.dependent_launch import launch_options, wait_for_inputs

_DEPTH = 128
_COLUMNS = 32


def choose_tokens(logits: Tensor, draws: Tensor, tokens: Tensor) -> None:
    """Write the token of each row into `tokens` [n] int64.

    logits: [n, vocab], contiguous. draws: [2, n] float64: temperatures, 0 for the likeliest token, the lowest id among
    equals; uniform numbers in [0, 1).
    """
    temperatures, uniforms = draws[0].float(), draws[1]
    num_rows, vocab = logits.shape
    width = triton.cdiv(vocab, _DEPTH)
    peaks, sums = (torch.empty(num_rows, width, dtype=torch.float32, device=logits.device) for _ in range(2))
    firsts = torch.empty(num_rows, width, dtype=torch.int32, device=logits.device)
    _sum_columns[(triton.cdiv(width, _COLUMNS), num_rows)](
        logits, temperatures, peaks, sums, firsts, vocab, width, DEPTH=_DEPTH, COLUMNS=_COLUMNS, **launch_options()
    )
    _choose[(num_rows,)](
        logits,
        temperatures,
        uniforms,
        peaks,
        sums,
        firsts,
        tokens,
        vocab,
        width,
        DEPTH=_DEPTH,
        LANES=triton.next_power_of_2(width),
        **launch_options(),
    )


@triton.jit
def _sum_columns(
    logits: tl.tensor,
    temperatures: tl.tensor,
    peaks: tl.tensor,
    sums: tl.tensor,
    firsts: tl.tensor,
    vocab: tl.tensor,
    width: tl.tensor,
    DEPTH: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPENDENT: tl.constexpr,
) -> None:
    wait_for_inputs(DEPENDENT)
    row = tl.program_id(1).to(tl.int64)
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    token = tl.arange(0, DEPTH)[:, None] * width + column[None, :]
    inside = (column < width)[None, :] & (token < vocab)
    read = tl.load(logits + row * vocab + token, mask=inside, other=float("-inf")).to(tl.float32)
    # a column without tokens is not stored, but its difference of infinities would be no number
    scores = tl.where((column < width)[None, :], read, 0.0)
    peak, place = tl.max(scores, axis=0, return_indices=True)
    weights = tl.exp((scores - peak[None, :]) / _divisor(tl.load(temperatures + row)))
    kept = row * width + column
    tl.store(peaks + kept, peak, mask=column < width)
    tl.store(sums + kept, tl.sum(weights, axis=0), mask=column < width)
    tl.store(firsts + kept, place * width + column, mask=column < width)


@triton.jit
def _choose(
    logits: tl.tensor,
    temperatures: tl.tensor,
    uniforms: tl.tensor,
    peaks: tl.tensor,
    sums: tl.tensor,
    firsts: tl.tensor,
    tokens: tl.tensor,
    vocab: tl.tensor,
    width: tl.tensor,
    DEPTH: tl.constexpr,
    LANES: tl.constexpr,
    DEPENDENT: tl.constexpr,
) -> None:
    wait_for_inputs(DEPENDENT)
    row = tl.program_id(0).to(tl.int64)
    temperature = tl.load(temperatures + row)
    lane = tl.arange(0, LANES)
    inside = lane < width
    peak = tl.load(peaks + row * width + lane, mask=inside, other=float("-inf"))
    highest = tl.max(peak, axis=0)
    if temperature > 0:
        weights = tl.load(sums + row * width + lane, mask=inside, other=0)
        weights *= tl.exp((peak - highest) / temperature)
        column, rest = _invert(weights, lane, tl.load(uniforms + row))
        place = tl.arange(0, DEPTH)
        token = place * width + column
        scores = tl.load(logits + row * vocab + token, mask=token < vocab, other=float("-inf")).to(tl.float32)
        weights = tl.exp((scores - tl.max(scores, axis=0)) / temperature)
        place, _ = _invert(weights, place, rest)
        tl.store(tokens + row, (place * width + column).to(tl.int64))
    else:
        first = tl.load(firsts + row * width + lane, mask=inside & (peak == highest), other=vocab - 1)
        tl.store(tokens + row, tl.min(first, axis=0).to(tl.int64))


@triton.jit
def _invert(weights: tl.tensor, places: tl.tensor, uniform: tl.tensor) -> tuple[tl.tensor, tl.tensor]:
    """Return where the cumulative weight passes uniform × total, never at a weight of 0, and how far into it."""
    weights = weights.to(tl.float64)
    cumulative = tl.cumsum(weights, axis=0)
    target = uniform * tl.max(cumulative, axis=0)
    passed = tl.sum((cumulative <= target).to(tl.int32), axis=0)
    place = tl.minimum(passed, tl.max(tl.where(weights > 0, places, 0), axis=0))
    weight = tl.sum(tl.where(places == place, weights, 0.0), axis=0)
    before = tl.sum(tl.where(places == place, cumulative, 0.0), axis=0) - weight
    return place, tl.minimum(tl.maximum((target - before) / weight, 0.0), 1.0)


@triton.jit
def _divisor(temperature: tl.tensor) -> tl.tensor:
    return tl.where(temperature > 0, temperature, 1.0)
