"""What a shard takes on its device, before a byte of it is read.

Stage: start-up. Owns: the formats that memory depends on, the sum by part, and the line that tells it.
Does not know: how much there is, which is for `choice` to compare.
"""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction
from typing import Final, Protocol

from gptoss_backend.engine.config import BLOCK_VALUES
from gptoss_backend.engine.shard import Shard

# the CUDA context and its libraries, and what a step holds between its operators
WORKSPACE_BYTES = 2**30
# four bits a value and eight for each block
_PACKED_VALUE_BYTES = Fraction(BLOCK_VALUES // 2 + 1, BLOCK_VALUES)
_NORM_BYTES = 4
# of a row of a matrix in eight bits
_SCALE_BYTES = 4


@dataclass(frozen=True, slots=True)
class Formats:
    """What a model and its cache are kept in, as far as memory goes."""

    element_size: int = 2
    """Bytes of a value of the compute dtype."""
    packed: bool = True
    """Experts stay in MXFP4."""
    kv_element_size: int | None = None
    """None: the element's."""
    eight_bit: bool = False
    """Attention's matrices and the unembedding are int8."""

    @classmethod
    def on_gpu(cls, asked: AskedFormats, *, has_packed_experts: bool) -> Formats:
        """Return what a checkpoint is kept in on GPUs; so the start of a server and the engine decide alike."""
        return cls(
            element_size=4 if asked.dtype == "float32" else 2,
            packed=asked.experts != "unpacked" and has_packed_experts,
            kv_element_size=1 if asked.kv_cache_dtype == "fp8" else None,
            eight_bit=asked.dense_weights == "int8",
        )


class AskedFormats(Protocol):
    """The settings that decide on them: an engine's options, or `engine` of the settings."""

    @property
    def dtype(self) -> str:
        """auto, bfloat16, float16 or float32."""

    @property
    def experts(self) -> str:
        """auto, packed or unpacked."""

    @property
    def kv_cache_dtype(self) -> str:
        """auto or fp8."""

    @property
    def dense_weights(self) -> str:
        """auto or int8."""


AS_PUBLISHED: Final = Formats()


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """What a shard's weights take on its device, by part, and its cache for one token."""

    expert_bytes: int
    attention_bytes: int
    """Norms and the router among it."""
    embedding_bytes: int
    """0 where it is on the host or with another rank."""
    unembedding_bytes: int
    kv_bytes_per_token: int
    """In the layers that see everything; the sliding ones hold the same for any length."""

    @property
    def weight_bytes(self) -> int:
        """Of all parts."""
        return self.expert_bytes + self.attention_bytes + self.embedding_bytes + self.unembedding_bytes

    def needed(self, num_tokens: int) -> int:
        """Return what a device needs to serve with that much context."""
        return self.weight_bytes + WORKSPACE_BYTES + num_tokens * self.kv_bytes_per_token

    def num_tokens_in(self, num_bytes: int) -> int:
        """Return how many tokens of context a device of `num_bytes` has room for beside the weights."""
        return max(0, num_bytes - self.weight_bytes - WORKSPACE_BYTES) // max(1, self.kv_bytes_per_token)

    def __str__(self) -> str:
        """Return the plan in one line."""
        parts = {
            "experts": self.expert_bytes,
            "attention": self.attention_bytes,
            "embedding": self.embedding_bytes,
            "unembedding": self.unembedding_bytes,
        }
        told = ", ".join(f"{name} {gib(size)}" for name, size in parts.items() if size)
        return (
            f"weights {gib(self.weight_bytes)} ({told}), {self.kv_bytes_per_token / 2**10:.0f} KiB of KV cache a token"
        )


def plan_memory(shard: Shard, formats: Formats) -> MemoryPlan:
    """Add up what `shard` takes in these formats."""
    element_size = formats.element_size

    def dense(num_rows: int, num_columns: int) -> int:
        return num_rows * (num_columns + _SCALE_BYTES if formats.eight_bit else num_columns * element_size)

    config, layers = shard.whole, shard.layers
    hidden, heads, kv_heads = config.hidden_size, len(shard.heads), len(shard.kv_heads)
    value_bytes = _PACKED_VALUE_BYTES if formats.packed else Fraction(element_size)
    num_inner = sum(len(shard.inner(layer)) for layer in layers)
    matrices = 3 * hidden * num_inner * config.num_experts
    biases = config.num_experts * (2 * num_inner + hidden * len(layers))
    qkv = (heads + 2 * kv_heads) * config.head_dim
    attention = dense(qkv, hidden) + dense(hidden, heads * config.head_dim) + (qkv + hidden) * element_size
    router = config.num_experts * (hidden + 1) * element_size
    num_full = sum(layer in set(config.full_layers) for layer in layers)
    return MemoryPlan(
        expert_bytes=int(matrices * value_bytes) + biases * element_size,
        attention_bytes=len(layers) * (attention + router + (2 * hidden + heads) * _NORM_BYTES),
        embedding_bytes=config.vocab_size * hidden * element_size if shard.is_first and shard.num_parts == 1 else 0,
        unembedding_bytes=dense(len(shard.vocab), hidden) + hidden * _NORM_BYTES if shard.is_last else 0,
        kv_bytes_per_token=2 * kv_heads * config.head_dim * (formats.kv_element_size or element_size) * num_full,
    )


def gib(num_bytes: float) -> str:
    """Return bytes for people."""
    return f"{num_bytes / 2**30:.2f} GiB" if num_bytes < 100 * 2**30 else f"{num_bytes / 2**30:.0f} GiB"
