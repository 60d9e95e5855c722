"""GPT-OSS's forward pass over one step's batch.

Stage 5 of a request: step. Owns: the weights and the order of the layers.
Does not know: requests, sampling, which sequence a token belongs to beyond its cache row.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from gptoss_backend.engine.attention import AttentionPlan, attend
from gptoss_backend.engine.batch import Batch
from gptoss_backend.engine.checkpoint import LayerWeights, Weights
from gptoss_backend.engine.config import ModelConfig
from gptoss_backend.engine.experts import ExpertShape, mix_experts
from gptoss_backend.engine.kv_cache import KVCache
from gptoss_backend.engine.rope import RotaryEmbedding


class Model:
    """A loaded GPT-OSS on one device."""

    def __init__(self, config: ModelConfig, weights: Weights) -> None:
        self.config = config
        self.weights = weights
        self.device = weights.embedding.device
        self.dtype = weights.embedding.dtype
        self._rope = RotaryEmbedding(config.rope, config.head_dim, self.device)
        self._expert_shape = ExpertShape(config.num_experts_per_token, config.swiglu_alpha, config.swiglu_limit)

    def forward(self, batch: Batch, cache: KVCache) -> Tensor:
        """Compute a step: write its keys and values into `cache`, in place.

        Returns logits [num_samples, vocab] float32, one row for each of batch.logit_indices.
        """
        with torch.inference_mode():
            hidden = F.embedding(batch.token_ids, self.weights.embedding)
            rotation = self._rope.angles(batch.positions, self.dtype)
            plans = {id(g): AttentionPlan.build(batch, g, cache.plan.block_size) for g in (cache.full, cache.sliding)}
            for index, layer in enumerate(self.weights.layers):
                hidden = hidden + self._attention(index, layer, hidden, rotation, plans[id(cache.groups[index])], cache)
                hidden = hidden + mix_experts(self._norm(hidden, layer.expert_norm), layer.experts, self._expert_shape)
            last = self._norm(hidden.index_select(0, batch.logit_indices), self.weights.norm)
            return F.linear(last, self.weights.unembedding).float()

    def _attention(
        self,
        index: int,
        layer: LayerWeights,
        hidden: Tensor,
        rotation: tuple[Tensor, Tensor],
        plan: AttentionPlan,
        cache: KVCache,
    ) -> Tensor:
        config = self.config
        normed = self._norm(hidden, layer.attention_norm)
        heads = F.linear(normed, layer.qkv, layer.qkv_bias).view(len(normed), -1, config.head_dim)
        queries, keys, values = torch.split(heads, [config.num_heads, config.num_kv_heads, config.num_kv_heads], dim=1)
        mixed = attend(
            self._rope.rotate(queries, *rotation),
            self._rope.rotate(keys, *rotation),
            values,
            cache.keys[index],
            cache.values[index],
            layer.sinks,
            plan,
        )
        return F.linear(mixed.flatten(1), layer.output, layer.output_bias)

    def _norm(self, hidden: Tensor, weight: Tensor) -> Tensor:
        """RMSNorm in float32, whatever the compute dtype."""
        return F.rms_norm(hidden.float(), weight.shape, weight, self.config.rms_norm_eps).to(self.dtype)
