"""MXFP4 unpacked on the device. The torch reference is `engine/mxfp4.py`, whose module says what the format is.

Owns: the device functions that the expert kernels unpack with, and the order in which they multiply. The bits come in
the order of `engine/bit_order.py`.

**The lanes' order.** A sum over inputs may run in any order that weights and rows share. Four lanes of a tensor core's
left side hold one row of weights, and of every 4 * WIDTH inputs each has WIDTH in succession. So the order is chosen in
which each of the four has one whole block of every four: it unpacks the 16 bytes that it loaded itself, with the one
scale that it loaded itself, and hands nothing to another lane. Of 128 inputs, numbered by (block, word, half, pair),
where nibble 4 * half + pair of a word is meant, these are the places, the last varying first:

    WIDTH 2: (word, pair, block, half), for Hopper's own instruction
    WIDTH 4: (word, pair // 2, block, pair % 2, half), as Triton feeds the older one

What is last, a pair's two halves, is one register as it comes out of a word. Rows are put into the same order where
they are written to memory, by `place_in_lanes`.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.target_info import cuda_capability_geq

from gptoss_backend.engine.bit_order import FROM_FIRST, FROM_SECOND, OWN
from gptoss_backend.engine.kernels.interpreter import IS_INTERPRETED
from gptoss_backend.engine.mxfp4 import PackedMatrices

# between the exponent biases of bfloat16 and float32, 127, and of E2M1, 1
GROWTH = tl.constexpr(2.0**126)
# what bfloat16 weights are divided by until they are summed: so a scale of up to 2 ** 65 has room in an exponent
EASE = tl.constexpr(2.0**64)
_EASE_EXPONENT = tl.constexpr(64)
# of the order of bits, as signed numbers
_OWN = tl.constexpr(OWN - 2**32)
_FROM_FIRST = tl.constexpr(FROM_FIRST - 2**32)
_FROM_SECOND = tl.constexpr(FROM_SECOND)


def words_of(matrices: PackedMatrices) -> Tensor:
    """Return the blocks as the kernels read them, [num_experts, out, num_blocks, 4] int32."""
    assert matrices.is_repacked  # noqa: S101 (made so on loading)
    for part in (matrices.blocks, matrices.scales):
        assert part.is_contiguous()  # noqa: S101 (made so on loading)
    return matrices.blocks.view(torch.int32)


def factor_type(rows: Tensor) -> tl.dtype:
    """Return the dtype in which rows meet weights: their own, but the interpreter multiplies bfloat16's bits."""
    if rows.dtype == torch.bfloat16:
        return tl.float32 if IS_INTERPRETED else tl.bfloat16
    return tl.float16 if rows.dtype == torch.float16 else tl.float32


@triton.jit
def shrunken_values(words: tl.tensor) -> tl.tensor:
    """Return the four-bit floats of words [..., 4] int32 in their order, [..., 32] float32, divided by GROWTH."""
    first, second = tl.split(tl.reshape(words, [words.numel // 4, 2, 2]))
    # [number, word & 2, half, pair & 2, pair & 1, word & 1]
    values = tl.join(_values_of(first, second, 0, tl.float32), _values_of(first, second, 1, tl.float32))
    values = tl.permute(values, (0, 1, 5, 2, 3, 4))
    return tl.reshape(values, words.shape[:-1] + [32])  # noqa: RUF005 (Triton knows no unpacking)


@triton.constexpr_function
def width_of_warpgroups() -> int:
    """Return the WIDTH of the lanes' order where four warps multiply 64 rows of weights: 2 on Hopper."""
    return 2 if cuda_capability_geq(9) and not cuda_capability_geq(10) else 4


@triton.constexpr_function
def has_tensor_memory() -> bool:
    """Whether tiles are multiplied from a memory of their own: on B200 and B300."""
    return cuda_capability_geq(10) and not cuda_capability_geq(12)


@triton.jit
def weights_in_lanes(words: tl.tensor, scales: tl.tensor, DTYPE: tl.constexpr, WIDTH: tl.constexpr) -> tl.tensor:
    """Return packed rows in the lanes' order, [num_rows, 32 * num_blocks] of DTYPE, for sums to be `restored`.

    words: [num_rows, 4 * num_blocks] int32. scales: [num_rows, num_blocks] uint8, a multiple of four blocks.
    In bfloat16 weights are exact where the scale is from 2 ** -68 to 2 ** 65; below they lose bits, above they are
    infinite.
    """
    ROWS: tl.constexpr = words.shape[0]
    FOURS: tl.constexpr = scales.shape[1] // 4
    packed = tl.permute(tl.reshape(words, [ROWS, FOURS, 4, 2, 2]), (0, 1, 3, 2, 4))
    first, second = tl.split(packed)
    # [rows, fours, word & 2, block, half, pair & 2, pair & 1, word & 1]
    values = tl.join(_values_of(first, second, 0, DTYPE), _values_of(first, second, 1, DTYPE))
    if tl.bfloat16 == DTYPE:
        # 2 ** (scale - 127) * GROWTH / EASE, of which this is the exponent
        exponents = tl.minimum(scales, 129 + _EASE_EXPONENT).to(tl.uint16) + (126 - _EASE_EXPONENT)
        factors = (exponents << 7).to(tl.bfloat16, bitcast=True)
        weights = values * tl.reshape(factors, [ROWS, FOURS, 1, 4, 1, 1, 1, 1])
    else:
        factors = tl.reshape(power_of_two(scales), [ROWS, FOURS, 1, 4, 1, 1, 1, 1])
        weights = (values * GROWTH * factors).to(DTYPE)
    weights = tl.permute(weights, (0, 1, 2, 7, 5, 6, 3, 4) if WIDTH == 2 else (0, 1, 2, 7, 5, 3, 6, 4))
    return tl.reshape(weights, [ROWS, FOURS * 128])


@triton.jit
def place_in_lanes(value: tl.tensor, WIDTH: tl.constexpr) -> tl.tensor:
    """Return where in the lanes' order a row's values lie, of which these are the numbers."""
    pair, half, word, block = value % 4, value // 4 % 2, value // 8 % 4, value // 32 % 4
    place = pair * 8 + block * 2 + half if WIDTH == 2 else pair // 2 * 16 + block * 4 + pair % 2 * 2 + half
    return value // 128 * 128 + word * 32 + place


@triton.jit
def rows_of_scales(BANDS: tl.constexpr, ROWS: tl.constexpr) -> tl.tensor:
    """Return in which order a lane is to load the scales of BANDS * ROWS rows, for `scales_of_rows`.

    A warp takes the rows of a band by eights: a lane has one row of each, with all warps' first eights before their
    second. Loaded in this order, one row after the other, a scale is in the lane that has the words of its block.
    """
    place = tl.arange(0, BANDS * ROWS)
    return place % (BANDS * 8) // 8 * ROWS + place // (BANDS * 8) * 8 + place % 8


@triton.jit
def scales_of_rows(scales: tl.tensor, BANDS: tl.constexpr) -> tl.tensor:
    """Return scales [num_rows, num_blocks] that were loaded by `rows_of_scales` in the rows' own order."""
    ROWS: tl.constexpr = scales.shape[0]
    BLOCKS: tl.constexpr = scales.shape[1]
    eights = tl.reshape(scales, [ROWS // (BANDS * 8), BANDS, 8, BLOCKS])
    return tl.reshape(tl.permute(eights, (1, 0, 2, 3)), [ROWS, BLOCKS])


@triton.jit
def restored(sums: tl.tensor, DTYPE: tl.constexpr) -> tl.tensor:
    """Return float32 sums over eased weights as they are over the weights."""
    return sums * EASE if tl.bfloat16 == DTYPE else sums


@triton.jit
def _values_of(first: tl.tensor, second: tl.tensor, SECOND: tl.constexpr, DTYPE: tl.constexpr) -> tl.tensor:
    """Return the values of the first or the second of two words [...], [..., half, pair & 2, pair & 1] of DTYPE.

    They are divided by GROWTH: in float32, or for bfloat16 in it.
    """
    own = second if SECOND else first
    # exponent and mantissa are where bfloat16 has the lowest of its exponent and the highest of its mantissa, which is
    # right but for the larger exponent bias, also for 0.5, which is subnormal
    rotated = own << 26 | (own >> 6) & 0x03FFFFFF
    fourth = (first << (5 if SECOND else 6)) & _FROM_FIRST
    fourth |= ((second >> 2) if SECOND else (second << 7)) & _FROM_SECOND
    even = tl.join(_split(own & _OWN, DTYPE), _split((own << 4) & _OWN, DTYPE))
    odd = tl.join(_split(rotated & _OWN, DTYPE), _split(fourth, DTYPE))
    return tl.join(even, odd)


@triton.jit
def _split(pairs: tl.tensor, DTYPE: tl.constexpr) -> tl.tensor:
    if tl.bfloat16 == DTYPE:
        # written out in Triton, LLVM computes each half for itself and joins them again: an instruction more a weight
        low, high = tl.inline_asm_elementwise(
            "mov.b32 {$0, $1}, $2;", "=h,=h,r", [pairs], dtype=(tl.uint16, tl.uint16), is_pure=True, pack=1
        )
        halves = tl.join(low.to(tl.bfloat16, bitcast=True), high.to(tl.bfloat16, bitcast=True))
    else:
        halves = _widened(pairs)
    return halves


@triton.jit
def _widened(pairs: tl.tensor) -> tl.tensor:
    # bfloat16 is the upper half of float32
    low, high = pairs << 16, pairs & -0x10000
    return tl.join(low.to(tl.float32, bitcast=True), high.to(tl.float32, bitcast=True))


@triton.jit
def power_of_two(scales: tl.tensor) -> tl.tensor:
    """Return 2 ** (scale - 127) in float32, exactly; infinity for 255."""
    bits = scales.to(tl.uint32)
    subnormal = tl.full(bits.shape, 0x00400000, tl.uint32)
    return tl.where(bits == 0, subnormal, bits << 23).to(tl.float32, bitcast=True)
