"""Small architectures for tests that need no weights."""

from __future__ import annotations

from gptoss_backend.demo.random_checkpoint import SHAPES, config_of
from gptoss_backend.engine.config import FULL_ATTENTION, SLIDING_ATTENTION, ModelConfig, RopeConfig


def tiny_config(*, sliding_window: int = 128, vocab_size: int = 512, max_positions: int = 131072) -> ModelConfig:
    """Return a two-layer GPT-OSS shape."""
    return ModelConfig(
        vocab_size=vocab_size,
        hidden_size=32,
        intermediate_size=32,
        num_layers=2,
        num_heads=4,
        num_kv_heads=2,
        head_dim=16,
        num_experts=4,
        num_experts_per_token=2,
        sliding_window=sliding_window,
        layer_types=(SLIDING_ATTENTION, FULL_ATTENTION),
        max_positions=max_positions,
        rms_norm_eps=1e-5,
        swiglu_alpha=1.702,
        swiglu_limit=7.0,
        rope=RopeConfig(150000.0, 32.0, 32.0, 1.0, 4096, truncate=False),
    )


def published_config(size: str) -> ModelConfig:
    """Return the shape of OpenAI's "20b" or "120b"."""
    return config_of(SHAPES[size])
