"""What Prometheus reads at /metrics.

Stage: all of a request's way, seen from the adapter.
Owns: metric names, buckets, labels; that /metrics and /stats count the same. A name is vLLM's, `gptoss_` in place of
`vllm:`, where the meaning is the same.
Does not know: the engine's inside; Triton's metrics endpoint tells that, `gptoss_engine_` before the same names.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
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
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from gptoss_adapter.stats_activity import COMPLETED, Activities, Activity, Outcome
from gptoss_adapter.stats_targets import measured_here
from gptoss_backend.contract import Timings

# 7 s and 20 s are the service targets: a bucket ends at each, so that the share within the target is exact
TTFT_BUCKETS: Final = (0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 0.75, 1, 2, 3, 5, 7, 10, 20, 40, 80)
INTER_TOKEN_BUCKETS: Final = (0.001, 0.002, 0.003, 0.005, 0.0075, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1, 2.5)
E2E_BUCKETS: Final = (0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 7.5, 10, 15, 20, 30, 40, 60, 120, 300)
PHASE_BUCKETS: Final = (0.005, 0.02, 0.05, 0.1, 0.3, 0.5, 0.8, 1, 1.5, 2, 2.5, 5, 10, 15, 20, 30, 40, 60, 120, 300)
TOKENS_BUCKETS: Final = (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000, 2000, 5000, 10000, 20000, 50000, 131072)
_LABELS: Final = ("model", "profile")


class Metrics:
    """The process's metrics, in a registry of their own, and what /stats tells of the same events."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        """clock: seconds that never go back; that of a request's `started_at`."""
        # series of start times, which promtool takes for misnamed counters
        disable_created_metrics()  # type: ignore[no-untyped-call]
        self.activities = Activities(clock)
        self._registry = CollectorRegistry()
        self._questions: list[Callable[[], Awaitable[None]]] = []
        ProcessCollector(registry=self._registry)
        self._registry.register(_TargetsCollector(self.activities))
        self.http_responses = self._counter(
            "gptoss_http_responses_total", "HTTP responses begun.", ("route", "method", "status")
        )
        self._declare_requests()
        self._declare_tokens()
        self._declare_latencies()
        self._declare_mcp()

    def register(self, collector: Collector, ask: Callable[[], Awaitable[None]] | None = None) -> None:
        """Show on the page what `collector` yields. ask: what finds that out, before each page."""
        self._registry.register(collector)
        if ask is not None:
            self._questions.append(ask)

    def expect(self, model: str, profiles: Iterable[str]) -> None:
        """Show what may come to be counted, as 0: a counter born at 60 has no rate, and the first failures no alert."""
        for profile in profiles:
            for outcome in Outcome:
                self.requests.labels(model, profile, outcome)
            for reason in COMPLETED:
                self.successes.labels(model, profile, reason)

    def expect_mcp_calls(self, server: str, outcomes: Iterable[str]) -> None:
        """Show what may come to be counted of an MCP server's calls, as 0."""
        for outcome in outcomes:
            self.mcp_calls.labels(server, outcome)

    async def page(self) -> bytes:
        """Return the exposition, with what has to be asked for."""
        await asyncio.gather(*(ask() for ask in self._questions))
        return self.exposition()

    def exposition(self) -> bytes:
        """Return all metrics in Prometheus' text format, as far as they are known here."""
        return generate_latest(self._registry)

    def meter(self, model: str, profile: str, started_at: float) -> GenerationMeter:
        """Return the meter of one generation. started_at: perf_counter seconds, when its request was received."""
        return GenerationMeter(self, self.activities.of(model, profile), started_at)

    def _declare_requests(self) -> None:
        self.requests = self._counter(
            "gptoss_requests_total", "Generations that ended, by outcome.", (*_LABELS, "outcome")
        )
        self.successes = self._counter(
            "gptoss_request_success_total", "Generations that completed, by reason.", (*_LABELS, "finished_reason")
        )
        self.waiting = self._gauge("gptoss_num_requests_waiting", "Generations the engine has not begun.")
        self.running = self._gauge("gptoss_num_requests_running", "Generations the engine is computing.")

    def _declare_tokens(self) -> None:
        self.prompt_tokens = self._counter("gptoss_prompt_tokens_total", "Prompt tokens of generations begun.")
        self.cached_tokens = self._counter(
            "gptoss_prompt_tokens_cached_total", "Of the prompt tokens, those found in the KV cache."
        )
        self.generation_tokens = self._counter("gptoss_generation_tokens_total", "Tokens generated.")
        self.request_prompt_tokens = self._histogram(
            "gptoss_request_prompt_tokens", "Prompt tokens of a generation begun.", TOKENS_BUCKETS
        )
        self.request_generation_tokens = self._histogram(
            "gptoss_request_generation_tokens", "Tokens generated, of generations that completed.", TOKENS_BUCKETS
        )

    def _declare_latencies(self) -> None:
        self.time_to_first_token = self._histogram(
            "gptoss_time_to_first_token_seconds", "Request received to first token.", TTFT_BUCKETS
        )
        self.inter_token_latency = self._histogram(
            "gptoss_inter_token_latency_seconds",
            "Time from one token to the next; tokens that arrive together share the time since the one before.",
            INTER_TOKEN_BUCKETS,
        )
        self.e2e_latency = self._histogram(
            "gptoss_e2e_request_latency_seconds",
            "Request received to last token, for generations that completed.",
            E2E_BUCKETS,
        )
        self.queue_time = self._histogram(
            "gptoss_request_queue_time_seconds", "Submission to the first step that computes a prompt.", PHASE_BUCKETS
        )
        self.prefill_time = self._histogram(
            "gptoss_request_prefill_time_seconds", "First step that computes a prompt to first token.", PHASE_BUCKETS
        )
        self.decode_time = self._histogram(
            "gptoss_request_decode_time_seconds", "First token to last token.", PHASE_BUCKETS
        )

    def _declare_mcp(self) -> None:
        self.mcp_calls = self._counter(
            "gptoss_mcp_calls_total", "Calls of MCP servers' tools, by outcome.", ("server", "outcome")
        )
        self.mcp_call_time = self._histogram(
            "gptoss_mcp_call_seconds", "Time that a call of an MCP server's tool took.", PHASE_BUCKETS, ("server",)
        )

    def _counter(self, name: str, text: str, labels: Sequence[str] = _LABELS) -> Counter:
        return Counter(name, text, labels, registry=self._registry)

    def _gauge(self, name: str, text: str) -> Gauge:
        return Gauge(name, text, _LABELS, registry=self._registry)

    def _histogram(self, name: str, text: str, buckets: Sequence[float], labels: Sequence[str] = _LABELS) -> Histogram:
        return Histogram(name, text, labels, buckets=buckets, registry=self._registry)


class _TargetsCollector(Collector):
    """Looks at the service targets when the page is read."""

    def __init__(self, activities: Activities) -> None:
        self._activities = activities

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Yield a series for each target that something was measured for."""
        text = "Whether a service target held over the last hour: 1 yes, 0 no; absent where nothing was measured."
        family = GaugeMetricFamily("gptoss_slo_ok", text, labels=("target",))
        for target, value in measured_here(self._activities).items():
            if value is not None:
                family.add_metric((target.name,), float(target.holds(value)))
        yield family


class GenerationMeter:
    """Measures one generation: waiting → begun → tokens … → ended."""

    def __init__(self, metrics: Metrics, activity: Activity, started_at: float) -> None:
        self._metrics = metrics
        self._activity = activity
        self._clock = metrics.activities.clock
        self._labels = (activity.model, activity.profile)
        self._inter_token = metrics.inter_token_latency.labels(*self._labels)
        self._generated = metrics.generation_tokens.labels(*self._labels)
        self._started_at = started_at
        self._last_token_at: float | None = None
        self._is_running = False
        metrics.waiting.labels(*self._labels).inc()
        activity.num_waiting += 1
        self.num_tokens = 0
        self.first_token_s: float | None = None
        """Request received to first token, once there is one."""

    def begun(self, prompt_tokens: int, cached_tokens: int) -> None:
        """The engine has taken the generation from its queue."""
        metrics, labels = self._metrics, self._labels
        self._leave()
        self._is_running = True
        metrics.running.labels(*labels).inc()
        self._activity.num_running += 1
        metrics.prompt_tokens.labels(*labels).inc(prompt_tokens)
        metrics.cached_tokens.labels(*labels).inc(cached_tokens)
        metrics.request_prompt_tokens.labels(*labels).observe(prompt_tokens)
        self._activity.note_prompt(prompt_tokens, cached_tokens)

    def went_on(self, prompt_tokens: int, cached_tokens: int) -> None:
        """The engine has taken it up again, with more behind its prompt."""
        self._metrics.prompt_tokens.labels(*self._labels).inc(prompt_tokens)
        self._metrics.cached_tokens.labels(*self._labels).inc(cached_tokens)
        self._activity.note_prompt(prompt_tokens, cached_tokens)

    def tokens(self, count: int) -> None:
        """`count` tokens, at least one, have arrived together."""
        now = self._clock()
        self.num_tokens += count
        self._generated.inc(count)
        if self._last_token_at is None:
            self.first_token_s = now - self._started_at
            self._metrics.time_to_first_token.labels(*self._labels).observe(self.first_token_s)
            self._activity.note_first_token(self.first_token_s, count)
        else:
            gap_s = (now - self._last_token_at) / count
            for _ in range(count):
                self._inter_token.observe(gap_s)
            self._activity.note_tokens(gap_s, count)
        self._last_token_at = now

    def ended(self, outcome: Outcome, timings: Timings | None = None) -> None:
        """The generation is over. Call once. timings: the engine's, where it was the engine that ended it."""
        seconds = self._clock() - self._started_at
        self._leave()
        self._activity.note_end(outcome, seconds)
        self._metrics.requests.labels(*self._labels, outcome).inc()
        if outcome in COMPLETED:
            self._metrics.successes.labels(*self._labels, outcome).inc()
            self._metrics.e2e_latency.labels(*self._labels).observe(seconds)
            self._metrics.request_generation_tokens.labels(*self._labels).observe(self.num_tokens)
        if timings is not None:
            self._observe_phases(timings)

    def _leave(self) -> None:
        """Stop counting it as waiting, or as running."""
        gauge = self._metrics.running if self._is_running else self._metrics.waiting
        gauge.labels(*self._labels).dec()
        if self._is_running:
            self._activity.num_running -= 1
        else:
            self._activity.num_waiting -= 1

    def _observe_phases(self, timings: Timings) -> None:
        metrics, labels = self._metrics, self._labels
        metrics.queue_time.labels(*labels).observe(timings.queue_s)
        metrics.prefill_time.labels(*labels).observe(timings.first_token_s - timings.queue_s)
        metrics.decode_time.labels(*labels).observe(timings.total_s - timings.first_token_s)
