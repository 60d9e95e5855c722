"""The engine's counts on Triton's metrics page.

Owns: metric names, their help texts, and the publishing of what changed. Does not know: when it is called.
"""

from __future__ import annotations

from dataclasses import dataclass

import triton_python_backend_utils as pb_utils

from gptoss_backend.engine.engine import EngineStats


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
    MetricSpec("gptoss_engine_preemptions_total", "num_preemptions", "Times a request gave up its cache blocks", True),
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
)


class EngineMetrics:
    """Publishes EngineStats. Each change is a round trip to the server, so only changes are sent."""

    def __init__(self, model: str, instance: str) -> None:
        self._labels = {"model": model, "instance": instance}
        self._families = []  # Triton drops a metric whose family is collected
        self._metrics = []
        for spec in METRICS:
            kind = pb_utils.MetricFamily.COUNTER if spec.is_counter else pb_utils.MetricFamily.GAUGE
            family = pb_utils.MetricFamily(name=spec.name, description=spec.help, kind=kind)
            self._families.append(family)
            self._metrics.append((spec, family.Metric(labels=self._labels)))
        self._shown = EngineStats()

    def publish(self, stats: EngineStats) -> None:
        """Bring the page up to date with `stats`."""
        for spec, metric in self._metrics:
            old, new = getattr(self._shown, spec.field), getattr(stats, spec.field)
            if new == old:
                continue
            if spec.is_counter:
                metric.increment(new - old)
            else:
                metric.set(new)
        self._shown = stats
