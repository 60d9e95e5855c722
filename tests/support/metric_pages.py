"""The metrics pages of adapter and engine, with something on every metric, and what a reader may ask of them."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from types import ModuleType

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric, generate_latest
from prometheus_client.parser import text_string_to_metric_families

from gptoss_adapter.metrics import Metrics
from gptoss_adapter.stats_activity import Outcome
from gptoss_backend.contract import Timings

ENGINE_LABELS = ("model", "instance")
_BAD_UNIT = re.compile(r"_(ms|us|ns|milliseconds|microseconds|minutes|hours|kb|mb|kilobytes|megabytes|percent)(_|$)")


def adapter_page() -> str:
    """Return /metrics of an adapter in which every metric has a series."""
    metrics = Metrics()
    for outcome in Outcome:
        meter = metrics.meter("gpt-oss-demo", "balanced", metrics.activities.clock())
        meter.begun(7, 3)
        meter.tokens(1)
        meter.tokens(2)
        meter.ended(outcome, Timings(0.1, 0.2, 0.3))
    metrics.http_responses.labels("/health", "GET", "200").inc()
    metrics.mcp_calls.labels("docs", "completed").inc()
    metrics.mcp_call_time.labels("docs").observe(0.1)
    return metrics.exposition().decode()


def engine_page(module: ModuleType) -> str:
    """Return what Triton makes of the metrics that `module`, engine_metrics, declares."""
    registry = CollectorRegistry()
    labels = ("gpt_oss_demo", "gpt_oss_demo_0_0")
    for spec in module.METRICS:
        kind = Counter if spec.is_counter else Gauge
        kind(spec.name, spec.help, ENGINE_LABELS, registry=registry).labels(*labels).inc()
    Gauge(*module.WEIGHTS, ENGINE_LABELS, registry=registry).labels(*labels).set(1)
    about = (*ENGINE_LABELS, *module.INFO_LABELS)
    Gauge(*module.INFO, about, registry=registry).labels(*about).set(1)
    for spec in module.HISTOGRAMS:
        histogram = Histogram(spec.name, spec.help, ENGINE_LABELS, buckets=spec.buckets, registry=registry)
        histogram.labels(*labels).observe(1)
    return generate_latest(registry).decode()


def families(page: str) -> list[Metric]:
    """Return our own metrics of a page."""
    return [family for family in text_string_to_metric_families(page) if family.name.startswith("gptoss_")]


def full_name(family: Metric) -> str:
    """Return a metric's name as its series and queries spell it."""
    return f"{family.name}_total" if family.type == "counter" else family.name


def table(pages: Iterable[str]) -> str:
    """Return the Markdown table of all our metrics on the pages."""
    rows = ["| metric | type | labels | meaning |", "|---|---|---|---|"]
    for page in pages:
        for family in families(page):
            labels = ", ".join(f"`{label}`" for label in family.samples[0].labels if label != "le")
            rows.append(f"| `{full_name(family)}` | {family.type} | {labels} | {family.documentation.rstrip('.')} |")
    return "\n".join(rows)


def faults(page: str) -> Iterator[str]:
    """Yield where a page breaks the rules that `promtool check metrics` knows, and those on names of units."""
    types = dict(re.findall(r"^# TYPE (\S+) (\S+)$", page, re.MULTILINE))
    texts = dict(re.findall(r"^# HELP (\S+) (.+)$", page, re.MULTILINE))
    for name in {re.split(r"[{ ]", line)[0] for line in page.splitlines() if line and not line.startswith("#")}:
        family = next((n for n in (name, re.sub("_(bucket|sum|count)$", "", name)) if n in types), None)
        if family is None:
            yield f"{name}: no type"
    for name, kind in types.items():
        if name not in texts:
            yield f"{name}: no help"
        if (kind == "counter") != name.endswith("_total"):
            yield f"{name}: ends in _total if and only if it is a counter"
        if not re.fullmatch(r"[a-z][a-z0-9_]*", name) or _BAD_UNIT.search(name):
            yield f"{name}: lower case and base units"
        if re.search(r"_(counter|gauge|histogram|summary|bucket|sum|count)$", name):
            yield f"{name}: the name says its type"
