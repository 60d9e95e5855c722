"""An EAGLE-3 head over a whole sequence at once, without a cache: the second implementation that ours is compared with.

Written from the paper and from what is published of heads; reads the folder itself.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import GptOssForCausalLM


class PlainHead:
    """Guesses after a prefix, with one loop over positions where there are several."""

    def __init__(self, folder: Path, boundaries: tuple[int, int, int]) -> None:
        self.config: dict[str, Any] = json.loads((folder / "config.json").read_text())
        self.weights = {
            name: tensor.float() if tensor.is_floating_point() else tensor
            for name, tensor in load_file(folder / "model.safetensors").items()
        }
        self.boundaries = boundaries

    @torch.inference_mode()
    def guess(self, model: GptOssForCausalLM, token_ids: list[int], num_tokens: int) -> list[int]:
        """Return what the head says after `token_ids`, whose last token the model has not computed yet."""
        output = model(torch.tensor([token_ids[:-1]]), use_cache=False, output_hidden_states=True)
        states = torch.cat([output.hidden_states[index][0] for index in self.boundaries], dim=-1)
        if self.config.get("norm_before_fc"):
            states = self._norm(states, "input_norm")
        features = list(states @ self.weights["fc.weight"].T)
        following, guesses = list(token_ids[1:]), []
        for _ in range(num_tokens):
            embedded = self._embedding(model)[torch.tensor(following)]
            streams, logits = self._layer(embedded, torch.stack(features))
            draft = int(logits[-1].argmax())
            guesses.append(draft + int(self.weights["d2t"][draft]))
            following.append(guesses[-1])
            features.append(streams[-1])
        return guesses

    def _embedding(self, model: GptOssForCausalLM) -> Tensor:
        own = self.weights.get("embed_tokens.weight")
        return model.get_input_embeddings().weight if own is None else own

    def _layer(self, embedded: Tensor, features: Tensor) -> tuple[Tensor, Tensor]:
        normed = self._norm(features, "midlayer.hidden_norm")
        inputs = torch.cat([self._norm(embedded, "midlayer.input_layernorm"), normed], dim=-1)
        attended = self._attention(inputs)
        stream = (normed if self.config.get("norm_before_residual") else features) + attended
        inner = self._norm(stream, "midlayer.post_attention_layernorm")
        gate = inner @ self.weights["midlayer.mlp.gate_proj.weight"].T
        up = inner @ self.weights["midlayer.mlp.up_proj.weight"].T
        stream = stream + (gate * gate.sigmoid() * up) @ self.weights["midlayer.mlp.down_proj.weight"].T
        return stream, self._norm(stream, "norm") @ self.weights["lm_head.weight"].T

    def _attention(self, inputs: Tensor) -> Tensor:
        count, size = len(inputs), self.config["head_dim"]
        queries, keys, values = (
            (inputs @ self.weights[f"midlayer.self_attn.{part}_proj.weight"].T).view(count, -1, size).transpose(0, 1)
            for part in "qkv"
        )
        repeats = len(queries) // len(keys)
        keys, values = (part.repeat_interleave(repeats, dim=0) for part in (self._rotate(keys), values))
        scores = self._rotate(queries) @ keys.transpose(1, 2) / math.sqrt(size)
        hidden = torch.ones(count, count, dtype=torch.bool).triu(1)
        mixed = scores.masked_fill(hidden, float("-inf")).softmax(dim=-1) @ values
        return mixed.transpose(0, 1).reshape(count, -1) @ self.weights["midlayer.self_attn.o_proj.weight"].T

    def _rotate(self, heads: Tensor) -> Tensor:
        """Turn each pair of dimensions as a complex number; the first pair stands at position 0."""
        half = heads.shape[-1] // 2
        frequencies = self.config["rope_theta"] ** (-torch.arange(half) / half)
        angles = torch.arange(heads.shape[1])[:, None] * frequencies
        turned = torch.complex(heads[..., :half], heads[..., half:]) * torch.polar(torch.ones_like(angles), angles)
        return torch.cat([turned.real, turned.imag], dim=-1)

    def _norm(self, values: Tensor, name: str) -> Tensor:
        root = (values.square().mean(dim=-1, keepdim=True) + self.config["rms_norm_eps"]).rsqrt()
        return values * root * self.weights[f"{name}.weight"]
