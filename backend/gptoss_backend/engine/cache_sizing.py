"""How large the KV cache becomes on this machine, and the line that says so.

Stage: start of the engine, once the weights are loaded. Owns: the share of memory that keys and values may take.
Does not know: how blocks are divided (cache_plan), how memory is read (memory).
"""

from __future__ import annotations

import torch

from gptoss_backend.engine.cache_plan import CacheLimits, CachePlan, plan_cache
from gptoss_backend.engine.config import ModelConfig
from gptoss_backend.engine.drawing import ROWS_AT_ONCE
from gptoss_backend.engine.errors import EngineError
from gptoss_backend.engine.memory import available_bytes
from gptoss_backend.engine.placement.memory_plan import WORKSPACE_BYTES

_CPU_SHARE = 0.25  # the page cache, which holds the checkpoint, and other processes want some as well
_CPU_MOST = 4 * 2**30
_GPU_SHARE = 0.9


def size_cache(
    config: ModelConfig, device: torch.device, element_size: int, limits: CacheLimits, extra_position_bytes: int = 0
) -> CachePlan:
    """Plan a cache as `limits` say, with `extra_position_bytes` a position besides the layers' keys and values.

    Raises EngineError where that is too little memory, or more than there is.
    """
    available = available_bytes(device)
    plan = plan_cache(
        config,
        limits,
        budget_bytes=_share(available, device, config, limits)
        if limits.kv_cache_bytes is None
        else limits.kv_cache_bytes,
        element_size=element_size,
        extra_position_bytes=extra_position_bytes,
    )
    if plan.num_bytes > available:  # the memory would be given, and the process killed once it is used
        raise EngineError(
            f"the KV cache would take {plan.num_bytes / 2**30:.1f} GiB, but only {available / 2**30:.1f} GiB are free: "
            "lower engine.kv_cache_bytes, engine.max_num_seqs or engine.max_model_len"
        )
    return plan


def describe(plan: CachePlan, wanted_context: int) -> str:
    """Return the size in one line, and whether the context had to be cut for it."""
    size = f"{plan.num_bytes / 2**30:.1f} GiB" if plan.num_bytes >= 2**30 else f"{plan.num_bytes / 2**20:.0f} MiB"
    line = f"KV cache: {size}, {plan.num_tokens:,} tokens"
    if plan.max_model_len < wanted_context:
        line += f"; the context is cut from {wanted_context:,} to {plan.max_model_len:,} tokens"
    return line


def _share(available: int, device: torch.device, config: ModelConfig, limits: CacheLimits) -> int:
    if device.type == "cuda":
        # on a small card a share would leave less than a step needs to work in
        rest = available - WORKSPACE_BYTES - _sampling_bytes(config, limits.num_rows)
        return max(0, min(int(available * _GPU_SHARE), rest))
    return min(int(available * _CPU_SHARE), _CPU_MOST)


def _sampling_bytes(config: ModelConfig, num_rows: int) -> int:
    """Return what drawing takes: logits of 16 bits and of 32 for each row, and thrice more where rows are looked at."""
    num_looked_at = min(num_rows, ROWS_AT_ONCE)
    return (6 * num_rows + 12 * num_looked_at) * config.vocab_size
