"""The engine's counts on Triton's metrics page.

Owns: metric names, their help texts and buckets, and the publishing of what changed. Does not know: when it is called.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, fields
from typing import Any

import triton_python_backend_utils as pb_utils

from gptoss_backend.engine.model import ModelInfo
from gptoss_backend.engine.observations import EngineStats, Measure
from gptoss_backend.heartbeat import STALLED


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """One metric: its name on the page and the count it shows."""

    name: str
    value: Callable[[EngineStats], float]
    help: str
    is_counter: bool = False


def _cache_usage(stats: EngineStats) -> float:
    return stats.num_cache_blocks_used / stats.num_cache_blocks if stats.num_cache_blocks else 0.0


# a name is vLLM's, after `gptoss_engine_`, where the meaning is the same
METRICS = (
    MetricSpec("gptoss_engine_num_requests_running", lambda s: s.num_running, "Requests being computed"),
    MetricSpec("gptoss_engine_num_requests_waiting", lambda s: s.num_waiting, "Requests waiting for a place"),
    MetricSpec("gptoss_engine_requests_finished_total", lambda s: s.num_finished, "Requests answered to the end", True),
    MetricSpec("gptoss_engine_requests_cancelled_total", lambda s: s.num_cancelled, "Requests whose client left", True),
    MetricSpec("gptoss_engine_requests_failed_total", lambda s: s.num_failed, "Requests ended by an error", True),
    MetricSpec("gptoss_engine_requests_expired_total", lambda s: s.num_expired, "Requests whose time ran out", True),
    MetricSpec(
        "gptoss_engine_num_preemptions_total", lambda s: s.num_preemptions, "Times a request gave up its blocks", True
    ),
    MetricSpec(
        "gptoss_engine_spec_decode_num_draft_tokens_total", lambda s: s.num_drafted_tokens, "Tokens guessed ahead", True
    ),
    MetricSpec(
        "gptoss_engine_spec_decode_num_accepted_tokens_total",
        lambda s: s.num_accepted_tokens,
        "Guesses that stood",
        True,
    ),
    MetricSpec("gptoss_engine_steps_total", lambda s: s.num_steps, "Steps computed", True),
    MetricSpec("gptoss_engine_busy_seconds_total", lambda s: s.busy_s, "Seconds spent in steps", True),
    MetricSpec("gptoss_engine_prompt_tokens_total", lambda s: s.num_prompt_tokens, "Prompt tokens computed", True),
    MetricSpec("gptoss_engine_generation_tokens_total", lambda s: s.num_generated_tokens, "Tokens generated", True),
    MetricSpec(
        "gptoss_engine_prefix_cache_queries_total",
        lambda s: s.num_prefix_queries,
        "Prompt tokens looked up in the KV cache",
        True,
    ),
    MetricSpec(
        "gptoss_engine_prefix_cache_hits_total",
        lambda s: s.num_prefix_hits,
        "Prompt tokens found in the KV cache",
        True,
    ),
    MetricSpec("gptoss_engine_max_model_len", lambda s: s.max_model_len, "Longest prompt plus answer, in tokens"),
    MetricSpec("gptoss_engine_kv_cache_blocks", lambda s: s.num_cache_blocks, "Blocks of the KV cache"),
    MetricSpec("gptoss_engine_kv_cache_blocks_used", lambda s: s.num_cache_blocks_used, "Blocks held by requests"),
    MetricSpec("gptoss_engine_kv_cache_usage_perc", _cache_usage, "Share of the blocks held by requests, from 0 to 1"),
    MetricSpec(STALLED, lambda s: s.stalled_s, "Seconds since the loop got on, while it has work"),
)


@dataclass(frozen=True, slots=True)
class HistogramSpec:
    """One histogram: its name on the page and the values it shows."""

    name: str
    measure: Measure
    buckets: tuple[float, ...]
    help: str


HISTOGRAMS = (
    HistogramSpec(
        "gptoss_engine_batch_size",
        Measure.BATCH_SIZE,
        (1, 2, 4, 8, 16, 32, 64, 128, 256),
        "Requests in a step, looked at ten times a second",
    ),
    HistogramSpec(
        "gptoss_engine_request_prompt_tokens",
        Measure.PROMPT_TOKENS,
        (32, 128, 512, 2048, 8192, 32768, 131072),
        "Prompt tokens of a request",
    ),
    HistogramSpec(
        "gptoss_engine_request_queue_time_seconds",
        Measure.QUEUE_S,
        (0.001, 0.005, 0.02, 0.1, 0.5, 1, 2, 5, 10, 30, 60),
        "Submission of a request to the first step that computes it",
    ),
    HistogramSpec(
        "gptoss_engine_time_to_first_token_seconds",
        Measure.FIRST_TOKEN_S,
        (0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60),
        "Submission of a request to its first token",
    ),
    HistogramSpec(
        "gptoss_engine_request_time_per_output_token_seconds",
        Measure.OUTPUT_TOKEN_S,
        (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1),
        "Mean time between the tokens of a request",
    ),
)


WEIGHTS = ("gptoss_engine_weights_bytes", "Bytes of weights on the device that holds the most")
INFO = ("gptoss_engine_info", "What computes, where and in which precision, in its labels; always 1")
INFO_LABELS = tuple(field.name for field in fields(ModelInfo) if field.name != "weight_bytes")


class EngineMetrics:
    """Publishes what the engine counts and sees. Each change is a round trip to the server: only changes are sent."""

    def __init__(self, model: str, instance: str, info: ModelInfo | None) -> None:
        labels = {"model": model, "instance": instance}
        if info is not None:
            about = {name: str(getattr(info, name)) for name in INFO_LABELS}
            self._info = _Metric(*INFO, pb_utils.MetricFamily.GAUGE, labels | about)
            self._info.shown.set(1)
            self._weights = _Metric(*WEIGHTS, pb_utils.MetricFamily.GAUGE, labels)
            self._weights.shown.set(info.weight_bytes)
        self._metrics = [(spec, _Metric(spec.name, spec.help, _kind(spec), labels)) for spec in METRICS]
        self._histograms = {spec.measure: _Histogram(spec, labels) for spec in HISTOGRAMS}
        self._shown = EngineStats()

    def publish(self, stats: EngineStats, observations: Iterable[tuple[Measure, float]]) -> None:
        """Bring the page up to date with `stats`, and add `observations` to the histograms."""
        for measure, value in observations:
            self._histograms[measure].observe(value)
        for spec, metric in self._metrics:
            old, new = spec.value(self._shown), spec.value(stats)
            if new == old:
                continue
            if spec.is_counter:
                metric.shown.increment(new - old)
            else:
                metric.shown.set(new)
        self._shown = stats


class _Metric:
    """One series on the page. Holds its family, too: Triton drops a metric whose family is collected."""

    def __init__(self, name: str, text: str, kind: Any, labels: dict[str, str], **options: Any) -> None:  # noqa: ANN401
        self._family = pb_utils.MetricFamily(name=name, description=text, kind=kind)
        self.shown = self._family.Metric(labels=labels, **options)


class _Histogram:
    """Values in buckets."""

    def __init__(self, spec: HistogramSpec, labels: dict[str, str]) -> None:
        kind = pb_utils.MetricFamily.HISTOGRAM
        self._metric = _Metric(spec.name, spec.help, kind, labels, buckets=list(spec.buckets))

    def observe(self, value: float) -> None:
        self._metric.shown.observe(value)


def _kind(spec: MetricSpec) -> Any:  # noqa: ANN401 (an enum of Triton's)
    return pb_utils.MetricFamily.COUNTER if spec.is_counter else pb_utils.MetricFamily.GAUGE
