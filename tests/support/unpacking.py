"""Packed matrices written out as the kernels unpack them."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from gptoss_backend.engine.kernels.mxfp4 import (
    GROWTH,
    place_in_lanes,
    power_of_two,
    restored,
    shrunken_values,
    weights_in_lanes,
    words_of,
)
from gptoss_backend.engine.mxfp4 import PackedMatrices

_BLOCKS = 256
_ROWS = 32


def unpack_one_by_one(matrices: PackedMatrices) -> Tensor:
    """Return [num_experts, out, num_blocks * 32] in the matrices' dtype, as cards without tensor cores unpack."""
    values = torch.empty(*matrices.scales.shape, 32, dtype=matrices.dtype, device=matrices.scales.device)
    count = matrices.scales.numel()
    _unpack_blocks[(triton.cdiv(count, _BLOCKS),)](words_of(matrices), matrices.scales, values, count, BLOCKS=_BLOCKS)
    return values.flatten(-2)


def unpack_for_tensor_cores(matrices: PackedMatrices, dtype: tl.dtype, width: int) -> Tensor:
    """Return the same in float32, each weight back from its place in the lanes' order.

    The matrices have a multiple of four blocks and of 32 rows. dtype: in which they are unpacked.
    """
    *_, num_blocks = matrices.scales.shape
    values = torch.empty(*matrices.scales.shape, 32, dtype=torch.float32, device=matrices.scales.device)
    _unpack_rows[(matrices.scales.numel() // num_blocks // _ROWS,)](
        words_of(matrices), matrices.scales, values, num_blocks, ROWS=_ROWS, DTYPE=dtype, WIDTH=width
    )
    return values.flatten(-2)


@triton.jit
def _unpack_blocks(
    words: tl.tensor, scales: tl.tensor, values: tl.tensor, count: tl.tensor, BLOCKS: tl.constexpr
) -> None:
    block = tl.program_id(0).to(tl.int64) * BLOCKS + tl.arange(0, BLOCKS)
    inside = block < count
    packed = tl.load(words + block[:, None] * 4 + tl.arange(0, 4)[None, :], mask=inside[:, None], other=0)
    scale = power_of_two(tl.load(scales + block, mask=inside, other=0))
    unpacked = shrunken_values(packed) * GROWTH * scale[:, None]
    place = block[:, None] * 32 + tl.arange(0, 32)[None, :]
    tl.store(values + place, unpacked.to(values.dtype.element_ty), mask=inside[:, None])


@triton.jit
def _unpack_rows(
    words: tl.tensor,
    scales: tl.tensor,
    values: tl.tensor,
    num_blocks: tl.tensor,
    ROWS: tl.constexpr,
    DTYPE: tl.constexpr,
    WIDTH: tl.constexpr,
) -> None:
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    for first in range(0, num_blocks, 4):
        packed = tl.load(words + (row * num_blocks + first) * 4 + tl.arange(0, 16)[None, :])
        scale = tl.load(scales + row * num_blocks + first + tl.arange(0, 4)[None, :])
        weights = restored(weights_in_lanes(packed, scale, DTYPE, WIDTH).to(tl.float32), DTYPE)
        # where the value of each number is
        places = place_in_lanes(tl.arange(0, 128), WIDTH)
        start = values + (row * num_blocks + first) * 32
        tl.store(
            start + tl.arange(0, 128)[None, :], tl.gather(weights, tl.broadcast_to(places[None, :], [ROWS, 128]), 1)
        )
