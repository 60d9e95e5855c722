"""The published models' sizes, without their checkpoints at hand.

Stage: before anything is bought.
Owns: the numbers of the published config.json files. Does not know: devices.
"""

from __future__ import annotations

from typing import Any, Final, Literal

from gptoss_backend.engine.config import ModelConfig

PlannedModel = Literal["20b", "120b"]

# https://huggingface.co/openai/gpt-oss-20b, gpt-oss-120b: config.json
_BOTH: Final[dict[str, Any]] = {
    "vocab_size": 201088,
    "hidden_size": 2880,
    "intermediate_size": 2880,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "num_experts_per_tok": 4,
    "sliding_window": 128,
    "max_position_embeddings": 131072,
    "rms_norm_eps": 1e-5,
    "rope_theta": 150000,
    "quantization_config": {"quant_method": "mxfp4"},
    "rope_scaling": {
        "rope_type": "yarn",
        "factor": 32.0,
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "original_max_position_embeddings": 4096,
        "truncate": False,
    },
}
_EACH: Final[dict[PlannedModel, dict[str, Any]]] = {
    "20b": {"num_hidden_layers": 24, "num_local_experts": 32},
    "120b": {"num_hidden_layers": 36, "num_local_experts": 128},
}


def published_config(model: PlannedModel) -> ModelConfig:
    """Return the architecture's numbers."""
    return ModelConfig.from_document(_BOTH | _EACH[model])
