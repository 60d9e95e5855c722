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
# between the exponent biases of float16, 15, and of E2M1, 1
GROWTH = tl.constexpr(16384.0)


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


@triton.jit(do_not_specialize=["count"])
def _dequantise(
    words: tl.tensor, scales: tl.tensor, values: tl.tensor, count: tl.tensor, TILE_BLOCKS: tl.constexpr
) -> None:
    block = tl.program_id(0).to(tl.int64) * TILE_BLOCKS + tl.arange(0, TILE_BLOCKS)
    inside = block < count
    packed = tl.load(words + block[:, None] * 4 + tl.arange(0, 4)[None, :], mask=inside[:, None], other=0)
    unpacked = shrunken_values(packed).to(tl.float32) * GROWTH
    scale = power_of_two(tl.load(scales + block, mask=inside, other=0))
    place = block[:, None] * 32 + tl.arange(0, 32)[None, :]
    tl.store(values + place, (unpacked * scale[:, None]).to(values.dtype.element_ty), mask=inside[:, None])


@triton.jit
def shrunken_values(words: tl.tensor) -> tl.tensor:
    """Return the four-bit floats of words [..., 4] int32 in their order, [..., 32] float16, divided by GROWTH."""
    # nibbles 0 and 4, 1 and 5, ... of a word become the two halves of a register; join sorts them without moving any
    first = tl.join(_halves(words), _halves(words >> 8))
    second = tl.join(_halves(words >> 4), _halves(words >> 12))
    values = tl.join(first, second)  # [..., 4, nibble & 4, nibble & 2, nibble & 1]
    return tl.reshape(values, words.shape[:-1] + [32])  # noqa: RUF005 (Triton knows no unpacking)


@triton.jit
def _halves(words: tl.tensor) -> tl.tensor:
    # the sign moves to float16's; two bits of exponent and one of mantissa go to the lowest of float16's exponent and
    # the highest of its mantissa, which is right but for the larger exponent bias, also for 0.5, which is subnormal
    bits = ((words & 0x00070007) << 9) | ((words & 0x00080008) << 12)
    low, high = (bits & 0xFFFF).to(tl.uint16), (bits >> 16).to(tl.uint16)
    return tl.join(low.to(tl.float16, bitcast=True), high.to(tl.float16, bitcast=True))


@triton.jit
def power_of_two(scales: tl.tensor) -> tl.tensor:
    """Return 2 ** (scale - 127) in float32, exactly; infinity for 255."""
    bits = scales.to(tl.uint32)
    subnormal = tl.full(bits.shape, 0x00400000, tl.uint32)
    return tl.where(bits == 0, subnormal, bits << 23).to(tl.float32, bitcast=True)
