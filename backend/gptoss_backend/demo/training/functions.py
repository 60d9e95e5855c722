"""The layers' inner functions with gradients written out: fewer passes over memory than torch makes by itself.

Owns: RMSNorm, attention with sinks and SwiGLU, forward and backward. Does not know: parameters, layers.

On a processor such passes, not multiplications, take half of a training step. Under autocast each returns what the
matrix product behind it takes, so that nothing is cast twice.
"""

from __future__ import annotations

from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor

from gptoss_backend.engine.experts import ExpertShape

_NO_LIMIT: Final = -1e30


def compute_dtype(values: Tensor) -> torch.dtype:
    """Return what matrix products of `values` are computed in: autocast's dtype, or else their own."""
    kind = values.device.type
    return torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else values.dtype


def rms_norm(stream: Tensor, weight: Tensor, eps: float) -> Tensor:
    """Return `stream` [rows, hidden] with each row's root mean square at one, times `weight` [hidden]."""
    normed: Tensor = _RMSNorm.apply(stream, weight, eps, compute_dtype(stream))  # type: ignore[no-untyped-call]
    return normed


def attend_with_sinks(queries: Tensor, keys: Tensor, values: Tensor, sinks: Tensor, mask: Tensor) -> Tensor:
    """Return what each query draws from the values, [batch, num_heads, length, head_dim], in the values' dtype.

    queries: [batch, num_heads, length, head_dim], scaled. keys, values: [batch, num_kv_heads, num_keys, head_dim].
    sinks: [num_heads]. mask: [length, num_keys], added to the scores.
    """
    # as autocast would have it, the scores, the largest of all, went through float32 and back
    with torch.autocast(values.device.type, enabled=False):
        mixed: Tensor = _SinkAttention.apply(queries.to(values.dtype), keys.to(values.dtype), values, sinks, mask)  # type: ignore[no-untyped-call]
        return mixed


def swiglu(gate: Tensor, up: Tensor, shape: ExpertShape) -> Tensor:
    """Return what `engine.experts.swiglu` does, its two sides apart: all three [rows, intermediate]."""
    gated: Tensor = _SwiGLU.apply(gate, up, shape.swiglu_alpha, shape.swiglu_limit)  # type: ignore[no-untyped-call]
    return gated


class _RMSNorm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, stream: Tensor, weight: Tensor, eps: float, dtype: torch.dtype) -> Tensor:  # noqa: ANN401
        length = torch.linalg.vector_norm(stream, dim=-1, keepdim=True)
        scale = length.square_().div_(stream.shape[-1]).add_(eps).rsqrt_()
        unit = stream * scale
        ctx.save_for_backward(unit, scale, weight)
        return torch.mul(unit, weight).to(dtype)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        unit, scale, weight = ctx.saved_tensors
        grad = grads[0].to(unit.dtype)
        grad_weight = torch.linalg.vecdot(grad, unit, dim=0)
        grad_unit = grad * weight
        # what would lengthen a row is taken back by its norm
        along = torch.linalg.vecdot(grad_unit, unit)[:, None].div_(unit.shape[-1])
        return grad_unit.addcmul_(unit, along, value=-1).mul_(scale), grad_weight, None, None


class _SinkAttention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, queries: Tensor, keys: Tensor, values: Tensor, sinks: Tensor, mask: Tensor) -> Tensor:  # noqa: ANN401
        batch, num_heads, length, head_dim = queries.shape
        # a sink's key and value are nothing; its score comes with the mask
        keys, values = (F.pad(side, (0, 0, 0, 1)) for side in (keys, values))
        added = torch.cat((mask.expand(num_heads, -1, -1), sinks[:, None, None].expand(-1, length, 1)), dim=-1)
        # heads that share keys are rows of one matrix
        num_groups = keys.shape[1]
        rows = queries.reshape(batch, num_groups, num_heads // num_groups * length, head_dim)
        scores = torch.matmul(rows, keys.transpose(2, 3))
        scores.view(batch, num_heads, length, keys.shape[2]).add_(added.to(scores.dtype))
        shares = torch.softmax(scores, dim=-1)
        ctx.save_for_backward(rows, keys, values, shares)
        return torch.matmul(shares, values).view(queries.shape)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        rows, keys, values, shares = ctx.saved_tensors
        batch, num_heads, length, _ = grads[0].shape
        grad = grads[0].reshape(rows.shape)
        grad_values = torch.matmul(shares.transpose(2, 3), grad)
        grad_shares = torch.matmul(grad, values.transpose(2, 3))
        grad_scores = torch.ops.aten._softmax_backward_data(grad_shares, shares, -1, shares.dtype)
        grad_queries = torch.matmul(grad_scores, keys).view(grads[0].shape)
        grad_keys = torch.matmul(grad_scores.transpose(2, 3), rows)
        grad_sinks = grad_scores[..., -1].float().view(batch, num_heads, length).sum(dim=(0, 2))
        return grad_queries, grad_keys[:, :, :-1], grad_values[:, :, :-1], grad_sinks, None


class _SwiGLU(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, up: Tensor, alpha: float, limit: float) -> Tensor:  # noqa: ANN401
        ctx.save_for_backward(gate, up)
        ctx.alpha, ctx.limit = alpha, limit
        gate = gate.clamp(max=limit)
        return torch.sigmoid(gate * alpha).mul_(gate).mul_(up.clamp(-limit, limit).add_(1))

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401
        gate, up = ctx.saved_tensors
        alpha, limit = ctx.alpha, ctx.limit
        clamped = gate.clamp(max=limit)
        share = torch.sigmoid(clamped * alpha)
        grad_up = grads[0] * (share * clamped)
        # the derivative of clamped * share
        slope = clamped.mul_(alpha).mul_(1 - share).add_(1).mul_(share)
        grad_gate = slope.mul_(up.clamp(-limit, limit).add_(1)).mul_(grads[0])
        # comparisons are slow in bfloat16; this is clamp's own gradient in one pass
        within = torch.ops.aten.hardtanh_backward
        return within(grad_gate, gate, _NO_LIMIT, limit), within(grad_up, up, -limit, limit), None, None
