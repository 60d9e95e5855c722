"""A token for each row of logits, chosen on the device: the likeliest, or one drawn from all that the filters leave.

Owns: `choose_tokens`. The torch reference is `drawing`, with which it shares the order of the vocabulary and what the
filters mean: a number drawn for a row leads to the same token here and there, but for rounding.

As there, token r × width + c is in column c, and a draw looks up a column, then a place in it. The first kernel reads
the logits once and keeps two numbers a column. The second does nothing for rows without a filter; for others it finds
the least logit that is kept (filtering.py) and sums their columns anew. The third needs one column more. No sum depends
on other rows. Where tokens are barred, all three read bits beside the logits, and nothing is copied.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from gptoss_backend.engine.kernels.dependent_launch import launch_options, wait_for_inputs
from gptoss_backend.engine.kernels.filtering import SPARE_BITS, least_kept, may_come, measure

_DEPTH = 128
_COLUMNS = 32
# of a row with filters: read at once by one program, which has nothing else to hide the memory's latency
_BLOCK_BYTES = 32768
_FILTER_WARPS = 16


@dataclass(frozen=True, slots=True)
class Held:
    """Which rows tokens are chosen for, and among which, where that is not all for all."""

    samples: Tensor
    """[n] float64, as it comes with the draws: the rows of logits and of tokens"""
    bits: Tensor
    """[n, ceil(vocab / 32)] int32, contiguous: which tokens may come, at least one, as in `token_bits.py`"""


def choose_tokens(logits: Tensor, draws: Tensor, tokens: Tensor, held: Held | None = None) -> None:
    """Write the token of each row into `tokens` [n] int64.

    logits: [n, vocab], contiguous. draws: [5, n] float64, the lines of `Draws`: temperatures, 0 for the likeliest
    token, the lowest id among equals; uniform numbers in [0, 1); top-k, top-p and min-p. held: then n rows of more.
    """
    temperatures, filters = draws[0], draws[2:]
    num_rows, vocab = draws.shape[1], logits.shape[1]
    width = triton.cdiv(vocab, _DEPTH)
    lanes = triton.next_power_of_2(width)
    peaks, sums = (torch.empty(num_rows, width, dtype=torch.float32, device=logits.device) for _ in range(2))
    firsts = torch.empty(num_rows, width, dtype=torch.int32, device=logits.device)
    floors = torch.empty(num_rows, dtype=torch.float32, device=logits.device)
    columns = (logits, temperatures, peaks, sums)
    is_held = held is not None
    among = (held.samples, held.bits) if held is not None else (draws, logits)  # which are not read
    _sum_columns[(triton.cdiv(width, _COLUMNS), num_rows)](
        *columns, firsts, *among, vocab, width, IS_HELD=is_held, DEPTH=_DEPTH, COLUMNS=_COLUMNS, **launch_options()
    )
    _filter_columns[(num_rows,)](
        *columns,
        filters,
        floors,
        *among,
        vocab,
        width,
        num_rows,
        IS_HELD=is_held,
        DEPTH=_DEPTH,
        COLUMNS=_COLUMNS,
        LANES=lanes,
        BLOCK=min(_BLOCK_BYTES // logits.element_size(), triton.next_power_of_2(vocab)),
        SPARE_BITS=SPARE_BITS[logits.dtype],
        num_warps=_FILTER_WARPS,
        **launch_options(),
    )
    _choose[(num_rows,)](
        *columns,
        firsts,
        floors,
        draws[1],
        tokens,
        *among,
        vocab,
        width,
        IS_HELD=is_held,
        DEPTH=_DEPTH,
        LANES=lanes,
        **launch_options(),
    )


@triton.jit
def _sum_columns(
    logits: tl.tensor,
    temperatures: tl.tensor,
    peaks: tl.tensor,
    sums: tl.tensor,
    firsts: tl.tensor,
    samples: tl.tensor,
    bits: tl.tensor,
    vocab: tl.tensor,
    width: tl.tensor,
    IS_HELD: tl.constexpr,
    DEPTH: tl.constexpr,
    COLUMNS: tl.constexpr,
    DEPENDENT: tl.constexpr,
) -> None:
    wait_for_inputs(DEPENDENT)
    row = tl.program_id(1).to(tl.int64)
    column = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    scores = logits + _sample_of(samples, row, IS_HELD) * vocab
    read = _read_columns(scores, _bits_of(bits, row, vocab, IS_HELD), column, vocab, width, IS_HELD, DEPTH)
    peak, place = tl.max(read, axis=0, return_indices=True)
    weights = tl.exp((read - _finite(peak)[None, :]) / _divisor(tl.load(temperatures + row).to(tl.float32)))
    kept = row * width + column
    tl.store(peaks + kept, peak, mask=column < width)
    tl.store(sums + kept, tl.sum(weights, axis=0), mask=column < width)
    tl.store(firsts + kept, place * width + column, mask=column < width)


@triton.jit(do_not_specialize=["num_rows"])  # else some number of rows would be compiled for amid service
def _filter_columns(
    logits: tl.tensor,
    temperatures: tl.tensor,
    peaks: tl.tensor,
    sums: tl.tensor,
    filters: tl.tensor,
    floors: tl.tensor,
    samples: tl.tensor,
    bits: tl.tensor,
    vocab: tl.tensor,
    width: tl.tensor,
    num_rows: tl.tensor,
    IS_HELD: tl.constexpr,
    DEPTH: tl.constexpr,
    COLUMNS: tl.constexpr,
    LANES: tl.constexpr,
    BLOCK: tl.constexpr,
    SPARE_BITS: tl.constexpr,
    DEPENDENT: tl.constexpr,
) -> None:
    wait_for_inputs(DEPENDENT)
    row = tl.program_id(0).to(tl.int64)
    temperature = tl.load(temperatures + row).to(tl.float32)
    top_k = tl.load(filters + row)
    top_p = tl.load(filters + num_rows + row)
    min_p = tl.load(filters + 2 * num_rows + row)
    floor = tl.full((), float("-inf"), tl.float32)
    if (temperature > 0) & ((top_k > 0) | (top_p < 1) | (min_p > 0)):
        lane = tl.arange(0, LANES)
        peak = tl.load(peaks + row * width + lane, mask=lane < width, other=float("-inf"))
        highest, unbounded = tl.max(peak, axis=0), float("-inf")
        scores, own_bits = logits + _sample_of(samples, row, IS_HELD) * vocab, _bits_of(bits, row, vocab, IS_HELD)
        if min_p > 0:
            floor = highest + temperature * tl.log(min_p.to(tl.float32))
        if top_k > 0:
            least = least_kept(
                scores, own_bits, peak, top_k, unbounded, highest, temperature, vocab, IS_HELD, True, BLOCK, SPARE_BITS
            )
            floor = tl.maximum(floor, least)
        if top_p < 1:  # of what these left
            limit = top_p * measure(
                scores, own_bits, unbounded, floor, highest, temperature, vocab, IS_HELD, False, BLOCK
            )
            least = least_kept(
                scores, own_bits, peak, limit, floor, highest, temperature, vocab, IS_HELD, False, BLOCK, SPARE_BITS
            )
            floor = tl.maximum(floor, least)
        for start in range(0, width, COLUMNS):
            column = start + tl.arange(0, COLUMNS)
            inside = column < width
            read = _read_columns(scores, own_bits, column, vocab, width, IS_HELD, DEPTH)
            own = tl.load(peaks + row * width + column, mask=inside, other=0.0)
            weights = tl.where(read >= floor, tl.exp((read - _finite(own)[None, :]) / temperature), 0.0)
            tl.store(sums + row * width + column, tl.sum(weights, axis=0), mask=inside)
    tl.store(floors + row, floor)


@triton.jit
def _choose(
    logits: tl.tensor,
    temperatures: tl.tensor,
    peaks: tl.tensor,
    sums: tl.tensor,
    firsts: tl.tensor,
    floors: tl.tensor,
    uniforms: tl.tensor,
    tokens: tl.tensor,
    samples: tl.tensor,
    bits: tl.tensor,
    vocab: tl.tensor,
    width: tl.tensor,
    IS_HELD: tl.constexpr,
    DEPTH: tl.constexpr,
    LANES: tl.constexpr,
    DEPENDENT: tl.constexpr,
) -> None:
    wait_for_inputs(DEPENDENT)
    row = tl.program_id(0).to(tl.int64)
    sample = _sample_of(samples, row, IS_HELD)
    temperature = tl.load(temperatures + row).to(tl.float32)
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
        is_there = token < vocab
        if IS_HELD:
            is_there = may_come(_bits_of(bits, row, vocab, IS_HELD), token, is_there)
        scores = tl.load(logits + sample * vocab + token, mask=is_there, other=float("-inf")).to(tl.float32)
        weights = tl.exp((scores - tl.max(scores, axis=0)) / temperature)
        weights = tl.where(scores >= tl.load(floors + row), weights, 0.0)
        place, _ = _invert(weights, place, rest)
        tl.store(tokens + sample, (place * width + column).to(tl.int64))
    else:
        first = tl.load(firsts + row * width + lane, mask=inside & (peak == highest), other=vocab - 1)
        tl.store(tokens + sample, tl.min(first, axis=0).to(tl.int64))


@triton.jit
def _sample_of(samples: tl.tensor, row: tl.tensor, IS_HELD: tl.constexpr) -> tl.tensor:
    """Return which row of the logits is a program's."""
    return tl.load(samples + row).to(tl.int64) if IS_HELD else row


@triton.jit
def _bits_of(bits: tl.tensor, row: tl.tensor, vocab: tl.tensor, IS_HELD: tl.constexpr) -> tl.tensor:
    """Return where a program's bits are."""
    return bits + row * tl.cdiv(vocab, 32) if IS_HELD else bits


@triton.jit
def _read_columns(
    scores: tl.tensor,
    bits: tl.tensor,
    column: tl.tensor,
    vocab: tl.tensor,
    width: tl.tensor,
    IS_HELD: tl.constexpr,
    DEPTH: tl.constexpr,
) -> tl.tensor:
    """Return columns of a row, [DEPTH, columns], minus infinity where there are no tokens or none may come."""
    token = tl.arange(0, DEPTH)[:, None] * width + column[None, :]
    inside = (column < width)[None, :]
    is_there = inside & (token < vocab)
    if IS_HELD:
        is_there = may_come(bits, token, is_there)
    read = tl.load(scores + token, mask=is_there, other=float("-inf")).to(tl.float32)
    # a column beyond is not stored, but its difference of infinities would be no number
    return tl.where(inside, read, 0.0)


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
def _finite(peak: tl.tensor) -> tl.tensor:
    """Return what a column is weighed against: where a grammar has barred all of it, infinities' difference is none."""
    return tl.where(peak == float("-inf"), 0.0, peak)


@triton.jit
def _divisor(temperature: tl.tensor) -> tl.tensor:
    return tl.where(temperature > 0, temperature, 1.0)
