"""The architecture's numbers, read from a checkpoint's config.json.

Owns: `ModelConfig` and its reading. Does not know: weights, devices, requests.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from gptoss_backend.engine.checkpoint_files import check_kind
from gptoss_backend.engine.errors import CheckpointError

FULL_ATTENTION = "full_attention"
SLIDING_ATTENTION = "sliding_attention"
BLOCK_VALUES = 32
"""Values in a block of MXFP4."""
# what transformers' GptOssConfig takes where a config.json says nothing
_DEFAULT_YARN: Final[Mapping[str, Any]] = {
    "rope_type": "yarn",
    "factor": 32.0,
    "original_max_position_embeddings": 4096,
    "truncate": False,
}


@dataclass(frozen=True, slots=True)
class RopeConfig:
    """Rotary embedding with YaRN scaling (https://arxiv.org/abs/2309.00071); `factor` 1 is plain RoPE."""

    theta: float
    factor: float
    beta_fast: float
    beta_slow: float
    original_max_positions: int
    truncate: bool
    attention_factor: float | None = None
    """What cosines and sines are multiplied by; None: what the paper derives from `factor`."""


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """One GPT-OSS shape."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    num_experts: int
    num_experts_per_token: int
    sliding_window: int
    layer_types: tuple[str, ...]
    max_positions: int
    rms_norm_eps: float
    swiglu_alpha: float
    swiglu_limit: float
    rope: RopeConfig
    ties_embeddings: bool = False
    """The unembedding is the embedding, unless the files hold one of its own."""

    @property
    def sliding_layers(self) -> tuple[int, ...]:
        """Indices of the layers that attend to the last `sliding_window` positions only."""
        return tuple(i for i, kind in enumerate(self.layer_types) if kind == SLIDING_ATTENTION)

    @property
    def full_layers(self) -> tuple[int, ...]:
        """Indices of the layers that attend to every earlier position."""
        return tuple(i for i, kind in enumerate(self.layer_types) if kind == FULL_ATTENTION)

    @classmethod
    def from_folder(cls, folder: Path) -> ModelConfig:
        """Read folder/config.json, in the published form or as transformers 5 writes it.

        Raises CheckpointError naming what is missing or wrong, or what else the folder holds.
        """
        check_kind(folder)
        path = folder / "config.json"
        document = read_document(path)
        if document.get("model_type") != "gpt_oss":
            raise CheckpointError(f"{path} is of model type {document.get('model_type')!r}, not 'gpt_oss'")
        try:
            return cls.from_document(document)
        except KeyError as error:
            raise CheckpointError(f"{path} lacks the key {error}") from error
        except (TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(f"{path} holds a value of the wrong type: {error}") from error

    @classmethod
    def from_document(cls, document: dict[str, Any]) -> ModelConfig:
        """Read what config.json holds. Raises KeyError, TypeError, ValueError or CheckpointError."""
        _check_quantization(document.get("quantization_config"))
        _check_arithmetic(document)
        num_layers = _count(document, "num_hidden_layers")
        layer_types = document.get("layer_types") or [
            FULL_ATTENTION if i % 2 else SLIDING_ATTENTION for i in range(num_layers)
        ]
        if len(layer_types) != num_layers or set(layer_types) - {FULL_ATTENTION, SLIDING_ATTENTION}:
            raise CheckpointError("config.json: layer_types does not name one attention kind for each layer")
        per_token = "num_experts_per_tok" if "num_experts_per_tok" in document else "experts_per_token"
        config = cls(
            ties_embeddings=bool(document.get("tie_word_embeddings", False)),
            vocab_size=_count(document, "vocab_size"),
            hidden_size=_count(document, "hidden_size"),
            intermediate_size=_count(document, "intermediate_size"),
            num_layers=num_layers,
            num_heads=_count(document, "num_attention_heads"),
            num_kv_heads=_count(document, "num_key_value_heads"),
            head_dim=_count(document, "head_dim"),
            num_experts=_count(document, "num_local_experts"),
            num_experts_per_token=_count(document, per_token),
            sliding_window=_count(document, "sliding_window"),
            layer_types=tuple(layer_types),
            max_positions=_count(document, "max_position_embeddings"),
            rms_norm_eps=float(document["rms_norm_eps"]),
            swiglu_alpha=float(document.get("swiglu_alpha", 1.702)),
            swiglu_limit=float(document.get("swiglu_limit", 7.0)),
            rope=rope_of(document, default=_DEFAULT_YARN),
        )
        if (picked := config.num_experts_per_token) > config.num_experts:
            raise CheckpointError(f"config.json: {per_token} is {picked}, but there are {config.num_experts} experts")
        if config.num_heads % config.num_kv_heads or config.head_dim % 2:
            raise CheckpointError(
                f"config.json: {config.num_heads} heads of {config.head_dim} cannot share {config.num_kv_heads} "
                "key-value heads, or cannot be rotated by halves"
            )
        return config


def _count(document: dict[str, Any], key: str) -> int:
    value = document[key]
    if not isinstance(value, int) or isinstance(value, bool) or value < 1:
        raise CheckpointError(f"config.json: {key} is {value!r}, not a whole number above 0")
    return value


def _check_quantization(quantization: dict[str, Any] | None) -> None:
    method = "mxfp4" if quantization is None else quantization.get("quant_method", "mxfp4")
    if str(method).lower() != "mxfp4":
        raise CheckpointError(
            f"config.json: weights quantised by {method!r} are not computed here: experts may be in MXFP4, as "
            "published, all else in bfloat16, float16 or float32"
        )


def _check_arithmetic(document: dict[str, Any]) -> None:
    """Raise CheckpointError where a key asks for what has no tensors of its own and is not computed here."""
    if (activation := document.get("hidden_act") or "silu") != "silu":
        raise CheckpointError(f"config.json: hidden_act is {activation!r}, not 'silu'")
    if document.get("attention_bias", True) is False:
        raise CheckpointError("config.json: attention_bias is false, but attention without biases is not computed here")


def read_document(path: Path) -> dict[str, Any]:
    """Return the object that a config.json holds. Raises CheckpointError."""
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CheckpointError(f"cannot read {path}: {error.strerror}") from error
    except ValueError as error:
        raise CheckpointError(f"{path} is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise CheckpointError(f"{path} does not hold a JSON object")
    return document


def rope_of(
    document: dict[str, Any], *, default_theta: float = 150000.0, default: Mapping[str, Any] | None = None
) -> RopeConfig:
    """Read a config.json's rotary embedding as transformers does; `default`: where it says nothing of its scaling.

    Raises KeyError, TypeError, ValueError or CheckpointError.
    """
    # published checkpoints: rope_theta beside rope_scaling; transformers 5: all of it in rope_parameters
    scaling = document.get("rope_scaling") or document.get("rope_parameters")
    if scaling is None:
        scaling = default or {}
    # "type" is transformers' key of before 2024
    kind = scaling.get("rope_type", scaling.get("type", "default"))
    _check_rope(document, scaling, kind)
    theta = float(scaling.get("rope_theta") or document.get("rope_theta") or default_theta)
    if kind == "default":
        return RopeConfig(theta, 1.0, 32.0, 1.0, 4096, truncate=False)
    original = document.get("original_max_position_embeddings", scaling.get("original_max_position_embeddings"))
    attention_factor = scaling.get("attention_factor")
    return RopeConfig(
        theta=theta,
        factor=float(scaling["factor"]),
        beta_fast=float(scaling.get("beta_fast") or 32.0),
        beta_slow=float(scaling.get("beta_slow") or 1.0),
        original_max_positions=int(original or document["max_position_embeddings"]),
        truncate=bool(scaling.get("truncate", True)),
        attention_factor=None if attention_factor is None else float(attention_factor),
    )


def _check_rope(document: dict[str, Any], scaling: Mapping[str, Any], kind: str) -> None:
    """Raise CheckpointError where a rotary embedding is not one that is computed here."""
    if kind not in ("yarn", "default"):
        raise CheckpointError(f"config.json: rope type {kind!r} is neither yarn nor default")
    if kind == "yarn" and (factor := scaling.get("factor") or 0.0) < 1.0:
        raise CheckpointError(f"config.json: YaRN's factor is {factor or 'missing'}, not a number from 1 on")
    for name in ("mscale", "mscale_all_dim"):
        if scaling.get(name) is not None:
            raise CheckpointError(f"config.json: the rotary embedding asks for {name}, which is not computed here")
    share = scaling.get("partial_rotary_factor", document.get("partial_rotary_factor"))
    if share not in (None, 1):
        raise CheckpointError(f"config.json: partial_rotary_factor is {share!r}, but whole heads are rotated here")
    if {FULL_ATTENTION, SLIDING_ATTENTION} & scaling.keys():
        raise CheckpointError("config.json: one rotary embedding for each kind of layer is not computed here")
