"""The answer of GET /stats.

Owns: its shape. Times are seconds, rates shares from 0 to 1; null: nothing was measured, or it cannot be told.
Does not know: where a value comes from.
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict

from gptoss_adapter.stats_windows import WindowName


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class LatencyStats(_Part):
    """How long something took, in seconds. Quantiles are right to 1%."""

    count: int
    p50: float | None
    p95: float | None
    p99: float | None


class WindowStats(_Part):
    """The last minute, five minutes or hour."""

    ended: dict[str, int]
    """Requests by outcome: stop, length, tool_calls, cancelled, refused, error. Each choice of an answer is one."""
    ttft_s: LatencyStats
    """Request received to first token."""
    inter_token_s: LatencyStats
    """One token to the next."""
    e2e_s: LatencyStats
    """Request received to last token, of those that completed."""
    prompt_tokens_per_s: float
    generated_tokens_per_s: float
    kv_prefix_hit_rate: float | None
    """Of the prompt tokens, those found in the KV cache."""


class ServedStats(_Part):
    """One model under one profile."""

    model: str
    profile: str
    waiting: int
    """Requests the engine has not begun."""
    running: int
    ended: dict[str, int]
    """Requests by outcome since the adapter's start."""
    windows: dict[WindowName, WindowStats]


class PrefixCacheStats(_Part):
    """Prompt tokens looked up in the KV cache, since the engine's start."""

    queries: float
    hits: float
    hit_rate: float | None


class SpeculationStats(_Part):
    """Tokens guessed ahead, since the engine's start."""

    drafted: float
    accepted: float
    acceptance_rate: float | None


class EngineStatsReport(_Part):
    """One engine, as Triton's metrics page tells of it."""

    model: str
    instance: str
    info: dict[str, str]
    """Its device, precision and placement, and why each was chosen."""
    running: float
    waiting: float
    kv_cache_usage: float | None
    """Share of the KV cache's blocks that requests hold."""
    preemptions: float
    stalled_s: float
    """Since the engine last got on, while it has work."""
    prefix_cache: PrefixCacheStats
    speculation: SpeculationStats
    weights_bytes: float | None


class PromptCacheStats(_Part):
    """Prompts answered from Triton's response cache on `preprocess`, since Triton's start."""

    hits: float
    misses: float
    hit_rate: float | None


class GpuStats(_Part):
    """One GPU, as Triton sees it."""

    uuid: str
    memory_used_bytes: float | None
    memory_total_bytes: float | None
    utilization: float | None
    power_w: float | None


class TargetStats(_Part):
    """A service target."""

    target: str
    value: float | None
    comparison: Literal["<=", "<", ">="]
    limit: float
    unit: Literal["seconds", "ratio", "bytes"]
    holds: bool | None
    over: Literal["60m", "since start", "now"]


class StatsReport(_Part):
    """How the service does."""

    unix_time_s: float
    uptime_s: float
    """Of the adapter."""
    targets: list[TargetStats]
    served: list[ServedStats]
    triton_error: str | None
    """Why engines, prompt_cache and gpus are null."""
    engines: list[EngineStatsReport] | None
    prompt_cache: PromptCacheStats | None
    """Null also where the cache is switched off."""
    gpus: list[GpuStats] | None
    """Empty on a machine without NVIDIA GPUs."""
