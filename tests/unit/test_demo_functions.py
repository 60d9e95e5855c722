"""The demo's training functions give what torch gives, forward and backward."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from gptoss_backend.demo.training.functions import attend_with_sinks, rms_norm, swiglu
from gptoss_backend.engine import experts
from gptoss_backend.engine.experts import ExpertShape

SHAPE = ExpertShape(num_experts_per_token=2, swiglu_alpha=1.702, swiglu_limit=7.0)


def draw(*shape: int, scale: float = 1.0) -> Tensor:
    return (torch.randn(*shape, dtype=torch.float64) * scale).requires_grad_()


def assert_same(computed: Tensor, expected: Tensor, leaves: list[Tensor]) -> None:
    """Compare two ways to compute something from `leaves`, and all their gradients."""
    torch.testing.assert_close(computed, expected)
    upstream = torch.randn_like(expected)
    pairs = zip(
        torch.autograd.grad(computed, leaves, upstream),
        torch.autograd.grad(expected, leaves, upstream),
        strict=True,
    )
    for gradient, expected_gradient in pairs:
        torch.testing.assert_close(gradient, expected_gradient)


def test_rms_norm_when_compared_with_torch_then_value_and_gradients_agree() -> None:
    torch.manual_seed(0)
    stream, weight = draw(5, 16, scale=3.0), draw(16)

    assert_same(rms_norm(stream, weight, 1e-5), F.rms_norm(stream, weight.shape, weight, 1e-5), [stream, weight])


def test_rms_norm_when_autocast_is_on_then_it_returns_what_the_next_product_takes() -> None:
    with torch.autocast("cpu", torch.bfloat16):
        assert rms_norm(torch.ones(2, 4), torch.ones(4), 1e-5).dtype is torch.bfloat16


def test_swiglu_when_some_values_are_clamped_then_it_agrees_with_the_engines() -> None:
    torch.manual_seed(0)
    gate_up = draw(6, 64, scale=8.0)
    gate, up = gate_up[:, 0::2], gate_up[:, 1::2]

    assert (gate > SHAPE.swiglu_limit).any()
    assert (up < -SHAPE.swiglu_limit).any()
    assert_same(swiglu(gate, up, SHAPE), experts.swiglu(gate_up, SHAPE), [gate_up])


def test_attention_when_heads_share_keys_then_it_agrees_with_softmax_over_keys_and_sink() -> None:
    torch.manual_seed(0)
    queries, keys, values, sinks = draw(2, 4, 5, 8), draw(2, 2, 7, 8), draw(2, 2, 7, 8), draw(4)
    mask = torch.zeros(5, 7, dtype=torch.float64).masked_fill(torch.ones(5, 7).triu(3).bool(), -math.inf)

    scores = queries @ keys.repeat_interleave(2, dim=1).transpose(2, 3) + mask
    with_sink = torch.cat((scores, sinks.view(1, 4, 1, 1).expand(2, 4, 5, 1)), dim=-1)
    expected = with_sink.softmax(dim=-1)[..., :-1] @ values.repeat_interleave(2, dim=1)

    assert_same(attend_with_sinks(queries, keys, values, sinks, mask), expected, [queries, keys, values, sinks])
