"""GPT-OSS's SwiGLU on the device; the torch reference is `experts.swiglu`."""

from __future__ import annotations

import triton
import triton.language as tl

_LEAST_GATE = tl.constexpr(-1000.0)


@triton.jit
def swiglu(gate: tl.tensor, up: tl.tensor, alpha: tl.tensor, limit: tl.tensor) -> tl.tensor:
    """Return (up + 1) * gate * sigmoid(alpha * gate), both clamped first. In float32, where none of it overflows."""
    gate = tl.maximum(tl.minimum(gate, limit), _LEAST_GATE)
    up = tl.maximum(tl.minimum(up, limit), -limit)
    return (up + 1) * gate * tl.sigmoid(gate * alpha)
