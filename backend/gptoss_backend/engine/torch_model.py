"""GPT-OSS's forward pass over one step's batch, by operators and experts of the device's kind.

Stage 5 of a request: step. Owns: a shard's weights and cache memory, the order of the layers.
Does not know: requests, sampling, which sequence a token belongs to beyond its cache row, how devices talk.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol

import torch
import torch.nn.functional as F
from torch import Tensor

from gptoss_backend.engine.batch import Batch
from gptoss_backend.engine.block_tables import BlockTables
from gptoss_backend.engine.cache_plan import CacheLimits, CachePlan
from gptoss_backend.engine.cache_sizing import size_cache
from gptoss_backend.engine.checkpoint import LayerWeights, Weights
from gptoss_backend.engine.eagle.config import HeadConfig
from gptoss_backend.engine.eagle.head import DraftHead, TokenPlaces
from gptoss_backend.engine.eagle.weights import HeadWeights
from gptoss_backend.engine.experts import Addition, ExpertShape, ExpertWeights, mix_experts
from gptoss_backend.engine.model import LocalModel, StepOutput
from gptoss_backend.engine.mxfp4 import PackedMatrices
from gptoss_backend.engine.operators import LayerCache, Operators, Projection, StepAttention, operators_for
from gptoss_backend.engine.rope import RotaryEmbedding
from gptoss_backend.engine.shard import Shard
from gptoss_backend.engine.transfer import to_device


class Group(Protocol):
    """The parts into which each layer is divided. Every part calls the same methods in the same order."""

    def add_up(self, partial: Tensor) -> Tensor:
        """Return the sum over the parts of a tensor, which may be overwritten."""

    def join(self, logits: Tensor, out: Tensor | None = None) -> Tensor:
        """Return all parts' logits side by side, [n, vocab], in `out` where there is one."""

    def wait(self, done: torch.cuda.Event) -> None:
        """Wait for the device to come to an event behind what the parts compute together. Raises PartsLost."""


class Alone:
    """The group of a model whose layers are whole."""

    def add_up(self, partial: Tensor) -> Tensor:
        """Return it: there is no other part."""
        return partial

    def join(self, logits: Tensor, out: Tensor | None = None) -> Tensor:
        """Return them: they are whole."""
        return logits if out is None else out.copy_(logits)

    def wait(self, done: torch.cuda.Event) -> None:
        """Wait for as long as it takes."""
        done.synchronize()


class Links(Protocol):
    """The neighbours of a stage that holds some of a model's layers."""

    def take_over(self, into: Tensor) -> Tensor:
        """Wait for the residual stream of the stage before; returns `into`, filled."""

    def pass_on(self, hidden: Tensor) -> None:
        """Send a residual stream to the next stage; its memory may be used anew at once."""


ELSEWHERE = StepOutput([], None)
"""The output of a shard whose step's output comes out of another."""

ExpertMixer = Callable[[Tensor, ExpertWeights, ExpertShape], Addition]


def mixer_for(weights: ExpertWeights) -> ExpertMixer:
    """Return what applies such experts: kernels that take them packed on a GPU, else plain torch."""
    if not (isinstance(weights.gate_up, PackedMatrices) and weights.router.device.type == "cuda"):
        return mix_experts
    # Triton-language comes with torch's CUDA build; where nothing else is computed, nobody needs it
    from gptoss_backend.engine.kernels.experts import mix_packed_experts

    return mix_packed_experts


class TorchModel(LocalModel):
    """A GPT-OSS, or a shard of one, on any device: with plain torch operators and experts, the kernels' reference."""

    def __init__(
        self,
        shard: Shard,
        weights: Weights,
        group: Group | None = None,
        mixer: ExpertMixer | None = None,
        operators: Operators | None = None,
        *,
        links: Links | None = None,
        cache_dtype: torch.dtype | None = None,
    ) -> None:
        """group: needed where the shard holds a part of each layer, links: where it holds some of the layers.

        mixer, operators: None: what is best here. cache_dtype: of keys and values; None: the weights'.
        """
        self.config = shard.local_config()
        layer = weights.layers[0]
        self.device = layer.qkv_bias.device
        self.dtype = layer.qkv_bias.dtype
        self._cache_dtype = cache_dtype or self.dtype
        self._shard = shard
        self._weights = weights
        self._group: Group = group or Alone()
        self._links = links
        # in float16 the residual stream would overflow; see `project`
        self._residual_dtype = torch.float32 if self.dtype == torch.float16 else self.dtype
        self._rope = RotaryEmbedding(self.config.rope, self.config.head_dim, self.device)
        config = self.config
        self._expert_shape = ExpertShape(config.num_experts_per_token, config.swiglu_alpha, config.swiglu_limit)
        self._mix_experts = mixer or mixer_for(layer.experts)
        self._is_sliding = [index in set(config.sliding_layers) for index in range(config.num_layers)]
        self._operators = operators or operators_for(self.device, self.dtype)
        self._cache: list[LayerCache] = []
        self._head: DraftHead | None = None
        self._most_guessed_at = 0

    def attach(self, config: HeadConfig, weights: HeadWeights, max_seqs: int) -> None:
        """Let a draft head guess, after up to `max_seqs` sequences at once.

        Before the cache is planned; only a whole model takes one.
        """
        assert self._weights.embedding is not None  # noqa: S101 (the model is whole)
        self._head = DraftHead(config, weights, self._weights.embedding, self._operators)
        self._most_guessed_at = max_seqs
        self.can_draft = True

    def plan_cache(self, limits: CacheLimits) -> CachePlan:
        """Plan by what is free on the device, as `Model.plan_cache` says, with the head's share."""
        extra = 0 if self._head is None else self._head.position_bytes
        return size_cache(self.config, self.device, self.cache_dtype.itemsize, limits, extra)

    @property
    def cache_dtype(self) -> torch.dtype:
        """Of keys and values."""
        return self._cache_dtype

    def allocate_cache(self, plan: CachePlan) -> None:
        """Take the memory for keys and values, in place of any taken before; the null block is zero."""
        if self._head is not None:
            self._head.allocate_cache(plan)
        self.free_cache()
        for is_sliding in self._is_sliding:
            num_blocks = plan.num_sliding_blocks if is_sliding else plan.num_full_blocks
            # head-major, so that gathering one head's positions gives a matrix; [num_kv_heads, num_slots, head_dim]
            shape = (self.config.num_kv_heads, num_blocks * plan.block_size, self.config.head_dim)
            keys, values = (torch.empty(shape, dtype=self._cache_dtype, device=self.device) for _ in range(2))
            for memory in (keys, values):
                memory[:, : plan.block_size].zero_()
            self._cache.append(LayerCache(keys, values, is_sliding))

    def free_cache(self) -> None:
        """Let go of the memory for the layers' keys and values, so that a larger cache can be planned."""
        self._cache.clear()

    @torch.inference_mode()
    def forward(self, batch: Batch, tables: BlockTables, *, with_logits: bool) -> StepOutput:
        """Compute a step, as `LocalModel.forward` says; of a shard, its share: `ELSEWHERE` where no output comes out.

        Every shard of a model has to compute every step, in the same order.
        """
        logits = self._finish(self.run_layers(self._begin(batch), batch, tables), batch)
        return likeliest(logits, with_logits=with_logits)

    def run_layers(self, hidden: Tensor, batch: Batch, tables: BlockTables) -> Tensor:
        """Return the residual stream [num_tokens, hidden] after this shard's layers, writing keys and values."""
        attention = self._operators.attention(batch, tables, self._rope, self.dtype)
        places = None if self._head is None else TokenPlaces.of(batch, tables, self._ids_of(batch).to(self.device))
        return self._add(*self._through_layers(hidden, attention, places))

    def draft(self, batch: Batch, cache: BlockTables, num_tokens: int) -> list[list[int]]:
        """Let the head guess, as `Model.draft` says."""
        assert self._head is not None  # noqa: S101 (else it cannot draft)
        return self._head.draft(batch, cache, num_tokens)

    def _begin(self, batch: Batch) -> Tensor:
        """Return the residual stream [num_tokens, hidden] before this shard's layers."""
        if self._shard.is_first:
            return self._embed(self._ids_of(batch))
        assert self._links is not None  # noqa: S101 (there is a stage before)
        return self._links.take_over(self._empty_hidden(len(batch.token_ids)))

    def _ids_of(self, batch: Batch) -> Tensor:
        """Return the ids of a batch's tokens, [num_tokens] int64."""
        return torch.tensor(batch.token_ids)

    def _finish(self, hidden: Tensor, batch: Batch) -> Tensor | None:
        """Return the logits of the batch's samples; None where others have them, to whom the stream is handed on."""
        if not self._shard.is_last:
            assert self._links is not None  # noqa: S101 (there is a stage behind)
            self._links.pass_on(hidden)
            return None
        samples = to_device(batch.samples, torch.int64, self.device)
        logits = self._logits(hidden.index_select(0, samples))
        return logits if self._shard.has_output else None

    def _empty_hidden(self, num_tokens: int) -> Tensor:
        shape = (num_tokens, self.config.hidden_size)
        return torch.empty(shape, dtype=self._residual_dtype, device=self.device)

    def _embed(self, token_ids: Tensor) -> Tensor:
        """Return the rows of tokens, [num_tokens, hidden]. Of several parts the first one has the table."""
        if self._shard.num_parts == 1:
            return self._look_up(token_ids)
        mine = self._look_up(token_ids) if self._shard.is_first_part else self._empty_hidden(len(token_ids)).zero_()
        return self._group.add_up(mine)

    def _look_up(self, token_ids: Tensor) -> Tensor:
        table = self._weights.embedding
        assert table is not None  # noqa: S101 (the first shard has it)
        return F.embedding(token_ids.to(table.device), table).to(self.device, self._residual_dtype)

    def _through_layers(
        self, hidden: Tensor, attention: StepAttention, places: TokenPlaces | None = None
    ) -> tuple[Tensor, Addition | None]:
        """Return the stream after the layers, and what is still to be added to it.

        places: of the tokens, where there is a head to note them.
        """
        addition: Addition | None = None
        read = () if self._head is None or places is None else self._head.config.boundaries
        streams: dict[int, Tensor] = {}
        for index, (layer, cache) in enumerate(zip(self._weights.layers, self._cache, strict=True)):
            hidden, normed = self._add_and_norm(hidden, addition, layer.attention_norm)
            addition = None  # a mixture is four times as large as the stream
            if index in read:
                streams[index] = hidden
            attended = self._group.add_up(self._attention(normed, layer, cache, attention))
            hidden, addition = self._experts(hidden, attended, layer)
            if self._shard.num_parts > 1:
                # parts exchange no more bytes than the stream has; a whole layer leaves the rounding to the sum
                addition = self._group.add_up(self._operators.sum(addition).to(hidden.dtype))
        if self._head is not None and places is not None:
            hidden, addition = self._add(hidden, addition), None
            streams[len(self._weights.layers)] = hidden
            self._head.note([streams[boundary] for boundary in read], places)
        return hidden, addition

    def _add(self, hidden: Tensor, addition: Addition | None, out: Tensor | None = None) -> Tensor:
        """Return the sum in hidden's dtype, in `out` where there is one."""
        if addition is None:
            return hidden if out is None else out.copy_(hidden)
        out = torch.empty_like(hidden) if out is None else out
        return torch.add(hidden, self._operators.sum(addition), out=out)

    def _logits(self, hidden: Tensor, addition: Addition | None = None, out: Tensor | None = None) -> Tensor:
        """Return [num_tokens, vocab] of the whole vocabulary in the compute dtype, in `out` where there is one."""
        norm, unembedding = self._weights.norm, self._weights.unembedding
        assert norm is not None and unembedding is not None  # noqa: S101, PT018 (the last shard has them)
        _, last = self._add_and_norm(hidden, addition, norm)
        if self._shard.num_parts == 1:
            return self._operators.linear(last, unembedding, out=out)
        return self._group.join(self._operators.linear(last, unembedding), out)

    def _experts(self, hidden: Tensor, addition: Tensor, layer: LayerWeights) -> tuple[Tensor, Addition]:
        """Return the stream with an addition, and what the layer's experts then add to it."""
        hidden, normed = self._add_and_norm(hidden, addition, layer.expert_norm)
        return hidden, self._mix_experts(normed, layer.experts, self._expert_shape)

    def _attention(self, normed: Tensor, layer: LayerWeights, cache: LayerCache, attention: StepAttention) -> Tensor:
        attended = attention.attend(normed, Projection(layer.qkv, layer.qkv_bias), cache, layer.sinks)
        return self._operators.project(attended, layer.output, layer.output_bias)

    def _add_and_norm(self, hidden: Tensor, addition: Addition | None, weight: Tensor) -> tuple[Tensor, Tensor]:
        return self._operators.add_and_norm(hidden, addition, weight, self.config.rms_norm_eps, self.dtype)


def likeliest(logits: Tensor | None, *, with_logits: bool) -> StepOutput:
    """Return a step's output where nothing is drawn; `ELSEWHERE` where there are no logits."""
    if logits is None:
        return ELSEWHERE
    logits = logits.float()
    return StepOutput(logits.argmax(dim=-1).tolist(), logits if with_logits else None)
