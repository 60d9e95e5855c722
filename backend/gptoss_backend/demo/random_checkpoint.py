"""Random GPT-OSS checkpoints in the published layout (MXFP4 experts, the rest bfloat16).

Owns: named shapes and the writing of a folder that every GPT-OSS loader reads. Does not know: how it is served.

The experts can be written as bfloat16 too, for loaders that know no MXFP4: the same numbers, in transformers' layout.
"""

from __future__ import annotations

import json
import math
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal

import torch
from safetensors.torch import save_file
from torch import Tensor

from gptoss_backend.engine.checkpoint import INDEX_FILE
from gptoss_backend.engine.mxfp4 import pack_mxfp4, unpack_mxfp4

_VOCAB_SIZE: Final = 201088
_END_TOKENS: Final = [200002, 199999, 200012]

ExpertFormat = Literal["mxfp4", "bfloat16"]


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes in which GPT-OSS checkpoints differ."""

    hidden_size: int
    num_layers: int
    num_experts: int
    num_heads: int
    num_kv_heads: int
    intermediate_size: int
    head_dim: int = 64
    vocab_size: int = _VOCAB_SIZE
    max_positions: int = 131072


SHAPES: Final = {
    "demo": Shape(
        hidden_size=64, num_layers=4, num_experts=8, num_heads=4, num_kv_heads=2, intermediate_size=64, head_dim=32
    ),
    "tiny": Shape(
        hidden_size=64, num_layers=2, num_experts=8, num_heads=4, num_kv_heads=2, intermediate_size=64, head_dim=32
    ),
    "small": Shape(hidden_size=512, num_layers=8, num_experts=32, num_heads=8, num_kv_heads=2, intermediate_size=512),
    "20b": Shape(hidden_size=2880, num_layers=24, num_experts=32, num_heads=64, num_kv_heads=8, intermediate_size=2880),
    "120b": Shape(
        hidden_size=2880, num_layers=36, num_experts=128, num_heads=64, num_kv_heads=8, intermediate_size=2880
    ),
}
"""tiny and small are what servers are compared with; 20b and 120b are OpenAI's sizes."""

DEMO_SHAPE: Final = SHAPES["demo"]


DEMO_NAME: Final = "gpt-oss-demo: random weights, not an OpenAI model"
"""What the demo's config.json says of itself."""


def is_demo(folder: Path) -> bool:
    """True where `folder` holds the demo checkpoint; False too where it cannot be read."""
    try:
        document = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(document, dict) and document.get("_name_or_path") == DEMO_NAME


def write_random_checkpoint(
    folder: Path, shape: Shape, *, seed: int, name: str, experts: ExpertFormat = "mxfp4"
) -> None:
    """Write a checkpoint of random weights; the same seed gives the same bytes. One shard for each layer.

    name: kept in config.json, so that nobody takes the folder for a trained model.
    experts: how the experts' matrices are stored; their values are the same either way.
    The folder appears whole or not at all; raises FileExistsError where it is there already.
    """
    if folder.exists():
        raise FileExistsError(f"{folder} is there already")
    partial = folder.with_name(f"{folder.name}.partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    generator = torch.Generator().manual_seed(seed)
    weight_map: dict[str, str] = {}
    total = 0
    for number, tensors in enumerate(_shards(shape, generator, experts)):
        file = f"model-{number + 1:05d}-of-{shape.num_layers + 1:05d}.safetensors"
        save_file(tensors, partial / file, metadata={"format": "pt"})
        weight_map |= dict.fromkeys(tensors, file)
        total += sum(tensor.nbytes for tensor in tensors.values())
    index = {"metadata": {"total_size": total}, "weight_map": weight_map}
    (partial / INDEX_FILE).write_text(json.dumps(index, indent=1), encoding="utf-8")
    (partial / "config.json").write_text(json.dumps(_config(shape, name, experts), indent=1), encoding="utf-8")
    generation = {"bos_token_id": 199998, "eos_token_id": _END_TOKENS, "pad_token_id": 199999, "do_sample": True}
    (partial / "generation_config.json").write_text(json.dumps(generation, indent=1), encoding="utf-8")
    partial.rename(folder)


def _shards(shape: Shape, generator: torch.Generator, experts: ExpertFormat) -> Iterator[dict[str, Tensor]]:
    def normal(*size: int, std: float) -> Tensor:
        return (torch.randn(*size, generator=generator) * std).bfloat16()

    hidden = shape.hidden_size
    yield {
        "model.embed_tokens.weight": normal(shape.vocab_size, hidden, std=1.0),
        "model.norm.weight": torch.ones(hidden, dtype=torch.bfloat16),
        # logits with a spread of about 3: neither one token always nor all alike
        "lm_head.weight": normal(shape.vocab_size, hidden, std=3.0 / math.sqrt(hidden)),
    }
    for layer in range(shape.num_layers):
        yield {f"model.layers.{layer}.{key}": value for key, value in _layer(shape, normal, experts).items()}


def _layer(
    shape: Shape,
    normal: Any,  # noqa: ANN401 (a local function with a keyword)
    expert_format: ExpertFormat,
) -> dict[str, Tensor]:
    hidden, inner, experts = shape.hidden_size, shape.intermediate_size, shape.num_experts
    widths = {"q": shape.num_heads * shape.head_dim, "k": shape.num_kv_heads * shape.head_dim}
    widths["v"] = widths["k"]
    layer = {f"self_attn.{n}_proj.weight": normal(width, hidden, std=hidden**-0.5) for n, width in widths.items()}
    layer |= {f"self_attn.{n}_proj.bias": normal(width, std=0.02) for n, width in widths.items()}
    layer |= {
        "self_attn.o_proj.weight": normal(hidden, widths["q"], std=widths["q"] ** -0.5),
        "self_attn.o_proj.bias": normal(hidden, std=0.02),
        "self_attn.sinks": normal(shape.num_heads, std=1.0),
        "input_layernorm.weight": torch.ones(hidden, dtype=torch.bfloat16),
        "post_attention_layernorm.weight": torch.ones(hidden, dtype=torch.bfloat16),
        "mlp.router.weight": normal(experts, hidden, std=hidden**-0.5),
        "mlp.router.bias": normal(experts, std=0.02),
        "mlp.experts.gate_up_proj_bias": normal(experts, 2 * inner, std=0.02),
        "mlp.experts.down_proj_bias": normal(experts, hidden, std=0.02),
    }
    for name, size in {"gate_up_proj": (2 * inner, hidden), "down_proj": (hidden, inner)}.items():
        blocks, scales = pack_mxfp4(normal(experts, *size, std=size[1] ** -0.5))
        if expert_format == "mxfp4":
            layer |= {f"mlp.experts.{name}_blocks": blocks, f"mlp.experts.{name}_scales": scales}
        else:
            # transformers multiplies rows by matrices: [experts, in, out]
            layer[f"mlp.experts.{name}"] = unpack_mxfp4(blocks, scales, torch.bfloat16).transpose(1, 2).contiguous()
    return layer


def _config(shape: Shape, name: str, experts: ExpertFormat) -> dict[str, Any]:
    kinds = ("sliding_attention", "full_attention")
    config = {
        "_name_or_path": name,
        "architectures": ["GptOssForCausalLM"],
        "model_type": "gpt_oss",
        "attention_bias": True,
        "attention_dropout": 0.0,
        "eos_token_id": 200002,
        "pad_token_id": 199999 if shape.vocab_size == _VOCAB_SIZE else None,
        "head_dim": shape.head_dim,
        "hidden_act": "silu",
        "hidden_size": shape.hidden_size,
        "initial_context_length": 4096,
        "initializer_range": 0.02,
        "intermediate_size": shape.intermediate_size,
        "layer_types": [kinds[i % 2] for i in range(shape.num_layers)],
        "max_position_embeddings": shape.max_positions,
        "num_attention_heads": shape.num_heads,
        "num_experts_per_tok": 4,
        "experts_per_token": 4,
        "num_hidden_layers": shape.num_layers,
        "num_key_value_heads": shape.num_kv_heads,
        "num_local_experts": shape.num_experts,
        "rms_norm_eps": 1e-05,
        "rope_scaling": {
            "beta_fast": 32.0,
            "beta_slow": 1.0,
            "factor": 32.0,
            "original_max_position_embeddings": 4096,
            "rope_type": "yarn",
            "truncate": False,
        },
        "rope_theta": 150000,
        "sliding_window": 128,
        "swiglu_limit": 7.0,
        "tie_word_embeddings": False,
        "torch_dtype": "bfloat16",
        "use_cache": True,
        "vocab_size": shape.vocab_size,
    }
    if experts == "mxfp4":
        unpacked = ["model.layers.*.self_attn", "model.layers.*.mlp.router", "model.embed_tokens", "lm_head"]
        config["quantization_config"] = {"quant_method": "mxfp4", "modules_to_not_convert": unpacked}
    return config
