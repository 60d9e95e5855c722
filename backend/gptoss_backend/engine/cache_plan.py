"""How a KV cache's memory is divided into blocks.

Stage: start of the engine. Owns: what a cache is to hold, the plan, the arithmetic from one to the other.
Does not know: how much memory there is (cache_sizing), who holds which block (kv_cache).
"""

from __future__ import annotations

from dataclasses import dataclass

from gptoss_backend.engine.config import ModelConfig
from gptoss_backend.engine.errors import EngineError


@dataclass(frozen=True, slots=True)
class CacheLimits:
    """What a cache has to hold, and may take."""

    block_size: int
    num_rows: int
    """Sequences at once."""
    max_step_tokens: int
    max_model_len: int | None = None
    kv_cache_bytes: int | None = None
    """On each device. None: a share of what is free."""
    max_steps: int = 2
    """Under way at once, the one that is being chosen among them."""


@dataclass(frozen=True, slots=True)
class CachePlan:
    """How many blocks of each kind there are. Counts include each pool's null block."""

    block_size: int
    num_rows: int
    max_model_len: int
    num_full_blocks: int
    num_sliding_blocks: int
    num_bytes: int
    max_step_tokens: int = 0
    """What a step computes at most. 0: nobody has said"""

    @property
    def num_tokens(self) -> int:
        """Positions that full attention layers can hold."""
        return (self.num_full_blocks - 1) * self.block_size

    @property
    def max_blocks_per_row(self) -> int:
        """Width of the block tables."""
        return -(-self.max_model_len // self.block_size)


def plan_cache(
    config: ModelConfig,
    limits: CacheLimits,
    *,
    budget_bytes: int,
    element_size: int,
    extra_position_bytes: int = 0,
) -> CachePlan:
    """Divide `budget_bytes` between the two groups; what the limits say of bytes is for `cache_sizing`.

    extra_position_bytes: what a position of the full group takes besides keys and values of the model's layers.

    The sliding group gets what `limits.num_rows` sequences and the steps under way can ever hold, so that it never runs
    out; the full group gets the rest, up to as many whole contexts. Raises EngineError where the budget is too small.
    """
    block_size, num_rows, max_model_len = limits.block_size, limits.num_rows, limits.max_model_len
    layer_block_bytes = 2 * config.num_kv_heads * config.head_dim * block_size * element_size
    full_cost = layer_block_bytes * len(config.full_layers) + extra_position_bytes * block_size
    sliding_cost = layer_block_bytes * len(config.sliding_layers)
    context = min(max_model_len or config.max_positions, config.max_positions)

    num_sliding = 1 + most_sliding_blocks(config.sliding_window, limits, context)
    left = budget_bytes - num_sliding * sliding_cost
    most_full = 1 + num_rows * -(-context // block_size)
    num_full = min(most_full, left // full_cost) if full_cost else most_full
    capacity = (num_full - 1) * block_size
    if left < 0 or capacity < min(context, max_model_len or block_size):
        needed = num_sliding * sliding_cost + (1 + -(-(max_model_len or block_size) // block_size)) * full_cost
        raise EngineError(
            f"the KV cache may take {budget_bytes / 2**20:.0f} MiB, but needs {needed / 2**20:.0f} MiB "
            f"for {num_rows} sequences: lower engine.max_num_seqs or engine.max_model_len, "
            "or raise engine.kv_cache_bytes"
        )
    return CachePlan(
        block_size=block_size,
        num_rows=num_rows,
        max_model_len=min(context, capacity),
        num_full_blocks=num_full,
        num_sliding_blocks=num_sliding,
        num_bytes=num_full * full_cost + num_sliding * sliding_cost,
        max_step_tokens=limits.max_step_tokens,
    )


def most_sliding_blocks(window: int, limits: CacheLimits, context: int) -> int:
    """Return how many blocks of a sliding window are held at most, and some more.

    A sequence holds its window, and what steps under way compute: blocks are given back once that is done.
    """
    block_size = limits.block_size
    of_a_window = min(-(-window // block_size) + 2, -(-context // block_size) + 1)
    windows = limits.num_rows * of_a_window
    # windows twice, so that those of earlier conversations stay findable
    return 2 * windows + limits.max_steps * -(-limits.max_step_tokens // block_size)
