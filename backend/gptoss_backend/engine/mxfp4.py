"""MXFP4, the number format of the published experts (OCP Microscaling Formats v1.0, section 5.1).

Owns: the torch reference that unpacks it, and matrices that stay packed. A block is 32 four-bit floats (E2M1, two in a
byte, the first in the low half) that share one power of two, stored as exponent + 127.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import torch
from torch import Tensor

from gptoss_backend.engine.bit_order import repack
from gptoss_backend.engine.config import BLOCK_VALUES

_MAGNITUDES = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)
_REPACKED_BYTES = 64 * 2**20
E2M1_VALUES = (*_MAGNITUDES, *(-value for value in _MAGNITUDES))


@dataclass(frozen=True, slots=True)
class PackedMatrices:
    """One matrix for each expert, kept packed; indexing unpacks one of them."""

    blocks: Tensor
    """[num_experts, out, num_blocks, 16] uint8"""
    scales: Tensor
    """[num_experts, out, num_blocks] uint8"""
    dtype: torch.dtype
    """Of what indexing gives."""
    is_repacked: bool = False
    """Whether the blocks' bits are in the order of `bit_order.py`, which the GPU kernels need"""

    def __getitem__(self, expert: int) -> Tensor:
        """Return an expert's matrix, [out, num_blocks * 32]."""
        blocks = self.blocks[expert]
        return unpack_mxfp4(repack(blocks, back=True) if self.is_repacked else blocks, self.scales[expert], self.dtype)

    def repack(self) -> PackedMatrices:
        """Return the same matrices for the GPU kernels, in the same memory, which this object then must not read."""
        # a few at a time: no room is left for all of them twice
        count = max(1, _REPACKED_BYTES * len(self.blocks) // self.blocks.nbytes)
        for first in range(0, len(self.blocks), count):
            blocks = self.blocks[first : first + count]
            blocks.copy_(repack(blocks))
        return replace(self, is_repacked=True)

    @property
    def nbytes(self) -> int:
        """Memory taken."""
        return self.blocks.nbytes + self.scales.nbytes

    def unpack(self) -> Tensor:
        """Return all of them, [num_experts, out, num_blocks * 32]."""
        *sizes, num_blocks = self.scales.shape
        values = torch.empty(*sizes, num_blocks * BLOCK_VALUES, dtype=self.dtype, device=self.blocks.device)
        for expert in range(len(values)):  # one at a time: unpacking passes through float32
            values[expert] = self[expert]
        return values


def unpack_mxfp4(blocks: Tensor, scales: Tensor, dtype: torch.dtype) -> Tensor:
    """Return the values, [..., num_blocks * 32] in `dtype`.

    blocks: [..., num_blocks, 16] uint8. scales: [..., num_blocks] uint8.
    Exact in bfloat16 and float32; float16 rounds what lies outside its range.
    """
    table = torch.tensor(E2M1_VALUES, dtype=torch.float32, device=blocks.device)
    # one look-up gives both halves of a byte
    pairs = torch.stack((table.repeat(16), table.repeat_interleave(16)), dim=-1)  # [256, 2]
    values = pairs[blocks.int()].flatten(-2)  # [..., num_blocks, 32]
    exponents = scales.int()[..., None] - 127
    return torch.ldexp(values, exponents).to(dtype).flatten(-2)


def pack_mxfp4(values: Tensor) -> tuple[Tensor, Tensor]:
    """Round values [..., num_blocks * 32] to MXFP4; returns (blocks, scales) as `unpack_mxfp4` takes them."""
    grouped, exponents = _blocks_of(values)
    scaled = torch.ldexp(grouped, -exponents[..., None])
    table = torch.tensor(_MAGNITUDES, device=values.device)
    middles = (table[1:] + table[:-1]) / 2
    codes = torch.bucketize(scaled.abs().contiguous(), middles).to(torch.uint8)
    codes |= (scaled < 0).to(torch.uint8) << 3
    low, high = codes[..., 0::2], codes[..., 1::2]
    return low | (high << 4), (exponents + 127).to(torch.uint8)


def round_to_mxfp4(values: Tensor) -> Tensor:
    """Return the values [..., num_blocks * 32] that packing and unpacking leave, float32, sooner than by doing both."""
    grouped, exponents = _blocks_of(values)
    unit = torch.ldexp(torch.ones_like(exponents, dtype=torch.float32), exponents)[..., None]
    scaled = grouped.abs() / unit
    # E2M1's values lie half, one and two apart below 2, 4 and 8; one in the middle goes to the smaller
    apart = 0.5 + 0.5 * (scaled >= 2) + (scaled >= 4)
    nearest = ((scaled / apart - 0.5).ceil_() * apart).clamp_(max=_MAGNITUDES[-1])
    return (nearest.copysign_(grouped) * unit).flatten(-2)


def _blocks_of(values: Tensor) -> tuple[Tensor, Tensor]:
    """Return values [..., num_blocks * 32] as float32 blocks [..., num_blocks, 32], and each block's power of two."""
    grouped = values.float().view(*values.shape[:-1], -1, BLOCK_VALUES)
    largest = grouped.abs().amax(dim=-1).clamp(min=2.0**-100)
    # the largest magnitude lands in [4, 8), E2M1's top binade, where 6 is the largest value there is
    return grouped, (largest.log2().floor() - 2).int()
