"""GPT-OSS's forward pass over one step's batch, in plain torch.

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
from gptoss_backend.engine.kv_cache import CachePlan, KVCache
from gptoss_backend.engine.model import StepOutput
from gptoss_backend.engine.rope import RotaryEmbedding


class TorchModel:
    """A GPT-OSS in plain torch operators, on any device: the reference for every kernel."""

    def __init__(self, config: ModelConfig, weights: Weights) -> None:
        self.config = config
        self.device = weights.embedding.device
        self.dtype = weights.embedding.dtype
        self._weights = weights
        self._rope = RotaryEmbedding(config.rope, config.head_dim, self.device)
        self._expert_shape = ExpertShape(config.num_experts_per_token, config.swiglu_alpha, config.swiglu_limit)
        self._is_sliding = [index in set(config.sliding_layers) for index in range(config.num_layers)]
        self._keys: list[Tensor] = []
        self._values: list[Tensor] = []

    def allocate_cache(self, plan: CachePlan) -> None:
        """Take the memory for keys and values, in place of any taken before; the null block is zero."""
        self._keys.clear()
        self._values.clear()
        for is_sliding in self._is_sliding:
            num_blocks = plan.num_sliding_blocks if is_sliding else plan.num_full_blocks
            # head-major, so that gathering one head's positions gives a matrix; [num_kv_heads, num_slots, head_dim]
            shape = (self.config.num_kv_heads, num_blocks * plan.block_size, self.config.head_dim)
            for side in (self._keys, self._values):
                memory = torch.empty(shape, dtype=self.dtype, device=self.device)
                memory[:, : plan.block_size].zero_()
                side.append(memory)

    @torch.inference_mode()
    def forward(self, batch: Batch, cache: KVCache, *, with_logits: bool) -> StepOutput:
        """Compute a step, as `Model.forward` says."""
        weights, block_size = self._weights, cache.plan.block_size
        hidden = F.embedding(torch.tensor(batch.token_ids, device=self.device), weights.embedding)
        rotation = self._rope.angles(torch.tensor(batch.positions, device=self.device), self.dtype)
        full = AttentionPlan.build(batch, cache.full, block_size, self.device)
        sliding = AttentionPlan.build(batch, cache.sliding, block_size, self.device)
        for index, layer in enumerate(weights.layers):
            plan = sliding if self._is_sliding[index] else full
            hidden = hidden + self._attention(index, layer, hidden, rotation, plan)
            hidden = hidden + mix_experts(self._norm(hidden, layer.expert_norm), layer.experts, self._expert_shape)
        samples = torch.tensor(batch.samples, dtype=torch.int64, device=self.device)
        last = self._norm(hidden.index_select(0, samples), weights.norm)
        logits = F.linear(last, weights.unembedding).float()
        return StepOutput(logits.argmax(dim=-1).tolist(), logits if with_logits else None)

    def _attention(
        self,
        index: int,
        layer: LayerWeights,
        hidden: Tensor,
        rotation: tuple[Tensor, Tensor],
        plan: AttentionPlan,
    ) -> Tensor:
        config = self.config
        normed = self._norm(hidden, layer.attention_norm)
        heads = F.linear(normed, layer.qkv, layer.qkv_bias).view(len(normed), -1, config.head_dim)
        queries, keys, values = torch.split(heads, [config.num_heads, config.num_kv_heads, config.num_kv_heads], dim=1)
        mixed = attend(
            self._rope.rotate(queries, *rotation),
            self._rope.rotate(keys, *rotation),
            values,
            self._keys[index],
            self._values[index],
            layer.sinks,
            plan,
        )
        return F.linear(mixed.flatten(1), layer.output, layer.output_bias)

    def _norm(self, hidden: Tensor, weight: Tensor) -> Tensor:
        """RMSNorm in float32, whatever the compute dtype."""
        return F.rms_norm(hidden.float(), weight.shape, weight, self.config.rms_norm_eps).to(self.dtype)
