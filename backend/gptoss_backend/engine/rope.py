"""Rotary position embedding with YaRN scaling (https://arxiv.org/abs/2309.00071).

Owns: the frequencies and the rotation. Positions come in as numbers; nothing is cached per position.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from gptoss_backend.engine.config import RopeConfig


class RotaryEmbedding:
    """Rotates queries and keys by their positions."""

    def __init__(self, config: RopeConfig, head_dim: int, device: torch.device) -> None:
        self.inverse_frequencies = _inverse_frequencies(config, head_dim).to(device)  # [head_dim / 2]
        # YaRN's attention temperature, applied to both sides of the dot product
        derived = 0.1 * math.log(config.factor) + 1.0 if config.factor > 1.0 else 1.0
        self.amplitude = derived if config.attention_factor is None else config.attention_factor

    def angles(self, positions: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
        """Return (cos, sin), each [num_tokens, 1, head_dim / 2] in `dtype`, for positions [num_tokens]."""
        phase = positions.float()[:, None, None] * self.inverse_frequencies
        return (phase.cos() * self.amplitude).to(dtype), (phase.sin() * self.amplitude).to(dtype)

    @staticmethod
    def rotate(heads: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Rotate heads [num_tokens, num_heads, head_dim]; dimension i pairs with i + head_dim / 2."""
        first, second = heads.chunk(2, dim=-1)
        return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def _inverse_frequencies(config: RopeConfig, head_dim: int) -> Tensor:
    exponents = torch.arange(0, head_dim, 2, dtype=torch.float32) / head_dim
    extrapolated = 1.0 / config.theta**exponents
    if config.factor <= 1.0:
        return extrapolated
    # fast dimensions keep their frequency, slow ones are stretched by `factor`, those between are blended
    low = _dimension_of(config.beta_fast, config, head_dim)
    high = _dimension_of(config.beta_slow, config, head_dim)
    if config.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0.0), min(high, head_dim - 1.0)
    span = max(high - low, 0.001)
    stretch = ((torch.arange(head_dim // 2, dtype=torch.float32) - low) / span).clamp(0.0, 1.0)
    return extrapolated / config.factor * stretch + extrapolated * (1.0 - stretch)


def _dimension_of(num_rotations: float, config: RopeConfig, head_dim: int) -> float:
    """Return the dimension that turns `num_rotations` times over the original context."""
    wavelength_share = config.original_max_positions / (num_rotations * 2.0 * math.pi)
    return head_dim * math.log(wavelength_share) / (2.0 * math.log(config.theta))
