"""Random packed experts, and their exact mixture for the kernels to be compared with."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass

import torch
from torch import Tensor

from gptoss_backend.engine.experts import ExpertShape, ExpertWeights, mix_experts
from gptoss_backend.engine.kernels.experts import mix_packed_experts
from gptoss_backend.engine.kernels.operators import KernelOperators
from gptoss_backend.engine.mxfp4 import PackedMatrices


@dataclass(frozen=True, slots=True)
class Sizes:
    """One call of the experts."""

    num_tokens: int
    num_experts: int
    top_k: int
    hidden: int
    inner: int

    def __str__(self) -> str:
        return "-".join(str(value) for value in dataclasses.astuple(self))


@dataclass(frozen=True, slots=True)
class Case:
    """Inputs, on one device in one dtype."""

    hidden: Tensor
    weights: ExpertWeights
    shape: ExpertShape

    @classmethod
    def random(cls, sizes: Sizes, dtype: torch.dtype, device: torch.device) -> Case:
        """Draw all, on the device; the weights are about as large as in a model.

        An expert's score is one channel of a token, and a token's scores are far apart: so all dtypes route alike.
        SwiGLU's limit is low, so that many values meet it.
        """
        generator = torch.Generator(device).manual_seed(sum(dataclasses.astuple(sizes)))

        def normal(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator, device=device).to(dtype)

        def packed(num_outputs: int, num_inputs: int) -> PackedMatrices:
            shape = (sizes.num_experts, num_outputs, num_inputs // 32)
            blocks = torch.randint(256, (*shape, 16), dtype=torch.uint8, generator=generator, device=device)
            scales = torch.randint(117, 123, shape, dtype=torch.uint8, generator=generator, device=device)
            return PackedMatrices(blocks, scales, dtype, is_repacked=True)

        hidden = normal(sizes.num_tokens, sizes.hidden)
        ranks = torch.rand(sizes.num_tokens, sizes.num_experts, generator=generator, device=device).argsort()
        hidden[:, : sizes.num_experts] = (4 / sizes.num_experts * ranks - 2).to(dtype)
        weights = ExpertWeights(
            router=torch.eye(sizes.num_experts, sizes.hidden, dtype=dtype, device=device),
            router_bias=torch.zeros(sizes.num_experts, dtype=dtype, device=device),
            gate_up=packed(2 * sizes.inner, sizes.hidden),
            gate_up_bias=normal(sizes.num_experts, 2 * sizes.inner),
            down=packed(sizes.hidden, sizes.inner),
            down_bias=normal(sizes.num_experts, sizes.hidden),
        )
        return cls(hidden, weights, ExpertShape(sizes.top_k, swiglu_alpha=1.702, swiglu_limit=2.0))

    def to_float64(self) -> Case:
        """Return the same numbers in float64, in which what is computed counts as exact."""

        def widen(part: Tensor | PackedMatrices) -> Tensor | PackedMatrices:
            if isinstance(part, PackedMatrices):
                return dataclasses.replace(part, dtype=torch.float64)
            return part.double()

        fields = {field.name: widen(getattr(self.weights, field.name)) for field in dataclasses.fields(ExpertWeights)}
        return Case(self.hidden.double(), ExpertWeights(**fields), self.shape)  # type: ignore[arg-type]

    def exact(self) -> Tensor:
        """Return the mixture, computed in float64."""
        case = self.to_float64()
        return mix_experts(case.hidden, case.weights, case.shape)


def mix(hidden: Tensor, weights: ExpertWeights, shape: ExpertShape) -> Tensor:
    """Return the mixture by the kernels, summed."""
    return KernelOperators.sum(mix_packed_experts(hidden, weights, shape))


def relative_error(found: Tensor, expected: Tensor) -> float:
    """Return the length of the difference over that of what is expected; NaN where there is any."""
    return float((found.double() - expected.double()).norm() / expected.double().norm())
