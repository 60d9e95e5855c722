"""The order of MXFP4's bits in which the GPU kernels unpack them soonest.

Owns: where each bit of two neighbouring words goes. Does not know: what the bits mean to a kernel beyond this.

A word of four bytes holds eight values. The kernels make four registers of it, each with two bfloat16: the values n and
n + 4 of a word in a register's halves, and in each half the sign in bit 15, the exponent and the mantissa in bits 8 to
6. As published each bit has to be shifted to its place, which takes fifteen instructions a word. Here three registers
of a word are its bits as they stand behind one rotation and one mask. No four rotations of such a mask are disjoint, so
the fourth is put together from what two words have left: nine instructions a word.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache

import torch
from torch import Tensor

ROTATIONS = (0, 6, -4)
"""To the right, of a word for its first three registers."""
LEFT_SHIFTS = (6, 5)
"""Of the first word, for what its own and the second word's fourth register have of it."""
RIGHT_SHIFTS = (-7, 2)
"""Of the second word, for the same two registers."""
OWN = 0x81C081C0
"""What a register holds."""
FROM_FIRST = 0x80408040
FROM_SECOND = 0x01800180

_Move = tuple[int, int, int]
"""From which word of two, to which, and by how many bits to the left."""


def repack(blocks: Tensor, *, back: bool = False) -> Tensor:
    """Return MXFP4 blocks [..., 16] uint8 with their bits in the kernels' order; back: from it to the published one."""
    words = blocks.view(torch.int32).view(*blocks.shape[:-1], 2, 2)  # [..., 2, first or second]
    result = torch.zeros_like(words)
    for (source, target, left), mask in _moves(back).items():
        bits = words[..., source]
        # a shift to the right brings copies of the sign, but to none of the mask's places
        result[..., target] |= (bits << left if left >= 0 else bits >> -left) & mask
    return result.flatten(-2).view(torch.uint8)


@cache
def _moves(back: bool) -> dict[_Move, int]:
    """Return the bits that each move brings, as a mask of where they arrive, int32."""
    moves: dict[_Move, int] = {}
    for published, kernel in _places():
        (source, source_bit), (target, target_bit) = (kernel, published) if back else (published, kernel)
        move = source, target, target_bit - source_bit
        moves[move] = moves.get(move, 0) | 1 << target_bit
    return {move: mask - (mask >> 31 << 32) for move, mask in moves.items()}


def _places() -> Iterator[tuple[tuple[int, int], tuple[int, int]]]:
    """Yield (word, bit) as published and in the kernels' order, for each bit of two words."""
    for word in (0, 1):
        for number in range(4):
            for bit in range(32):
                if OWN >> bit & 1:
                    nibble_bit = {6: 0, 7: 1, 8: 2, 15: 3}[bit % 16]
                    yield (word, bit // 16 * 16 + 4 * number + nibble_bit), _place(word, number, bit)


def _place(word: int, number: int, bit: int) -> tuple[int, int]:
    """Return where a bit of a word's register lies in the two words."""
    if number < 3:
        return word, (bit + ROTATIONS[number]) % 32
    return (0, bit - LEFT_SHIFTS[word]) if FROM_FIRST >> bit & 1 else (1, bit + RIGHT_SHIFTS[word])
