"""What a forward pass is made of besides experts, in the ways it can be computed.

Owns: `Operators`, their plain torch kind, which runs anywhere and is the reference, and the choice for a device.
`kernels.operators.KernelOperators` is the GPU's kind. Does not know: weights, the order of the layers.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from gptoss_backend.engine.attention import AttentionPlan, attend
from gptoss_backend.engine.batch import Batch
from gptoss_backend.engine.block_tables import BlockTables
from gptoss_backend.engine.experts import Addition, Mixture, project
from gptoss_backend.engine.int8 import EightBitMatrix, Matrix
from gptoss_backend.engine.rope import RotaryEmbedding


@dataclass(frozen=True, slots=True)
class LayerCache:
    """One layer's memory."""

    keys: Tensor
    """[num_kv_heads, num_slots, head_dim], in the compute dtype or float8"""
    values: Tensor
    is_sliding: bool


@dataclass(frozen=True, slots=True)
class Projection:
    """A matmul with a bias, or without one."""

    weight: Matrix
    """[num_outputs, num_inputs]"""
    bias: Tensor | None


class StepAttention(Protocol):
    """Attention in all layers of one step: what they have in common is looked up once."""

    def attend(self, rows: Tensor, qkv: Projection, cache: LayerCache, sinks: Tensor) -> Tensor:
        """Write the step's keys and values into the cache, in place, and return [num_tokens, num_heads * head_dim].

        rows: [num_tokens, num_inputs], of which qkv makes queries, keys and values, [num_tokens, (num_heads + 2 *
        num_kv_heads) * head_dim], not yet rotated. sinks: [num_heads].
        """


class Operators(Protocol):
    """One way to compute."""

    def attention(
        self, batch: Batch, tables: BlockTables, rope: RotaryEmbedding, dtype: torch.dtype, first: int = 0
    ) -> StepAttention:
        """Look up what the layers of a step read and write.

        dtype: what they compute in. first: positions before it are not seen.
        """

    def add_and_norm(
        self, hidden: Tensor, addition: Addition | None, weight: Tensor, eps: float, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        """Return (hidden + addition in hidden's dtype, its RMSNorm in `dtype`), all [num_tokens, hidden]."""

    def sum(self, addition: Addition) -> Tensor:
        """Return what a layer adds, [num_tokens, hidden], of a mixture its sum."""

    def linear(self, rows: Tensor, weight: Matrix, bias: Tensor | None = None, *, out: Tensor | None = None) -> Tensor:
        """Return rows @ weight.T + bias in rows' dtype, in `out` where there is one.

        rows: [num_rows, num_inputs]. weight: [num_outputs, num_inputs]. bias: [num_outputs]; not with `out`.
        """

    def project(self, rows: Tensor, weight: Matrix, bias: Tensor) -> Tensor:
        """Return the same for the residual stream: where rows are float16, in float32, which does not overflow."""


class TorchOperators:
    """Plain torch."""

    def __init__(self, device: torch.device) -> None:
        self._device = device

    def attention(
        self, batch: Batch, tables: BlockTables, rope: RotaryEmbedding, dtype: torch.dtype, first: int = 0
    ) -> StepAttention:
        """Look up slots and angles, as `Operators` says."""
        block_size, device = tables.plan.block_size, self._device
        return _TorchAttention(
            rope.angles(torch.tensor(batch.positions, device=device), dtype),
            AttentionPlan.build(batch, tables.full, block_size, device, first),
            AttentionPlan.build(batch, tables.sliding, block_size, device, first),
        )

    @staticmethod
    def add_and_norm(
        hidden: Tensor, addition: Addition | None, weight: Tensor, eps: float, dtype: torch.dtype
    ) -> tuple[Tensor, Tensor]:
        """Add, then RMSNorm in float32, whatever the compute dtype."""
        if addition is not None:
            hidden = hidden + TorchOperators.sum(addition).to(hidden.dtype)
        return hidden, F.rms_norm(hidden.float(), weight.shape, weight, eps).to(dtype)

    @staticmethod
    def sum(addition: Addition) -> Tensor:
        """Sum, as `Operators` says."""
        return addition.sum() if isinstance(addition, Mixture) else addition

    @staticmethod
    def linear(rows: Tensor, weight: Matrix, bias: Tensor | None = None, *, out: Tensor | None = None) -> Tensor:
        """Multiply, as `Operators` says."""
        if isinstance(weight, EightBitMatrix):
            return weight.multiply(rows, bias, out=out)
        return F.linear(rows, weight, bias) if out is None else torch.mm(rows, weight.t(), out=out)

    @staticmethod
    def project(rows: Tensor, weight: Matrix, bias: Tensor) -> Tensor:
        """Multiply, in float16 what was made smaller before."""
        return project(rows, weight.unpack() if isinstance(weight, EightBitMatrix) else weight, bias)


@dataclass(frozen=True, slots=True)
class _TorchAttention:
    rotation: tuple[Tensor, Tensor]
    full: AttentionPlan
    sliding: AttentionPlan

    def attend(self, rows: Tensor, qkv: Projection, cache: LayerCache, sinks: Tensor) -> Tensor:
        num_kv_heads, _, head_dim = cache.keys.shape
        heads = TorchOperators.linear(rows, qkv.weight, qkv.bias)
        sizes = [len(sinks), num_kv_heads, num_kv_heads]
        queries, keys, values = torch.split(heads.view(len(heads), -1, head_dim), sizes, dim=1)
        queries, keys = (RotaryEmbedding.rotate(part, *self.rotation) for part in (queries, keys))
        plan = self.sliding if cache.is_sliding else self.full
        return attend(queries, keys, values, cache.keys, cache.values, sinks, plan).flatten(1)


def has_kernels(device: torch.device, dtype: torch.dtype) -> bool:
    """True where the kernels compute best: on a device that multiplies tiles of that dtype on tensor cores."""
    return device.type == "cuda" and dtype.itemsize <= 2 and torch.cuda.get_device_capability(device) >= (8, 0)


def has_dependent_launch(device: torch.device) -> bool:
    """True where a kernel can begin before the one in front of it has ended."""
    return device.type == "cuda" and torch.cuda.get_device_capability(device) >= (9, 0)


def operators_for(device: torch.device, dtype: torch.dtype) -> Operators:
    """Return what computes best on a device."""
    if not has_kernels(device, dtype):
        return TorchOperators(device)
    # Triton-language comes with torch's CUDA build; where nothing else is computed, nobody needs it
    from gptoss_backend.engine.kernels.operators import KernelOperators

    return KernelOperators(device)
