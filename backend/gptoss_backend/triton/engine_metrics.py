"""The engine's counts on Triton's metrics page.

Owns: metric names, their help texts and buckets, and the publishing of what changed. Does not know: when it is called.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import triton_python_backend_utils as pb_utils

from gptoss_backend.engine.engine import EngineStats
from gptoss_backend.engine.observations import Measure


@dataclass(frozen=True, slots=True)
class MetricSpec:
    """One metric: its name on the page and the count it shows."""

    name: str
    field: str
    """Of EngineStats."""
    help: str
    is_counter: bool = False


METRICS = (
    MetricSpec("gptoss_engine_requests_running", "num_running", "Requests being computed"),
    MetricSpec("gptoss_engine_requests_waiting", "num_waiting", "Requests waiting for a place in the batch"),
    MetricSpec("gptoss_engine_requests_finished_total", "num_finished", "Requests answered to their end", True),
    MetricSpec("gptoss_engine_requests_cancelled_total", "num_cancelled", "Requests whose client went away", True),
    MetricSpec("gptoss_engine_requests_failed_total", "num_failed", "Requests ended by an error of the engine", True),
    MetricSpec("gptoss_engine_requests_expired_total", "num_expired", "Requests whose time ran out", True),
    MetricSpec("gptoss_engine_preemptions_total", "num_preemptions", "Times a request gave up its cache blocks", True),
    MetricSpec("gptoss_engine_draft_tokens_total", "num_drafted_tokens", "Tokens guessed from the text before", True),
    MetricSpec("gptoss_engine_draft_tokens_accepted_total", "num_accepted_tokens", "Guesses that stood", True),
    MetricSpec("gptoss_engine_steps_total", "num_steps", "Steps computed", True),
    MetricSpec("gptoss_engine_busy_seconds_total", "busy_s", "Seconds spent in steps", True),
    MetricSpec("gptoss_engine_prompt_tokens_total", "num_prompt_tokens", "Prompt tokens computed", True),
    MetricSpec("gptoss_engine_generation_tokens_total", "num_generated_tokens", "Tokens generated", True),
    MetricSpec(
        "gptoss_engine_prefix_queries_total", "num_prefix_queries", "Prompt tokens looked up in the cache", True
    ),
    MetricSpec("gptoss_engine_prefix_hits_total", "num_prefix_hits", "Prompt tokens found in the cache", True),
    MetricSpec("gptoss_engine_cache_blocks", "num_cache_blocks", "Blocks of the KV cache"),
    MetricSpec("gptoss_engine_cache_blocks_used", "num_cache_blocks_used", "Blocks held by running requests"),
    MetricSpec(
        "gptoss_engine_stalled_seconds", "stalled_s", "Seconds since the loop got anything done, if it has work"
    ),
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
        "gptoss_engine_queue_seconds",
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
        "gptoss_engine_time_per_output_token_seconds",
        Measure.OUTPUT_TOKEN_S,
        (0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1),
        "Mean time between the tokens of a request",
    ),
)


class EngineMetrics:
    """Publishes what the engine counts and sees. Each change is a round trip to the server: only changes are sent."""

    def __init__(self, model: str, instance: str) -> None:
        labels = {"model": model, "instance": instance}
        self._metrics = [(spec, _Metric(spec.name, spec.help, _kind(spec), labels)) for spec in METRICS]
        with_buckets = hasattr(pb_utils.MetricFamily, "HISTOGRAM")
        self._histograms = {
            spec.measure: _Histogram(spec, labels) if with_buckets else _SumAndCount(spec, labels)
            for spec in HISTOGRAMS
        }
        self._shown = EngineStats()

    def publish(self, stats: EngineStats, observations: Iterable[tuple[Measure, float]]) -> None:
        """Bring the page up to date with `stats`, and add `observations` to the histograms."""
        for measure, value in observations:
            self._histograms[measure].observe(value)
        for spec, metric in self._metrics:
            old, new = getattr(self._shown, spec.field), getattr(stats, spec.field)
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


class _SumAndCount:
    """What is left of a histogram where the stub knows none, which is before Triton 24.09: enough for a mean."""

    def __init__(self, spec: HistogramSpec, labels: dict[str, str]) -> None:
        kind = pb_utils.MetricFamily.COUNTER
        self._sum = _Metric(f"{spec.name}_sum", spec.help, kind, labels)
        self._count = _Metric(f"{spec.name}_count", spec.help, kind, labels)

    def observe(self, value: float) -> None:
        self._sum.shown.increment(value)
        self._count.shown.increment(1)


def _kind(spec: MetricSpec) -> Any:  # noqa: ANN401 (an enum of Triton's)
    return pb_utils.MetricFamily.COUNTER if spec.is_counter else pb_utils.MetricFamily.GAUGE
