"""The report's pictures.

Stage: after the last answer.
Owns: what is plotted against what.
Does not know: how a chart is drawn (svg), the page around it.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import pairwise
from statistics import median
from typing import Final

from gptoss_adapter.stats_targets import E2E_P95, TTFT_P95, Target
from load.records import ChatRecord, Outcome
from load.report.axes import linear_axis, log_axis, number, time_axis
from load.report.figures import RunFacts, Slice, percentile, slices
from load.report.summary import seconds
from load.report.svg import Limit, Series, dot_chart, histogram, line_chart, stacked_bars

_NUM_BARS: Final = 36
_NUM_LEVELS: Final = 8
_LIMIT_IN_SIGHT: Final = 3.0
"""A limit so many times above what was measured is named rather than drawn: it would press the lines flat."""
_PERCENTILES: Final = ((0.50, "s1"), (0.95, "s2"), (0.99, "s3"))
_OUTCOMES: Final = ((Outcome.ANSWERED, "s1"), (Outcome.LEFT, "s4"), (Outcome.FAILED, "bad"))


def run_charts(records: Sequence[ChatRecord], facts: RunFacts) -> list[str]:
    """Return a run's pictures, each a figure of HTML."""
    parts = slices(records, facts)
    ttft_limit, e2e_limit = (promised_limit(target, facts.model) for target in (TTFT_P95, E2E_P95))
    ttft = [record.ttft_s for record in records if record.ttft_s is not None]
    inter_token = [record.inter_token_s for record in records if record.inter_token_s is not None]
    return [
        _over_time("Time to first token", parts, facts, lambda part: part.ttft_s, ttft_limit),
        _over_time("End-to-end latency", parts, facts, lambda part: part.e2e_s, e2e_limit),
        _distribution("Distribution of time to first token", ttft, ttft_limit),
        _distribution("Distribution of inter-token time (a chat's mean)", inter_token),
        _throughput_by_concurrency(parts),
        _rate_over_time("Chats under way", "chats", parts, facts, lambda part: part.in_flight),
        _rate_over_time("Tokens", "tokens/s", parts, facts, lambda part: part.tokens_per_s),
        _ended(parts, facts),
    ]


def promised_limit(target: Target, model: str) -> Limit | None:
    """Return a target's limit as it is drawn; None where it is not promised of the model."""
    return Limit(f"target p95 {seconds(target.limit)}", target.limit) if target.is_promised_of(model) else None


def _over_time(
    title: str, parts: Sequence[Slice], facts: RunFacts, measure: Callable[[Slice], list[float]], limit: Limit | None
) -> str:
    lines = [
        Series(
            f"p{share * 100:.0f}",
            [(part.at_s, value) for part in parts if (value := percentile(measure(part), share)) is not None],
            colour,
        )
        for share, colour in _PERCENTILES
    ]
    highest = max((value for line in lines for _, value in line.points), default=0.0)
    shown = max(highest, limit.value) if limit and highest * _LIMIT_IN_SIGHT >= limit.value else highest
    return line_chart(title, time_axis(facts.duration_s), linear_axis("", shown, seconds), lines, limit)


def _distribution(title: str, samples: Sequence[float], limit: Limit | None = None) -> str:
    positive = sorted(max(value, 1e-6) for value in samples) or [1e-3]
    x = log_axis("", positive[0], positive[-1], seconds)
    edges = [x.low * (x.high / x.low) ** (step / _NUM_BARS) for step in range(_NUM_BARS + 1)]
    counts = [0] * _NUM_BARS
    for value in positive if samples else ():
        counts[min(_NUM_BARS - 1, int(_NUM_BARS * x.share(value)))] += 1
    bars = [(left, right, float(count)) for (left, right), count in zip(pairwise(edges), counts, strict=True)]
    return histogram(title, x, linear_axis("chats", max(counts), number), bars, limit)


def _throughput_by_concurrency(parts: Sequence[Slice]) -> str:
    points = [(part.in_flight, part.tokens_per_s) for part in parts]
    highest_x, highest_y = (max(point[axis] for point in points) for axis in (0, 1))
    return dot_chart(
        "Throughput against concurrency",
        linear_axis("chats under way", highest_x, number, num_steps=6),
        linear_axis("tokens/s", highest_y, number),
        [Series(f"each {parts[0].length_s:.3g} s of the run", points, "s1")],
        Series("median", _medians(points, highest_x), "s2"),
    )


def _medians(points: Sequence[tuple[float, float]], highest: float) -> list[tuple[float, float]]:
    """Return the median of each level of x that has points."""
    levels: dict[int, list[tuple[float, float]]] = {}
    for point in points:
        level = min(_NUM_LEVELS - 1, int(_NUM_LEVELS * point[0] / highest)) if highest > 0 else 0
        levels.setdefault(level, []).append(point)
    return [(median(x for x, _ in inside), median(y for _, y in inside)) for _, inside in sorted(levels.items())]


def _rate_over_time(
    title: str, unit: str, parts: Sequence[Slice], facts: RunFacts, measure: Callable[[Slice], float]
) -> str:
    points = [(part.at_s, measure(part)) for part in parts]
    y = linear_axis(unit, max(value for _, value in points), number)
    return line_chart(title, time_axis(facts.duration_s), y, [Series(unit, points, "s1")])


def _ended(parts: Sequence[Slice], facts: RunFacts) -> str:
    layers = [
        Series(outcome.value, [(part.at_s, part.ended[outcome] / part.length_s) for part in parts], colour)
        for outcome, colour in _OUTCOMES
    ]
    highest = max(part.ended.total() / part.length_s for part in parts)
    y = linear_axis("a second", math.ceil(highest), number)
    return stacked_bars("Chats ended, and failures", time_axis(facts.duration_s), y, layers, parts[0].length_s)
