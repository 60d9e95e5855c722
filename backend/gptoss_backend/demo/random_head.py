"""Random EAGLE-3 draft heads in the published layout: they guess nothing right, and cost what a trained one costs.

Owns: the writing of such a folder for a given model. Does not know: how a head is read or computed.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, Final

import torch
from safetensors.torch import save_file
from torch import Tensor

from gptoss_backend.demo.random_checkpoint import whole_folder
from gptoss_backend.engine.checkpoint_files import SINGLE_FILE
from gptoss_backend.engine.config import ModelConfig
from gptoss_backend.engine.eagle.config import HeadConfig
from gptoss_backend.engine.eagle.weights import KNOWN, TARGETS, head_tensors

_DRAFT_VOCAB: Final = 32000
"""Of the heads that are published for GPT-OSS, as is the width below."""
_INNER_TIMES_HIDDEN: Final = 6


def write_random_head(folder: Path, target: ModelConfig, *, seed: int, draft_vocab_size: int = _DRAFT_VOCAB) -> None:
    """Write a head for `target`; the same seed gives the same bytes. Its embedding is the target's.

    The folder appears whole or not at all. Raises FileExistsError where it is there already, CheckpointError where
    the disk has no room for it.
    """
    document = _document(target, min(draft_vocab_size, target.vocab_size))
    shapes = head_tensors(HeadConfig.from_document(document, target.num_layers))
    with whole_folder(folder, 2 * sum(math.prod(shape) for shape in shapes.values())) as partial:
        generator = torch.Generator().manual_seed(seed)
        tensors = {name: _random(shape, generator) for name, shape in shapes.items()}
        save_file(tensors | _vocabulary(document, generator), partial / SINGLE_FILE, metadata={"format": "pt"})
        (partial / "config.json").write_text(json.dumps(document, indent=1), encoding="utf-8")


def _random(shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
    """Return a norm's weights, or a matrix that leaves what is normed of size 1."""
    if len(shape) == 1:
        return torch.ones(shape, dtype=torch.bfloat16)
    return torch.randn(shape, generator=generator).mul_(shape[1] ** -0.5).bfloat16()


def _vocabulary(document: dict[str, Any], generator: torch.Generator) -> dict[str, Tensor]:
    vocab_size, draft_vocab_size = document["vocab_size"], document["draft_vocab_size"]
    targets = torch.randperm(vocab_size, generator=generator)[:draft_vocab_size].sort().values
    is_known = torch.zeros(vocab_size, dtype=torch.bool)
    is_known[targets] = True
    return {TARGETS: targets - torch.arange(draft_vocab_size), KNOWN: is_known}


def _document(target: ModelConfig, draft_vocab_size: int) -> dict[str, Any]:
    return {
        "_name_or_path": "random weights, not a trained head",
        "architectures": ["LlamaForCausalLMEagle3"],
        "model_type": "llama",
        "hidden_act": "silu",
        "hidden_size": target.hidden_size,
        "intermediate_size": _INNER_TIMES_HIDDEN * target.hidden_size,
        "num_attention_heads": target.num_heads,
        "num_key_value_heads": target.num_kv_heads,
        "num_hidden_layers": 1,
        "head_dim": target.head_dim,
        "max_position_embeddings": target.max_positions,
        "rms_norm_eps": target.rms_norm_eps,
        "rope_theta": target.rope.theta,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "vocab_size": target.vocab_size,
        "draft_vocab_size": draft_vocab_size,
    }
