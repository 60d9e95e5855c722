"""How the service does, put together for GET /stats.

Owns: which figure goes where, and the targets' values.
Does not know: how figures are gathered (stats_activity.py, stats_triton.py).
"""

from __future__ import annotations

from typing import Literal

from gptoss_adapter.schemas.stats import (
    EngineStatsReport,
    GpuStats,
    LatencyStats,
    PrefixCacheStats,
    PromptCacheStats,
    ServedStats,
    SpeculationStats,
    StatsReport,
    TargetStats,
    WindowStats,
)
from gptoss_adapter.stats_activity import Activities, Activity, Outcome
from gptoss_adapter.stats_targets import CACHE_HIT_RATE, WEIGHTS_PER_GPU, Target, measured_here
from gptoss_adapter.stats_triton import EngineInstance, Series, TritonFigures
from gptoss_adapter.stats_windows import WINDOWS, Spread, Window


def stats_report(
    activities: Activities, triton: TritonFigures | str, unix_time_s: float, uptime_s: float
) -> StatsReport:
    """Return the report. triton: a sentence where Triton's page could not be had."""
    figures = None if isinstance(triton, str) else triton
    return StatsReport(
        unix_time_s=round(unix_time_s, 3),
        uptime_s=round(uptime_s, 1),
        targets=_targets(activities, figures),
        served=[_served(activity) for activity in activities.all()],
        triton_error=triton if isinstance(triton, str) else None,
        engines=[_engine(one) for one in figures.engines] if figures else None,
        prompt_cache=_prompt_cache(figures) if figures else None,
        gpus=[_gpu(uuid, values) for uuid, values in figures.gpus.items()] if figures else None,
    )


# --- targets --------------------------------------------------------------------------------------------------------


def _targets(activities: Activities, figures: TritonFigures | None) -> list[TargetStats]:
    cache = _prompt_cache(figures) if figures else None
    told = [
        *(_target(target, value, "60m") for target, value in measured_here(activities).items()),
        _target(CACHE_HIT_RATE, cache.hit_rate if cache else None, "since start"),
    ]
    if any(WEIGHTS_PER_GPU.is_promised_of(activity.model) for activity in activities.all()):
        told.append(_target(WEIGHTS_PER_GPU, _weights_per_gpu(figures) if figures else None, "now"))
    return told


def _target(target: Target, value: float | None, over: Literal["60m", "since start", "now"]) -> TargetStats:
    return TargetStats(
        target=target.name,
        value=_rounded(value),
        comparison=target.comparison,
        limit=target.limit,
        unit=target.unit,
        holds=None if value is None else target.holds(value),
        over=over,
    )


def _weights_per_gpu(figures: TritonFigures) -> float | None:
    """Return the weights of the largest engine that is to keep to it: each has a GPU to itself.

    None without GPUs, or where none tells.
    """
    promised = [one for one in figures.engines if WEIGHTS_PER_GPU.is_promised_of(one.model)]
    told = [one.values["weights_bytes"] for one in promised if "weights_bytes" in one.values]
    return max(told) if told and figures.gpus else None


# --- the adapter's own ----------------------------------------------------------------------------------------------


def _served(activity: Activity) -> ServedStats:
    return ServedStats(
        model=activity.model,
        profile=activity.profile,
        waiting=activity.num_waiting,
        running=activity.num_running,
        ended={outcome: activity.ended_ever[outcome] for outcome in Outcome},
        windows={window.name: _window(activity, window) for window in WINDOWS},
    )


def _window(activity: Activity, window: Window) -> WindowStats:
    return WindowStats(
        ended={outcome.value: count for outcome, count in activity.ended(window).items()},
        ttft_s=_latency(activity.time_to_first_token(window)),
        inter_token_s=_latency(activity.inter_token(window)),
        e2e_s=_latency(activity.e2e(window)),
        prompt_tokens_per_s=round(activity.prompt_tokens_per_s(window), 2),
        generated_tokens_per_s=round(activity.generated_tokens_per_s(window), 2),
        kv_prefix_hit_rate=_rounded(activity.prefix_hit_rate(window)),
    )


def _latency(spread: Spread) -> LatencyStats:
    p50, p95, p99 = (_rounded(spread.quantile(share)) for share in (0.5, 0.95, 0.99))
    return LatencyStats(count=spread.count, p50=p50, p95=p95, p99=p99)


# --- Triton's -------------------------------------------------------------------------------------------------------


def _engine(engine: EngineInstance) -> EngineStatsReport:
    def value(name: str) -> float:
        return engine.values.get(name, 0.0)  # a counter appears when it first counts

    queries, hits = value("prefix_cache_queries_total"), value("prefix_cache_hits_total")
    drafted, accepted = value("spec_decode_num_draft_tokens_total"), value("spec_decode_num_accepted_tokens_total")
    return EngineStatsReport(
        model=engine.model,
        instance=engine.instance,
        info=engine.info,
        running=value("num_requests_running"),
        waiting=value("num_requests_waiting"),
        kv_cache_usage=_rounded(engine.values.get("kv_cache_usage_perc")),
        preemptions=value("num_preemptions_total"),
        stalled_s=value("stalled_seconds"),
        prefix_cache=PrefixCacheStats(queries=queries, hits=hits, hit_rate=_share(hits, queries)),
        speculation=SpeculationStats(drafted=drafted, accepted=accepted, acceptance_rate=_share(accepted, drafted)),
        weights_bytes=engine.values.get("weights_bytes"),
    )


def _prompt_cache(figures: TritonFigures) -> PromptCacheStats | None:
    hits, misses = figures.cache_hits, figures.cache_misses
    if hits is None or misses is None:
        return None
    return PromptCacheStats(hits=hits, misses=misses, hit_rate=_share(hits, hits + misses))


def _gpu(uuid: str, values: Series) -> GpuStats:
    return GpuStats(
        uuid=uuid,
        memory_used_bytes=values.get("memory_used_bytes"),
        memory_total_bytes=values.get("memory_total_bytes"),
        utilization=values.get("utilization"),
        power_w=values.get("power_usage"),
    )


def _share(part: float, whole: float) -> float | None:
    return _rounded(part / whole) if whole else None


def _rounded(value: float | None) -> float | None:
    """Return four significant digits: quantiles are right to two."""
    return None if value is None else float(f"{value:.4g}")
