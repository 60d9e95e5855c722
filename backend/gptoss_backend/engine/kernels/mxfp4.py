"""MXFP4 unpacked on the device. The torch reference is `engine/mxfp4.py`, whose module says what the format is.

Owns: the device functions that the expert kernels unpack with, and `dequantise`.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from gptoss_backend.engine.config import BLOCK_VALUES
from gptoss_backend.engine.mxfp4 import PackedMatrices

_TILE_BLOCKS = 64
# between the exponent biases of bfloat16 and float32, 127, and of E2M1, 1
GROWTH = tl.constexpr(2.0**126)
# what bfloat16 weights are divided by until they are summed: so a scale of up to 2 ** 65 has room in an exponent
EASE = tl.constexpr(2.0**64)
_EASE_EXPONENT = tl.constexpr(64)


def dequantise(matrices: PackedMatrices) -> Tensor:
    """Return all matrices unpacked, [num_experts, out, num_blocks * 32] in their dtype, as `PackedMatrices.unpack`."""
    *sizes, num_blocks = matrices.scales.shape
    values = torch.empty(*sizes, num_blocks * BLOCK_VALUES, dtype=matrices.dtype, device=matrices.scales.device)
    count = matrices.scales.numel()
    with torch.cuda.device_of(values):  # type: ignore[no-untyped-call]
        _dequantise[(triton.cdiv(count, _TILE_BLOCKS),)](
            words_of(matrices), matrices.scales, values, count, TILE_BLOCKS=_TILE_BLOCKS
        )
    return values


def words_of(matrices: PackedMatrices) -> Tensor:
    """Return the blocks as the kernels read them, [num_experts, out, num_blocks, 4] int32."""
    for part in (matrices.blocks, matrices.scales):
        assert part.is_contiguous()  # noqa: S101 (made so on loading)
    return matrices.blocks.view(torch.int32)


def factor_type(rows: Tensor) -> tl.dtype:
    """Return the dtype in which rows meet weights: their own, but the interpreter multiplies bfloat16's bits."""
    if rows.dtype == torch.bfloat16:
        return tl.float32 if rows.device.type == "cpu" else tl.bfloat16
    return tl.float16 if rows.dtype == torch.float16 else tl.float32


@triton.jit(do_not_specialize=["count"])
def _dequantise(
    words: tl.tensor, scales: tl.tensor, values: tl.tensor, count: tl.tensor, TILE_BLOCKS: tl.constexpr
) -> None:
    block = tl.program_id(0).to(tl.int64) * TILE_BLOCKS + tl.arange(0, TILE_BLOCKS)
    inside = block < count
    packed = tl.load(words + block[:, None] * 4 + tl.arange(0, 4)[None, :], mask=inside[:, None], other=0)
    unpacked = shrunken_values(packed) * GROWTH
    scale = power_of_two(tl.load(scales + block, mask=inside, other=0))
    place = block[:, None] * 32 + tl.arange(0, 32)[None, :]
    tl.store(values + place, (unpacked * scale[:, None]).to(values.dtype.element_ty), mask=inside[:, None])


@triton.jit
def shrunken_values(words: tl.tensor) -> tl.tensor:
    """Return the four-bit floats of words [..., 4] int32 in their order, [..., 32] float32, divided by GROWTH."""
    # join sorts the halves of each pair without moving any
    first = tl.join(_widened(_pair(words, 0)), _widened(_pair(words, 2)))
    second = tl.join(_widened(_pair(words, 1)), _widened(_pair(words, 3)))
    values = tl.join(first, second)  # [..., 4, nibble & 4, nibble & 2, nibble & 1]
    return tl.reshape(values, words.shape[:-1] + [32])  # noqa: RUF005 (Triton knows no unpacking)


@triton.jit
def eased_weights(words: tl.tensor, scales: tl.tensor, DTYPE: tl.constexpr) -> tl.tensor:
    """Return packed rows in the order of `shuffled`, [num_rows, 8 * num_words] of DTYPE, for sums to be `restored`.

    words: [num_rows, num_words] int32. scales: [num_rows, num_words / 4] uint8. In bfloat16 weights are exact where the
    scale is from 2 ** -68 to 2 ** 65; below they lose bits, above they are infinite.
    """
    ROWS: tl.constexpr = words.shape[0]
    BLOCKS: tl.constexpr = scales.shape[1]
    # the halves of a pair are neighbours, as a tensor core's register holds them: nothing has to move
    first = tl.join(_split(_pair(words, 0), DTYPE), _split(_pair(words, 2), DTYPE))
    second = tl.join(_split(_pair(words, 1), DTYPE), _split(_pair(words, 3), DTYPE))
    values = tl.permute(tl.join(first, second), (0, 1, 3, 4, 2))  # [rows, words, pair & 2, pair & 1, half]
    blocks = tl.reshape(values, [ROWS, BLOCKS, 32])
    if tl.bfloat16 == DTYPE:
        # 2 ** (scale - 127) * GROWTH / EASE, of which this is the exponent
        exponents = tl.minimum(scales, 129 + _EASE_EXPONENT).to(tl.uint16) + (126 - _EASE_EXPONENT)
        weights = blocks * (exponents << 7).to(tl.bfloat16, bitcast=True)[:, :, None]
    else:
        weights = (blocks * GROWTH * power_of_two(scales)[:, :, None]).to(DTYPE)
    return tl.reshape(weights, [ROWS, BLOCKS * 32])


@triton.jit
def restored(sums: tl.tensor, DTYPE: tl.constexpr) -> tl.tensor:
    """Return float32 sums over eased weights as they are over the weights."""
    return sums * EASE if tl.bfloat16 == DTYPE else sums


@triton.jit
def shuffled(rows: tl.tensor) -> tl.tensor:
    """Return rows [num_rows, num_values] with each eight values in the order in which a word's pairs come."""
    ROWS: tl.constexpr = rows.shape[0]
    VALUES: tl.constexpr = rows.shape[1]
    return tl.reshape(tl.permute(tl.reshape(rows, [ROWS, VALUES // 8, 2, 4]), (0, 1, 3, 2)), [ROWS, VALUES])


@triton.jit
def _pair(words: tl.tensor, NUMBER: tl.constexpr) -> tl.tensor:
    """Return nibbles NUMBER and NUMBER + 4 of each word as the two halves of an int32, bfloat16 divided by GROWTH."""
    # two bits of exponent and one of mantissa go to the lowest of bfloat16's exponent and the highest of its mantissa,
    # which is right but for the larger exponent bias, also for 0.5, which is subnormal
    signs = words << (12 - 4 * NUMBER)
    numbers = words << (6 - 4 * NUMBER) if NUMBER < 2 else words >> (4 * NUMBER - 6)
    return (signs & -0x7FFF8000) | (numbers & 0x01C001C0)


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
