"""Random tensors of a GPT-OSS checkpoint, drawn in pieces so that no matrix is ever whole in memory.

Owns: how each kind of tensor is drawn, its type and size on disk. Does not know: which tensors a model has, files.

Each tensor has a generator of its own, seeded by the checkpoint's seed and the tensor's name: the numbers do not depend
on the order or the number of threads in which tensors are drawn.
"""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gptoss_backend.engine.config import BLOCK_VALUES
from gptoss_backend.engine.mxfp4 import E2M1_VALUES, unpack_mxfp4

Bytes = NDArray[np.uint8]

_PIECE_VALUES: Final = 1 << 22  # 16 MiB of float32: small beside a model, large beside the cost of a call
_WORD: Final = 8
_CODES_RMS: Final = math.sqrt(sum(value * value for value in E2M1_VALUES) / len(E2M1_VALUES))
_EXPONENT_BIAS: Final = 127


class RandomTensor(Protocol):
    """One tensor of a checkpoint."""

    @property
    def name(self) -> str:
        """Its name in the file."""

    @property
    def shape(self) -> tuple[int, ...]:
        """Its shape in the file."""

    @property
    def dtype(self) -> str:
        """Its type, as safetensors spells it."""

    def draw(self, seed: int) -> Iterator[Bytes]:
        """Yield its bytes in order, in pieces."""


def num_bytes(tensor: RandomTensor) -> int:
    """Return a tensor's size on disk."""
    return math.prod(tensor.shape) * {"BF16": 2, "U8": 1}[tensor.dtype]


@dataclass(frozen=True, slots=True)
class Normal:
    """Normal numbers in bfloat16."""

    name: str
    shape: tuple[int, ...]
    std: float
    dtype: str = "BF16"

    def draw(self, seed: int) -> Iterator[Bytes]:
        """Yield its bytes in order, in pieces."""
        generator = _generator(seed, self.name)
        for count in _pieces(math.prod(self.shape), _PIECE_VALUES):
            values = torch.from_numpy(generator.standard_normal(count, dtype=np.float32))
            yield _bytes_of(values.mul_(self.std).bfloat16())


@dataclass(frozen=True, slots=True)
class Ones:
    """Ones in bfloat16."""

    name: str
    shape: tuple[int, ...]
    dtype: str = "BF16"

    def draw(self, seed: int) -> Iterator[Bytes]:
        """Yield its bytes, whatever the seed."""
        yield _bytes_of(torch.ones(self.shape, dtype=torch.bfloat16))


@dataclass(frozen=True, slots=True)
class Codes:
    """MXFP4's four-bit codes, two in a byte: all sixteen equally likely, so any byte is as good as another."""

    name: str
    shape: tuple[int, ...]
    """[num_experts, rows, blocks in a row, 16]"""
    dtype: str = "U8"

    def draw(self, seed: int) -> Iterator[Bytes]:
        """Yield its bytes in order, in pieces."""
        generator = _generator(seed, self.name)
        for count in _pieces(math.prod(self.shape), _PIECE_VALUES * _WORD):
            words = generator.integers(0, 2**64 - 1, size=-(-count // _WORD), dtype=np.uint64, endpoint=True)
            yield words.view(np.uint8)[:count]


@dataclass(frozen=True, slots=True)
class Scales:
    """MXFP4's exponents: the two neighbours that give uniform codes the wanted spread, in the right proportion."""

    name: str
    shape: tuple[int, ...]
    """[num_experts, rows, blocks in a row]"""
    std: float
    """Of the values that the codes stand for."""
    dtype: str = "U8"

    def draw(self, seed: int) -> Iterator[Bytes]:
        """Yield its bytes in order, in pieces."""
        lower = math.floor(math.log2(self.std / _CODES_RMS))
        # a share p of blocks twice as large: (1 - p) + 4 p of the lower variance is the wanted one
        share = ((self.std / _CODES_RMS / 2.0**lower) ** 2 - 1) / 3
        generator = _generator(seed, self.name)
        for count in _pieces(math.prod(self.shape), _PIECE_VALUES):
            is_upper = generator.random(count, dtype=np.float32) < share
            yield is_upper.astype(np.uint8) + np.uint8(lower + _EXPONENT_BIAS)


@dataclass(frozen=True, slots=True)
class UnpackedExperts:
    """The bfloat16 values of codes and scales, in transformers' layout: it multiplies rows by matrices."""

    name: str
    codes: Codes
    scales: Scales
    dtype: str = "BF16"

    @property
    def shape(self) -> tuple[int, ...]:
        """[num_experts, columns, rows]"""
        num_experts, rows, blocks = self.scales.shape
        return (num_experts, blocks * BLOCK_VALUES, rows)

    def draw(self, seed: int) -> Iterator[Bytes]:
        """Yield its bytes, expert by expert. Holds the codes whole."""
        codes, scales = (_whole(tensor, seed) for tensor in (self.codes, self.scales))
        for expert_codes, expert_scales in zip(codes, scales, strict=True):
            yield _bytes_of(unpack_mxfp4(expert_codes, expert_scales, torch.bfloat16).T.contiguous())


def expert_matrix(name: str, shape: tuple[int, int, int], std: float) -> tuple[Codes, Scales]:
    """Return the two tensors of the experts' matrices [num_experts, rows, columns] in the published layout."""
    num_experts, rows, columns = shape
    blocks = (num_experts, rows, columns // BLOCK_VALUES)
    return Codes(f"{name}_blocks", (*blocks, BLOCK_VALUES // 2)), Scales(f"{name}_scales", blocks, std)


def _generator(seed: int, name: str) -> np.random.Generator:
    return np.random.Generator(np.random.SFC64([seed, zlib.crc32(name.encode())]))


def _pieces(count: int, most: int) -> Iterator[int]:
    for start in range(0, count, most):
        yield min(most, count - start)


def _bytes_of(values: Tensor) -> Bytes:
    flat: Bytes = values.flatten().view(torch.uint8).numpy()
    return flat


def _whole(tensor: RandomTensor, seed: int) -> Tensor:
    return torch.from_numpy(np.concatenate(list(tensor.draw(seed)))).view(tensor.shape)
