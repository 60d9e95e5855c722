"""What happens between two matmuls of a layer on the device: residual add and RMSNorm in one pass over a row.

Owns: `add_and_norm`. The torch reference is `TorchOperators.add_and_norm` in `engine/operators.py`.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from gptoss_backend.engine.kernels.dependent_launch import launch_options, wait_for_inputs


def add_and_norm(
    hidden: Tensor, addition: Tensor | None, weight: Tensor, eps: float, dtype: torch.dtype
) -> tuple[Tensor, Tensor]:
    """Return (hidden + addition, its RMSNorm in `dtype`), both [num_tokens, hidden]; without an addition hidden itself.

    The norm is of the sum before it is rounded to hidden's dtype.
    """
    hidden = hidden.contiguous()
    num_tokens, size = hidden.shape
    total = hidden if addition is None else torch.empty_like(hidden)
    normed = torch.empty(num_tokens, size, dtype=dtype, device=hidden.device)
    _add_and_norm[(num_tokens,)](
        hidden,
        hidden if addition is None else addition.contiguous(),
        weight,
        total,
        normed,
        eps,
        SIZE=size,
        LANES=triton.next_power_of_2(size),
        ADDS=addition is not None,
        num_warps=8,
        **launch_options(),
    )
    return total, normed


@triton.jit
def _add_and_norm(
    hidden: tl.tensor,
    addition: tl.tensor,
    weight: tl.tensor,
    total: tl.tensor,
    normed: tl.tensor,
    eps: tl.tensor,
    SIZE: tl.constexpr,
    LANES: tl.constexpr,
    ADDS: tl.constexpr,
    DEPENDENT: tl.constexpr,
) -> None:
    wait_for_inputs(DEPENDENT)
    lane = tl.arange(0, LANES)
    inside = lane < SIZE
    place = tl.program_id(0).to(tl.int64) * SIZE + lane
    row = tl.load(hidden + place, mask=inside, other=0).to(tl.float32)
    if ADDS:
        row += tl.load(addition + place, mask=inside, other=0).to(tl.float32)
        tl.store(total + place, row.to(total.dtype.element_ty), mask=inside)
    root = tl.rsqrt(tl.sum(row * row, axis=0) / SIZE + eps)
    scaled = row * root * tl.load(weight + lane, mask=inside, other=0).to(tl.float32)
    tl.store(normed + place, scaled.to(normed.dtype.element_ty), mask=inside)
