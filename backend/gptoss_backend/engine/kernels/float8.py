"""Rounding to float8 on the device. The torch reference is what `engine/attention.py` writes into a cache.

Owns: the device function with which a cache's vectors are rounded. Reading needs none: Triton-language widens e4m3.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def float8_of(values: tl.tensor) -> tl.tensor:
    """Return float32 values as e4m3: the nearest, of two the even one; beyond 448 it is 448, and no number stays none.

    By their bits, since Triton's interpreter cuts off in place of rounding: so what is tested there is what runs.
    """
    bits = values.to(tl.uint32, bitcast=True)
    size = bits & 0x7FFFFFFF
    # three bits of mantissa are left of 23, and exponents count from -7 in place of -127
    normal = (size - (120 << 23) + 0x7FFFF + ((size >> 20) & 1)) >> 20
    # below 2^-6 in steps of 2^-9, which is what the last bit of 2^14 is worth
    subnormal = (tl.abs(values) + 16384.0).to(tl.uint32, bitcast=True) & 0xF
    code = tl.where(size < (121 << 23), subnormal, tl.minimum(normal, 0x7E))
    code = tl.where(size > 0x7F800000, 0x7F, code) | ((bits >> 24) & 0x80)
    return code.to(tl.uint8).to(tl.float8e4nv, bitcast=True)
