"""The mixture of experts: router, clamped SwiGLU, weighted sum; tokens grouped by expert, in plain torch.

Owns: `ExpertWeights` and their application. Does not know: where weights come from.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from gptoss_backend.engine.mxfp4 import PackedMatrices

_FLOAT16_HEADROOM = 64.0
# sigmoid makes nothing of what lies below, but an infinity of float16 would become NaN
_LEAST_GATE = -1000.0


@dataclass(frozen=True, slots=True)
class ExpertWeights:
    """One layer's router and experts, each matrix [out, in]. In gate_up, gate and up rows alternate.

    `intermediate` is this shard's part of it.
    """

    router: Tensor
    """[num_experts, hidden]"""
    router_bias: Tensor
    gate_up: Tensor | PackedMatrices
    """[num_experts, 2 * intermediate, hidden]"""
    gate_up_bias: Tensor
    down: Tensor | PackedMatrices
    """[num_experts, hidden, intermediate]"""
    down_bias: Tensor


@dataclass(frozen=True, slots=True)
class ExpertShape:
    """How experts are applied."""

    num_experts_per_token: int
    swiglu_alpha: float
    swiglu_limit: float


@dataclass(frozen=True, slots=True)
class Mixture:
    """What the experts make of each token, before it is summed: the next kernel can do that by the way."""

    outputs: Tensor
    """[num_tokens * top_k, hidden] float32, a token's after one another, in the router's order"""
    shares: Tensor
    """[num_tokens, top_k] float32"""

    def sum(self) -> Tensor:
        """Return each token's weighted sum, [num_tokens, hidden] float32."""
        return (self.outputs.view(*self.shares.shape, -1) * self.shares[..., None]).sum(dim=1)


Addition = Tensor | Mixture
"""What a layer adds to the residual stream, [num_tokens, hidden]."""


def mix_experts(hidden: Tensor, weights: ExpertWeights, shape: ExpertShape) -> Tensor:
    """Send each token through its top experts and return their weighted sum in float32; both [num_tokens, hidden]."""
    scores = F.linear(hidden, weights.router, weights.router_bias)
    top_scores, top_experts = torch.topk(scores, shape.num_experts_per_token, dim=-1)
    shares = torch.softmax(top_scores.float(), dim=-1)  # [num_tokens, top_k]

    order = torch.argsort(top_experts.flatten(), stable=True)
    counts = torch.bincount(top_experts.flatten(), minlength=weights.router.shape[0]).tolist()
    sorted_hidden = hidden[order // shape.num_experts_per_token]
    outputs = torch.empty(sorted_hidden.shape, dtype=torch.float32, device=hidden.device)  # in the router's order
    end = 0
    for expert, count in enumerate(counts):
        if count:
            span = slice(end, end + count)
            outputs[order[span]] = _apply_expert(sorted_hidden[span], expert, weights, shape).float()
            end += count
    # summed in the router's order, whatever else is in the batch
    return Mixture(outputs, shares).sum()


def _apply_expert(hidden: Tensor, expert: int, weights: ExpertWeights, shape: ExpertShape) -> Tensor:
    gate_up = F.linear(hidden, weights.gate_up[expert], weights.gate_up_bias[expert])
    return project(swiglu(gate_up, shape), weights.down[expert], weights.down_bias[expert])


def swiglu(gate_up: Tensor, shape: ExpertShape) -> Tensor:
    """GPT-OSS's SwiGLU: both sides clamped, the linear side shifted by one. [..., 2 * n] → [..., n]."""
    gate = gate_up[..., 0::2].clamp(min=_LEAST_GATE, max=shape.swiglu_limit)
    up = gate_up[..., 1::2].clamp(min=-shape.swiglu_limit, max=shape.swiglu_limit)
    return (up + 1) * gate * torch.sigmoid(gate * shape.swiglu_alpha)


def project(inputs: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return inputs @ weight.T + bias, which goes into the residual stream: in float16 as float32.

    GPT-OSS was trained in bfloat16 and its residual stream outgrows float16's largest number, 65,504. So what is added
    to it is computed from inputs made smaller by a power of two, which costs no precision, and made larger in float32.
    """
    if inputs.dtype != torch.float16:
        return F.linear(inputs, weight, bias)
    return F.linear(inputs / _FLOAT16_HEADROOM, weight).float() * _FLOAT16_HEADROOM + bias.float()
