"""A draft head's forward pass: what it keeps of the model's steps, and what it guesses from that.

Stage 5 of a request: step. Owns: the head's weights and memory. Does not know: which guesses stand, who asks for them.

The head reads pairs: a token's embedding, and the feature of the token before it, which is made of three of the model's
residual streams. A pair lies in the cache slot of its token, so what is there depends on nothing but the tokens up to
it, as the model's own keys and values do: prefixes are found again, and blocks change hands, for both alike. The first
token has no pair. Keys and values of a pair do not need the head's attention, so those of the model's own tokens cost
two matmuls; the whole layer runs for guesses only.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from gptoss_backend.engine.batch import Batch
from gptoss_backend.engine.block_tables import BlockTables
from gptoss_backend.engine.cache_plan import CachePlan
from gptoss_backend.engine.eagle.config import HeadConfig
from gptoss_backend.engine.eagle.weights import HeadWeights
from gptoss_backend.engine.operators import LayerCache, Operators, Projection, StepAttention
from gptoss_backend.engine.rope import RotaryEmbedding
from gptoss_backend.engine.transfer import sent, to_device

FIRST_PAIR = 1
"""Position of the first token that another one stands before."""
# Llama's attention has no sink: this one weighs nothing, and stays above what the kernels take for no key at all
_NO_SINK = -1e29


@dataclass(frozen=True, slots=True)
class TokenPlaces:
    """A step's tokens and where the head keeps what it makes of them: [num_tokens] int64 each, on the device."""

    token_ids: Tensor
    positions: Tensor
    slots: Tensor
    earlier: Tensor
    """The slot of the token before; 0, which holds zeros, where there is none"""

    @classmethod
    def of(cls, batch: Batch, tables: BlockTables, token_ids: Tensor) -> TokenPlaces:
        """Look the tokens of a batch up in the tables on the host. token_ids: theirs, on the device."""
        positions, rows = torch.tensor([batch.positions, batch.rows])
        slots, earlier = _slots(tables.full.table, rows, positions, tables.plan.block_size)
        return cls(token_ids, *sent(torch.stack([positions, slots, earlier]), token_ids.device))

    @classmethod
    def at(
        cls, token_ids: Tensor, positions: Tensor, rows: Tensor, is_real: Tensor, table: Tensor, plan: CachePlan
    ) -> TokenPlaces:
        """Look tokens up that are on the device, [num_tokens] int64 each; what is not real is written where none reads.

        table: [num_rows, num_blocks] on the device. Nothing here waits.
        """
        slots, earlier = _slots(table, rows, positions, plan.block_size)
        return cls(token_ids, positions, slots.masked_fill(is_real == 0, _spare_slot(plan)), earlier)


def _slots(table: Tensor, rows: Tensor, positions: Tensor, block_size: int) -> tuple[Tensor, Tensor]:
    before = (positions - 1).clamp(min=0)
    slots, earlier = (table[rows, at // block_size].long() * block_size + at % block_size for at in (positions, before))
    return slots, earlier.masked_fill(positions == 0, 0)


def _spare_slot(plan: CachePlan) -> int:
    return plan.num_full_blocks * plan.block_size


class DraftHead:
    """An EAGLE-3 head over one model. Used by the model's thread."""

    def __init__(self, config: HeadConfig, weights: HeadWeights, embedding: Tensor, operators: Operators) -> None:
        """embedding: the model's [vocab, hidden], for a head that has none of its own."""
        self.config = config
        self._weights = weights
        self._embedding = embedding if weights.embedding is None else weights.embedding
        self._operators = operators
        self._dtype, self._device = weights.fc.dtype, weights.fc.device
        self.rope = RotaryEmbedding(config.rope, config.head_dim, self._device)
        self._sinks = torch.full((config.num_heads,), _NO_SINK, device=self._device)

    def empty_features(self, num_tokens: int) -> Tensor:
        """Return memory for the features of so many tokens, [num_tokens, hidden]."""
        return torch.empty(num_tokens, self.config.hidden_size, dtype=self._dtype, device=self._device)

    @property
    def position_bytes(self) -> int:
        """Memory that a position of the cache takes: a key, a value and a feature."""
        config = self.config
        return (2 * config.num_kv_heads * config.head_dim + config.hidden_size) * self._dtype.itemsize

    def allocate_cache(self, plan: CachePlan) -> None:
        """Take memory as one more layer that sees everything, in place of any taken before; the null block is zero."""
        config, num_slots = self.config, _spare_slot(plan) + 1
        shape = (config.num_kv_heads, num_slots, config.head_dim)
        keys, values = (torch.empty(shape, dtype=self._dtype, device=self._device) for _ in range(2))
        self._features = self.empty_features(num_slots)
        for memory in (keys, values, self._features[None]):
            memory[:, : plan.block_size].zero_()
        self._cache = LayerCache(keys, values, is_sliding=False)

    def note(self, states: list[Tensor], places: TokenPlaces) -> None:
        """Keep the features, keys and values of a step's tokens.

        states: the residual streams that the head reads, [num_tokens, hidden] each.
        """
        weights, config = self._weights, self.config
        self._features.index_copy_(0, places.slots, self._fused(states))
        # what stands before a token was kept by an earlier step, or a line ago
        inputs = self._inputs(places.token_ids, self._features.index_select(0, places.earlier))
        pairs = F.linear(inputs, weights.qkv[config.num_heads * config.head_dim :])
        keys, values = pairs.view(len(pairs), 2, config.num_kv_heads, config.head_dim).unbind(1)
        keys = RotaryEmbedding.rotate(keys.float(), *self.rope.angles(places.positions, torch.float32))
        self._cache.keys.index_copy_(1, places.slots, keys.to(self._dtype).transpose(0, 1))
        self._cache.values.index_copy_(1, places.slots, values.transpose(0, 1))

    @torch.inference_mode()
    def draft(self, batch: Batch, tables: BlockTables, num_tokens: int) -> list[list[int]]:
        """Guess `num_tokens` tokens after each of a batch of decodes, greedily.

        The tokens before those of the batch are in the cache; there is room in it for `num_tokens` more.
        """
        places = TokenPlaces.of(batch, tables, to_device(batch.token_ids, torch.int64, self._device))
        tokens, features = places.token_ids, self.features_before(places)
        drafted = []
        for count in range(num_tokens):
            step = Batch([], [position + count for position in batch.positions], batch.rows, [], batch.num_decodes, [])
            attention = self._operators.attention(step, tables, self.rope, self._dtype, FIRST_PAIR)
            tokens, features = self.guess(tokens, features, attention)
            drafted.append(tokens)
        guesses: list[list[int]] = torch.stack(drafted, dim=1).tolist()
        return guesses

    def features_before(self, places: TokenPlaces) -> Tensor:
        """Return the features of the tokens before some that the model has not computed yet, [num_tokens, hidden]."""
        return self._features.index_select(0, places.earlier)

    def guess(self, token_ids: Tensor, features: Tensor, attention: StepAttention) -> tuple[Tensor, Tensor]:
        """Return what comes after pairs, [num_tokens] int64, and what stands for the features of the pairs' tokens.

        These have none of the model's yet: the head's own stream takes their place. Nothing here waits.
        """
        streams, logits = self._layer(token_ids, features, attention)
        return self._weights.targets[logits.argmax(dim=-1)], streams

    def _layer(self, token_ids: Tensor, features: Tensor, attention: StepAttention) -> tuple[Tensor, Tensor]:
        """Return the stream after the layer [num_tokens, hidden] and the logits [num_tokens, draft_vocab]."""
        weights = self._weights
        inputs = self._inputs(token_ids, features)
        attended = attention.attend(inputs, Projection(weights.qkv, None), self._cache, self._sinks)
        attended = F.linear(attended, weights.output)
        stream = self._norm(features, weights.feature_norm) if self.config.norm_before_residual else features
        stream, normed = self._add_and_norm(stream, attended, weights.mlp_norm)
        gate, up = F.linear(normed, weights.gate_up).chunk(2, dim=-1)
        stream, last = self._add_and_norm(stream, F.linear(F.silu(gate) * up, weights.down), weights.norm)
        return stream, F.linear(last, weights.unembedding)

    def _fused(self, states: list[Tensor]) -> Tensor:
        joined = torch.cat(states, dim=-1).to(self._dtype)
        if self._weights.fc_norm is not None:
            joined = self._norm(joined, self._weights.fc_norm)
        return F.linear(joined, self._weights.fc)

    def _inputs(self, token_ids: Tensor, features: Tensor) -> Tensor:
        """Return what the layer reads of pairs, [num_tokens, 2 * hidden]."""
        embedded = F.embedding(token_ids, self._embedding)
        parts = (embedded, self._weights.embedding_norm), (features, self._weights.feature_norm)
        return torch.cat([self._norm(part, weight) for part, weight in parts], dim=-1)

    def _norm(self, hidden: Tensor, weight: Tensor) -> Tensor:
        return self._operators.add_and_norm(hidden, None, weight, self.config.rms_norm_eps, self._dtype)[1]

    def _add_and_norm(self, hidden: Tensor, addition: Tensor, weight: Tensor) -> tuple[Tensor, Tensor]:
        return self._operators.add_and_norm(hidden, addition, weight, self.config.rms_norm_eps, self._dtype)
