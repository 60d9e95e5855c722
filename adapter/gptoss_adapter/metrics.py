"""What Prometheus reads at /metrics.

Stage: all of a request's way, seen from the adapter.
Owns: metric names, buckets, labels. A name is vLLM's, after `gptoss_`, where the meaning is the same.
Does not know: the engine's inside; Triton's metrics endpoint tells that.
"""

from __future__ import annotations

import time
from enum import StrEnum
from typing import Final

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
    generate_latest,
)

# 7 s and 20 s are the service targets: a bucket ends at each, so that the share within the target is exact
TTFT_BUCKETS: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 0.75, 1, 2, 3, 5, 7, 10, 20, 40, 80)
INTER_TOKEN_BUCKETS: Final = (0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1, 2.5)
E2E_BUCKETS: Final = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 7.5, 10, 15, 20, 30, 40, 60, 120, 300)
_LABELS: Final = ("model", "profile")


class Outcome(StrEnum):
    """How a generation ended."""

    STOP = "stop"
    LENGTH = "length"
    TOOL_CALLS = "tool_calls"
    CANCELLED = "cancelled"
    """The client went away."""
    REFUSED = "refused"
    """The request was at fault, or the queue was full."""
    ERROR = "error"


class Metrics:
    """The process's metrics, in a registry of their own."""

    def __init__(self) -> None:
        # series of start times, which promtool takes for misnamed counters
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self._registry = registry = CollectorRegistry()
        ProcessCollector(registry=registry)
        self.http_responses = Counter(
            "gptoss_http_responses_total", "HTTP responses begun.", ("route", "method", "status"), registry=registry
        )
        self.requests = Counter(
            "gptoss_requests_total", "Generations that ended, by outcome.", (*_LABELS, "outcome"), registry=registry
        )
        self.waiting = Gauge(
            "gptoss_num_requests_waiting", "Generations the engine has not begun.", _LABELS, registry=registry
        )
        self.running = Gauge(
            "gptoss_num_requests_running", "Generations the engine is computing.", _LABELS, registry=registry
        )
        self.prompt_tokens = Counter(
            "gptoss_prompt_tokens_total", "Prompt tokens of generations begun.", _LABELS, registry=registry
        )
        self.cached_tokens = Counter(
            "gptoss_prompt_tokens_cached_total",
            "Of the prompt tokens, those found in the KV cache.",
            _LABELS,
            registry=registry,
        )
        self.generation_tokens = Counter(
            "gptoss_generation_tokens_total", "Tokens generated.", _LABELS, registry=registry
        )
        self.time_to_first_token = Histogram(
            "gptoss_time_to_first_token_seconds",
            "Request received to first token.",
            _LABELS,
            buckets=TTFT_BUCKETS,
            registry=registry,
        )
        self.inter_token_latency = Histogram(
            "gptoss_inter_token_latency_seconds",
            "Time from one token to the next; tokens that arrive together share the time since the one before.",
            _LABELS,
            buckets=INTER_TOKEN_BUCKETS,
            registry=registry,
        )
        self.e2e_latency = Histogram(
            "gptoss_e2e_request_latency_seconds",
            "Request received to last token, for generations that completed.",
            _LABELS,
            buckets=E2E_BUCKETS,
            registry=registry,
        )

    def exposition(self) -> bytes:
        """Return all metrics in Prometheus' text format."""
        return generate_latest(self._registry)

    def meter(self, model: str, profile: str, started_at: float) -> GenerationMeter:
        """Return the meter of one generation. started_at: perf_counter seconds, when its request was received."""
        return GenerationMeter(self, model, profile, started_at)


class GenerationMeter:
    """Measures one generation: waiting → begun → tokens … → ended."""

    def __init__(self, metrics: Metrics, model: str, profile: str, started_at: float) -> None:
        self._metrics = metrics
        self._labels = (model, profile)
        self._inter_token = metrics.inter_token_latency.labels(*self._labels)
        self._generated = metrics.generation_tokens.labels(*self._labels)
        self._started_at = started_at
        self._last_token_at: float | None = None
        self._in_flight = metrics.waiting.labels(*self._labels)
        self._in_flight.inc()
        self.num_tokens = 0
        self.first_token_s: float | None = None
        """Request received to first token, once there is one."""

    def begun(self, prompt_tokens: int, cached_tokens: int) -> None:
        """The engine has taken the generation from its queue."""
        self._in_flight.dec()
        self._in_flight = self._metrics.running.labels(*self._labels)
        self._in_flight.inc()
        self._metrics.prompt_tokens.labels(*self._labels).inc(prompt_tokens)
        self._metrics.cached_tokens.labels(*self._labels).inc(cached_tokens)

    def tokens(self, count: int) -> None:
        """`count` tokens, at least one, have arrived together."""
        now = time.perf_counter()
        self.num_tokens += count
        self._generated.inc(count)
        if self._last_token_at is None:
            self.first_token_s = now - self._started_at
            self._metrics.time_to_first_token.labels(*self._labels).observe(self.first_token_s)
        else:
            gap_s = (now - self._last_token_at) / count
            for _ in range(count):
                self._inter_token.observe(gap_s)
        self._last_token_at = now

    def ended(self, outcome: Outcome) -> None:
        """The generation is over. Call once."""
        self._in_flight.dec()
        self._metrics.requests.labels(*self._labels, outcome).inc()
        if outcome in (Outcome.STOP, Outcome.LENGTH, Outcome.TOOL_CALLS):
            self._metrics.e2e_latency.labels(*self._labels).observe(time.perf_counter() - self._started_at)
