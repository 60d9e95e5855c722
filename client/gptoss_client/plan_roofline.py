"""How long a model's passes take, from what they read and compute.

Stage: before anything is bought.
Owns: the roofline: bytes and operations of a decode step and of a prompt, the time of the longer of the two, or of what
launches them, and what cards exchange.
Does not know: users, prices, how many cards there are beyond one replica's.

The roofline model: S. Williams, A. Waterman, D. Patterson, https://doi.org/10.1145/1498765.1498785. Experts are taken
to be picked evenly, so that a batch of b tokens is expected to read the share 1 - (1 - k/E)^b of them.
"""

from __future__ import annotations

from dataclasses import dataclass

from gptoss_backend.engine.config import ModelConfig
from gptoss_backend.engine.placement.choice import Choice
from gptoss_client.plan_devices import EXCHANGE_S, LAUNCHING_S, TENSOR_SHARE, Device

_VALUE_BYTES = 2  # bfloat16 and float16


@dataclass(frozen=True, slots=True)
class Roofline:
    """A model on one replica's devices. Times are seconds."""

    config: ModelConfig
    device: Device
    placement: Choice

    def decode_step_s(self, batch: float, context: float) -> float:
        """Return the time of one token for each of `batch` sequences of `context` tokens. A batch may be a mean."""
        num_bytes = self._weight_bytes(batch) + batch * self.kv_bytes(context)
        operations = 2.0 * batch * (self._layer_weights + self._unembedding_weights)
        return self._seconds(num_bytes, operations + batch * self._attention_operations(context))

    def prefill_s(self, num_tokens: float) -> float:
        """Return the time of a prompt of so many tokens, of which nothing is cached."""
        operations = num_tokens * (2.0 * self._layer_weights + self._attention_operations(num_tokens / 2))
        operations += 2.0 * self._unembedding_weights
        return self._seconds(self._weight_bytes(num_tokens), operations)

    def kv_bytes(self, context: float) -> float:
        """Return what a sequence's keys and values take, and what each of its decode steps reads of them."""
        config = self.config
        positions = len(config.full_layers) * context
        positions += len(config.sliding_layers) * min(context, config.sliding_window)
        return 2.0 * config.num_kv_heads * config.head_dim * _VALUE_BYTES * positions

    @property
    def kv_room_bytes(self) -> float:
        """What the replica's devices have for keys and values beside weights and room to work."""
        return sum(
            plan.num_tokens_in(self.device.as_card.room_bytes) * plan.kv_bytes_per_token
            for plan in self.placement.plans
        )

    @property
    def launching_s(self) -> float:
        """What a step takes at least, however little it reads, where the host launches kernel by kernel; else 0."""
        return 0.0 if self.device.has_graphs else LAUNCHING_S * self.config.num_layers

    @property
    def exchange_s(self) -> float:
        """What a step takes beside reading and computing, because several cards share it."""
        num_cards = len(self.placement.shards)
        if self.placement.mode == "tensor":  # the embedding, two sums a layer, the logits
            return EXCHANGE_S * (2 * self.config.num_layers + 2)
        return EXCHANGE_S * (num_cards - 1)

    def _seconds(self, num_bytes: float, operations: float) -> float:
        # tensor parallelism reads and computes with all cards at once; a pipeline's take turns with a token
        cards = TENSOR_SHARE * len(self.placement.shards) if self.placement.mode == "tensor" else 1.0
        device, reached = self.device, self.device.efficiency
        reading_s = num_bytes / (cards * device.bandwidth * reached.memory)
        computing_s = operations / (cards * device.flops * reached.compute)
        return max(self.launching_s, reading_s, computing_s) + self.exchange_s

    def _weight_bytes(self, num_tokens: float) -> float:
        config, plans = self.config, self.placement.plans
        picked: float = 1.0 - (1.0 - config.num_experts_per_token / config.num_experts) ** num_tokens
        experts = picked * sum(plan.expert_bytes for plan in plans)
        attention = sum(plan.attention_bytes for plan in plans)
        return experts + attention + self._unembedding_weights * self.device.unembedding_bytes

    @property
    def _unembedding_weights(self) -> int:
        return self.config.vocab_size * self.config.hidden_size

    @property
    def _layer_weights(self) -> int:
        """Weights that one token meets in the layers."""
        config = self.config
        experts = 3 * config.hidden_size * config.intermediate_size * config.num_experts_per_token
        heads = 2 * config.num_heads + 2 * config.num_kv_heads
        attention = heads * config.head_dim * config.hidden_size
        return config.num_layers * (experts + attention + config.num_experts * config.hidden_size)

    def _attention_operations(self, context: float) -> float:
        """Of one token over the keys and values of `context` positions."""
        config = self.config
        positions = len(config.full_layers) * context
        positions += len(config.sliding_layers) * min(context, config.sliding_window)
        return 4.0 * config.num_heads * config.head_dim * positions
