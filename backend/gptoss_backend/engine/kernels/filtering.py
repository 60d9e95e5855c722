"""The least of a row's logits that top-k and top-p keep, found on the device.

Owns: the search for it, by halving the range of numbers that a dtype has: 65,536 in bfloat16, of which those between
the likeliest and what is found are a few hundred; what bits of tokens mean to a kernel. Does not know: which filters
there are, draws.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl

SPARE_BITS = {torch.bfloat16: 16, torch.float16: 13, torch.float32: 0}
"""Bits of a float32 that are the same for all numbers of a dtype: those behind its fraction."""


@triton.jit
def least_kept(
    scores: tl.tensor,
    bits: tl.tensor,
    peak: tl.tensor,
    limit: tl.tensor,
    floor: tl.tensor,
    highest: tl.tensor,
    temperature: tl.tensor,
    vocab: tl.tensor,
    IS_HELD: tl.constexpr,
    COUNTS: tl.constexpr,
    BLOCK: tl.constexpr,
    SPARE_BITS: tl.constexpr,
) -> tl.tensor:
    """Return the least number for which those above it measure less than `limit`, as `drawing.cutoff`."""
    low, high = _rank(tl.full((), float("-inf"), tl.float32), SPARE_BITS), _rank(highest, SPARE_BITS)
    # the columns' peaks are among the numbers: they tell at once below what these need not be looked at
    least = high
    while low < least:
        middle = low + (least - low) // 2
        sizes = _sizes(peak, _number_at(middle, SPARE_BITS), floor, highest, temperature, COUNTS)
        if tl.sum(sizes.to(tl.float64), axis=0) < limit:
            least = middle
        else:
            low = middle + 1
    while low < high:
        middle = low + (high - low) // 2
        bound = _number_at(middle, SPARE_BITS)
        if measure(scores, bits, bound, floor, highest, temperature, vocab, IS_HELD, COUNTS, BLOCK) < limit:
            high = middle
        else:
            low = middle + 1
    return _number_at(low, SPARE_BITS)


@triton.jit
def measure(
    scores: tl.tensor,
    bits: tl.tensor,
    bound: tl.tensor,
    floor: tl.tensor,
    highest: tl.tensor,
    temperature: tl.tensor,
    vocab: tl.tensor,
    IS_HELD: tl.constexpr,
    COUNTS: tl.constexpr,
    BLOCK: tl.constexpr,
) -> tl.tensor:
    """Return how many tokens of a row are above `bound` and not below `floor`, or what they weigh together.

    bits: where IS_HELD, which of them count.
    """
    total = tl.zeros((), tl.float64)
    for start in range(0, vocab, BLOCK):
        token = start + tl.arange(0, BLOCK)
        inside = token < vocab
        if IS_HELD:
            inside = may_come(bits, token, inside)
        read = tl.load(scores + token, mask=inside, other=float("-inf")).to(tl.float32)
        total += tl.sum(_sizes(read, bound, floor, highest, temperature, COUNTS), axis=0).to(tl.float64)
    return total


@triton.jit
def may_come(bits: tl.tensor, token: tl.tensor, inside: tl.tensor) -> tl.tensor:
    """Return which tokens may come, by bits as in `token_bits.py`; none that is not inside."""
    return (tl.load(bits + token // 32, mask=inside, other=0) >> token % 32) & 1 > 0


@triton.jit
def _sizes(
    numbers: tl.tensor,
    bound: tl.tensor,
    floor: tl.tensor,
    highest: tl.tensor,
    temperature: tl.tensor,
    COUNTS: tl.constexpr,
) -> tl.tensor:
    """Return 1 for each number above `bound` and not below `floor`, or what it weighs; else 0."""
    weights = tl.exp((numbers - highest) / temperature) if not COUNTS else 1.0
    return tl.where((numbers > bound) & (numbers >= floor), weights, 0.0)


@triton.jit
def _rank(number: tl.tensor, SPARE_BITS: tl.constexpr) -> tl.tensor:
    """Return an integer that orders the numbers of a dtype as they are: a float's bits, but for the sign, do."""
    bits = number.to(tl.int32, bitcast=True)
    return (tl.where(bits < 0, bits ^ 0x7FFFFFFF, bits) >> SPARE_BITS).to(tl.int64)


@triton.jit
def _number_at(rank: tl.tensor, SPARE_BITS: tl.constexpr) -> tl.tensor:
    """Return the number of a rank."""
    bits = (rank << SPARE_BITS).to(tl.int32)
    bits = tl.where(bits < 0, (bits | ((1 << SPARE_BITS) - 1)) ^ 0x7FFFFFFF, bits)
    return bits.to(tl.float32, bitcast=True)
