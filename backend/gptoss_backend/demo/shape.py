"""The demo model's architecture: GPT-OSS's, in small."""

from __future__ import annotations

from typing import Any, Final

from gptoss_backend.demo.random_checkpoint import Shape, config_document
from gptoss_backend.engine.config import ModelConfig

TRAINED_SHAPE: Final = Shape(
    hidden_size=256, num_layers=6, num_experts=4, num_heads=4, num_kv_heads=2, intermediate_size=256, head_dim=64
)
_EXPERTS_PER_TOKEN: Final = 2


def trained_document(name: str) -> dict[str, Any]:
    """Return what config.json holds. name: what the checkpoint calls itself."""
    few = {"num_experts_per_tok": _EXPERTS_PER_TOKEN, "experts_per_token": _EXPERTS_PER_TOKEN}
    return {**config_document(TRAINED_SHAPE, name), **few}


def trained_config() -> ModelConfig:
    """Return the architecture's numbers."""
    return ModelConfig.from_document(trained_document(""))
