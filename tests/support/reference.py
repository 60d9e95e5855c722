"""Random tiny GPT-OSS models in transformers, the second implementation that the engine is compared with."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import GptOssConfig, GptOssForCausalLM

BASE: dict[str, Any] = {
    "vocab_size": 512,
    "hidden_size": 64,
    "intermediate_size": 64,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "num_local_experts": 8,
    "num_experts_per_tok": 4,
    "sliding_window": 128,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": False,
}

SHAPES: dict[str, dict[str, Any]] = {
    "base": {},
    "one_kv_head_small_window": {"num_key_value_heads": 1, "sliding_window": 24, "num_hidden_layers": 2},
    "many_heads_no_grouping": {"num_attention_heads": 6, "num_key_value_heads": 6, "head_dim": 16, "hidden_size": 96},
    "full_layers_first_top2": {
        "layer_types": ["full_attention", "sliding_attention", "full_attention"],
        "num_hidden_layers": 3,
        "num_experts_per_tok": 2,
        "num_local_experts": 5,
        "intermediate_size": 96,
    },
}


def make_reference(
    shape: str | dict[str, Any], folder: Path, *, seed: int = 0, dtype: torch.dtype = torch.float32
) -> GptOssForCausalLM:
    """Make a random model, save it to `folder` in `dtype`, and return it in float32 with eager attention.

    shape: one of SHAPES, or what it changes in BASE.
    """
    config = GptOssConfig(**(BASE | (SHAPES[shape] if isinstance(shape, str) else shape)))
    config._attn_implementation = "eager"
    torch.manual_seed(seed)
    model = GptOssForCausalLM(config).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # transformers' own initialisation is so small that attention and experts would hardly matter
            parameter.normal_(0.0, 0.5 if "sinks" in name or "bias" in name else 2.0 / parameter.shape[-1] ** 0.5)
            if "norm" in name:
                parameter.uniform_(0.5, 1.5)
            # rounded in place: model.to(dtype) would round the rotary frequencies too
            parameter.copy_(parameter.to(dtype))
    weights = {name: parameter.to(dtype) for name, parameter in model.state_dict().items()}
    model.save_pretrained(folder, state_dict=weights)
    return model


@torch.inference_mode()
def reference_logits(model: GptOssForCausalLM, token_ids: list[int]) -> torch.Tensor:
    """Return the logits at every position, [num_tokens, vocab] float32, computed in one pass without a cache."""
    return model(torch.tensor([token_ids]), use_cache=False).logits[0]


def follows_greedily(model: GptOssForCausalLM, prompt_ids: list[int], token_ids: list[int]) -> bool:
    """Say whether each token is the likeliest one after the prompt and the tokens before it, but for rounding."""
    logits = reference_logits(model, prompt_ids + token_ids[:-1])[len(prompt_ids) - 1 :]
    chosen = logits.gather(1, torch.tensor(token_ids)[:, None])
    return bool((chosen > logits.amax(dim=1, keepdim=True) - 1e-3).all())
