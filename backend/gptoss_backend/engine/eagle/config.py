"""A draft head's numbers, read from its config.json, and whether it fits the model that it guesses for.

Stage: start-up. Owns: `HeadConfig` and its reading. Does not know: weights, how a head computes.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from gptoss_backend.engine.config import ModelConfig, RopeConfig, read_document, rope_of
from gptoss_backend.engine.errors import CheckpointError

_NUM_STATES: Final = 3
_LLAMA_ROPE_THETA: Final = 10000.0
_LLAMA_NORM_EPS: Final = 1e-6
# what changes the arithmetic without a tensor of its own, and is not computed here
_UNKNOWN_WAYS: Final = ("norm_output", "parallel_drafting")


@dataclass(frozen=True, slots=True)
class HeadConfig:
    """One EAGLE-3 head: a decoder layer of Llama's kind over the model's states and embeddings."""

    hidden_size: int
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    draft_vocab_size: int
    """Tokens that it can guess; the embedding is of all."""
    rms_norm_eps: float
    rope: RopeConfig
    boundaries: tuple[int, int, int]
    """Whose residual stream it reads: that before the layer of this number; the number of layers: after the last."""
    norm_before_residual: bool = False
    norm_before_fc: bool = False

    @classmethod
    def from_folder(cls, folder: Path, target: ModelConfig) -> HeadConfig:
        """Read folder/config.json of a head for `target`. Raises CheckpointError with what does not fit."""
        path = folder / "config.json"
        document = read_document(path)
        try:
            config = cls.from_document(document, target.num_layers)
        except KeyError as error:
            raise CheckpointError(f"{path} lacks the key {error}") from error
        except (TypeError, ValueError, AttributeError) as error:
            raise CheckpointError(f"{path} holds a value of the wrong type: {error}") from error
        config.check(folder, target)
        return config

    @classmethod
    def from_document(cls, document: dict[str, Any], num_target_layers: int) -> HeadConfig:
        """Read what config.json holds. Raises KeyError, TypeError, ValueError or CheckpointError."""
        if document.get("num_hidden_layers", 1) != 1:
            raise CheckpointError(
                f"the draft head has {document['num_hidden_layers']} layers; only heads of one layer are computed here"
            )
        options = document | (document.get("eagle_config") or {})
        for name in _UNKNOWN_WAYS:
            if options.get(name):
                raise CheckpointError(f"the draft head's config.json asks for {name}, which is not computed here")
        if document.get("hidden_act", "silu") != "silu":
            raise CheckpointError(f"the draft head's activation is {document['hidden_act']!r}, not 'silu'")
        hidden_size, num_heads = int(document["hidden_size"]), int(document["num_attention_heads"])
        if options.get("target_hidden_size", hidden_size) != hidden_size:
            raise CheckpointError("the draft head is of another width than the model that it was made for")
        vocab_size = int(document["vocab_size"])
        return cls(
            hidden_size=hidden_size,
            intermediate_size=int(document["intermediate_size"]),
            num_heads=num_heads,
            num_kv_heads=int(document.get("num_key_value_heads") or num_heads),
            head_dim=int(document.get("head_dim") or hidden_size // num_heads),
            vocab_size=vocab_size,
            draft_vocab_size=int(document.get("draft_vocab_size") or vocab_size),
            rms_norm_eps=float(document.get("rms_norm_eps", _LLAMA_NORM_EPS)),
            rope=rope_of(document, default_theta=_LLAMA_ROPE_THETA),
            boundaries=_boundaries(options.get("eagle_aux_hidden_state_layer_ids"), num_target_layers),
            norm_before_residual=bool(options.get("norm_before_residual", False)),
            norm_before_fc=bool(options.get("norm_before_fc", False)),
        )

    def check(self, folder: Path, target: ModelConfig) -> None:
        """Raise CheckpointError where the head is not one for `target`, or contradicts itself."""
        for what, ours, theirs in (
            ("states of width", self.hidden_size, target.hidden_size),
            ("a vocabulary of", self.vocab_size, target.vocab_size),
        ):
            if ours != theirs:
                raise CheckpointError(f"the draft head {folder} is for {what} {ours:,}, but the model has {theirs:,}")
        if self.draft_vocab_size > self.vocab_size:
            raise CheckpointError(f"the draft head {folder} guesses more tokens than its vocabulary has")
        if self.num_heads % self.num_kv_heads or self.head_dim % 2:
            raise CheckpointError(f"the draft head {folder} has attention heads that cannot be shared evenly")
        if not all(0 <= boundary <= target.num_layers for boundary in self.boundaries):
            raise CheckpointError(f"the draft head {folder} reads layers that the model does not have")


def _boundaries(layer_ids: list[int] | None, num_layers: int) -> tuple[int, int, int]:
    """Return whose states a head reads; by default those of the paper's code, as near as a small model has them.

    Published heads number layers in two ways. Those that begin with 1 mean the state after a layer, all others the
    state before it; so does SGLang tell them apart (https://github.com/sgl-project/sglang/pull/25454).
    """
    if layer_ids is None:
        layer_ids = [min(2, num_layers), num_layers // 2, max(num_layers - 3, 0)]
    elif layer_ids[:1] == [1]:
        layer_ids = [layer + 1 for layer in layer_ids]
    if len(layer_ids) != _NUM_STATES:
        raise CheckpointError(f"the draft head reads {len(layer_ids)} of the model's states, not {_NUM_STATES}")
    first, second, third = map(int, layer_ids)
    return first, second, third
