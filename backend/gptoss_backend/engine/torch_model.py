"""GPT-OSS's forward pass over one step's batch, in plain torch.

Stage 5 of a request: step. Owns: a shard's weights and cache memory, the order of the layers.
Does not know: requests, sampling, which sequence a token belongs to beyond its cache row, how devices talk.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from gptoss_backend.engine.attention import AttentionPlan, attend
from gptoss_backend.engine.batch import Batch
from gptoss_backend.engine.checkpoint import LayerWeights, Weights
from gptoss_backend.engine.experts import ExpertShape, ExpertWeights, mix_experts, project
from gptoss_backend.engine.kv_cache import BlockTables, CachePlan
from gptoss_backend.engine.model import LocalModel, StepOutput
from gptoss_backend.engine.mxfp4 import PackedMatrices
from gptoss_backend.engine.rope import RotaryEmbedding
from gptoss_backend.engine.shard import Shard


class Group(Protocol):
    """The parts into which each layer is divided. Every part calls the same methods in the same order."""

    def add_up(self, partial: Tensor) -> Tensor:
        """Return the sum over the parts of a tensor, which may be overwritten."""

    def join_output(self, logits: Tensor, vocab: range, *, with_logits: bool) -> StepOutput:
        """Return what all parts' logits [num_samples, len(vocab)] say; only the first part's answer is of use."""


class Alone:
    """The group of a model whose layers are whole."""

    def add_up(self, partial: Tensor) -> Tensor:
        """Return it: there is no other part."""
        return partial

    def join_output(self, logits: Tensor, vocab: range, *, with_logits: bool) -> StepOutput:
        """Return the output of the only part."""
        assert vocab.start == 0  # noqa: S101 (the only part holds the whole vocabulary)
        return StepOutput(logits.argmax(dim=-1).tolist(), logits if with_logits else None)


ExpertMixer = Callable[[Tensor, ExpertWeights, ExpertShape], Tensor]


def mixer_for(weights: ExpertWeights) -> ExpertMixer:
    """Return what applies such experts: kernels that take them packed on a GPU, else plain torch."""
    if not (isinstance(weights.gate_up, PackedMatrices) and weights.router.device.type == "cuda"):
        return mix_experts
    # Triton-language comes with torch's CUDA build; where nothing else is computed, nobody needs it
    from gptoss_backend.engine.kernels.experts import mix_packed_experts

    return mix_packed_experts


class TorchModel(LocalModel):
    """A GPT-OSS, or a shard of one, in plain torch operators, on any device: the reference for every kernel."""

    def __init__(
        self, shard: Shard, weights: Weights, group: Group | None = None, mixer: ExpertMixer | None = None
    ) -> None:
        """group: needed where the shard holds a part of each layer. mixer: None: what is best for these experts."""
        self.config = shard.local_config()
        layer = weights.layers[0]
        self.device = layer.qkv.device
        self.dtype = layer.qkv.dtype
        self._shard = shard
        self._weights = weights
        self._group: Group = group or Alone()
        # in float16 the residual stream would overflow; see `project`
        self._residual_dtype = torch.float32 if self.dtype == torch.float16 else self.dtype
        self._rope = RotaryEmbedding(self.config.rope, self.config.head_dim, self.device)
        config = self.config
        self._expert_shape = ExpertShape(config.num_experts_per_token, config.swiglu_alpha, config.swiglu_limit)
        self._mix_experts = mixer or mixer_for(layer.experts)
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

    def forward(self, batch: Batch, tables: BlockTables, *, with_logits: bool) -> StepOutput:
        """Compute a step with all layers here, as `LocalModel.forward` says."""
        return self.unembed(self.run_layers(self.embed(batch), batch, tables), batch, with_logits=with_logits)

    @torch.inference_mode()
    def embed(self, batch: Batch) -> Tensor:
        """Return the residual stream before the first layer, [num_tokens, hidden]. Only in the first shard."""
        table = self._weights.embedding
        assert table is not None  # noqa: S101 (the first shard has it)
        rows = F.embedding(torch.tensor(batch.token_ids, device=table.device), table)
        return rows.to(self.device, self._residual_dtype)

    @torch.inference_mode()
    def run_layers(self, hidden: Tensor, batch: Batch, tables: BlockTables) -> Tensor:
        """Return the residual stream [num_tokens, hidden] after this shard's layers, writing keys and values."""
        block_size = tables.plan.block_size
        rotation = self._rope.angles(torch.tensor(batch.positions, device=self.device), self.dtype)
        full = AttentionPlan.build(batch, tables.full, block_size, self.device)
        sliding = AttentionPlan.build(batch, tables.sliding, block_size, self.device)
        for index, layer in enumerate(self._weights.layers):
            plan = sliding if self._is_sliding[index] else full
            hidden = hidden + self._group.add_up(self._attention(index, layer, hidden, rotation, plan))
            mixed = self._mix_experts(self._norm(hidden, layer.expert_norm), layer.experts, self._expert_shape)
            hidden = hidden + self._group.add_up(mixed.to(hidden.dtype))
        return hidden

    @torch.inference_mode()
    def unembed(self, hidden: Tensor, batch: Batch, *, with_logits: bool) -> StepOutput:
        """Return what follows the batch's samples, from the residual stream after the last layer."""
        norm, unembedding = self._weights.norm, self._weights.unembedding
        assert norm is not None and unembedding is not None  # noqa: S101, PT018 (the last shard has them)
        samples = torch.tensor(batch.samples, dtype=torch.int64, device=self.device)
        last = self._norm(hidden.index_select(0, samples), norm)
        logits = F.linear(last, unembedding).float()
        return self._group.join_output(logits, self._shard.vocab, with_logits=with_logits)

    def empty_hidden(self, num_tokens: int) -> Tensor:
        """Return memory for a residual stream."""
        shape = (num_tokens, self.config.hidden_size)
        return torch.empty(shape, dtype=self._residual_dtype, device=self.device)

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
        return project(mixed.flatten(1), layer.output, layer.output_bias)

    def _norm(self, hidden: Tensor, weight: Tensor) -> Tensor:
        """RMSNorm in float32, whatever the compute dtype."""
        return F.rms_norm(hidden.float(), weight.shape, weight, self.config.rms_norm_eps).to(self.dtype)
