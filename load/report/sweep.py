"""The report on a sweep: what was measured at each rate, and where promises end.

Stage: after the last answer of the last step.
Owns: what a step comes to, its table and its pictures.
Does not know: which rates are tried.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from gptoss_adapter.stats_targets import E2E_P95, TTFT_P95
from load.records import Outcome
from load.report.axes import linear_axis, number
from load.report.charts import promised_limit
from load.report.files import MARKDOWN, PAGE, SUMMARY
from load.report.page import cards, page, section, table_of
from load.report.summary import seconds
from load.report.svg import Limit, Series, dot_chart
from load.report.tables import HELD, VERDICT, Table
from load.report.text import markdown_table

_MOST_BACKLOG: Final = 0.05
"""A step is too short for latencies to show a small overload; what stays behind of all that comes shows it."""


@dataclass(frozen=True, slots=True)
class SweepStep:
    """One rate."""

    rate: float
    """Messages a second."""
    model: str
    ttft_p95_s: float | None
    e2e_p95_s: float | None
    inter_token_p50_s: float | None
    tokens_per_s: float
    chats_per_s: float
    error_share: float
    backlog_growth: float
    """How much of what came stayed behind."""
    broken: tuple[str, ...]
    """Names of the targets that were not held."""

    @classmethod
    def of(cls, rate: float, summary: Mapping[str, Any]) -> SweepStep:
        """Take them from a step's summary.json."""
        everything = summary["all"]
        outcomes: dict[str, int] = everything["outcomes"]
        growth: float = summary["backlog_growth"]
        broken = [verdict["measure"] for verdict in summary["verdicts"] if verdict["held"] is False]
        return cls(
            rate=rate,
            model=summary["facts"]["model"],
            ttft_p95_s=everything["ttft"]["p95"],
            e2e_p95_s=everything["e2e"]["p95"],
            inter_token_p50_s=everything["inter_token"]["p50"],
            tokens_per_s=summary["tokens_per_s"],
            chats_per_s=summary["chats_per_s"],
            error_share=outcomes.get(Outcome.FAILED, 0) / max(1, everything["num_chats"]),
            backlog_growth=growth,
            broken=(*broken, *(["keeping up"] if growth > _MOST_BACKLOG else [])),
        )

    @property
    def holds(self) -> bool:
        """Whether every target was held, and the server kept up."""
        return not self.broken

    @property
    def sentence(self) -> str:
        """What a person waiting for the sweep reads of the step."""
        ends = "held" if self.holds else f"BROKEN: {', '.join(self.broken)}"
        return (
            f"{self.rate:6.3g}/s: TTFT p95 {_time(self.ttft_p95_s)}, end-to-end p95 {_time(self.e2e_p95_s)}, "
            f"{self.tokens_per_s:,.0f} tokens/s, errors {self.error_share:.2%}: {ends}"
        )


def write_sweep(folder: Path, steps: Sequence[SweepStep], best: SweepStep | None, host: str) -> Path:
    """Write the sweep's report into `folder`. best: the highest rate that held. Return its page."""
    folder.mkdir(parents=True, exist_ok=True)
    found = "no rate held" if best is None else f"{best.rate:.3g} messages a second still hold every target"
    table = _table(steps)
    charts = f'<div class="charts">\n{chr(10).join(sweep_charts(steps))}\n</div>'
    parts = [
        f"<h1>Load sweep: {found}</h1>",
        f"<p>{host}, {len(steps)} steps, Poisson arrivals; a step holds where every service target does "
        f"and no more than {_MOST_BACKLOG:.0%} of what comes stays behind.</p>",
        *([] if best is None else [cards(_headline(best))]),
        section("Pictures", charts),
        section("Steps", table_of(table)),
    ]
    lines = [
        "# Load sweep",
        f"{found[0].upper()}{found[1:]}. Curves: [report.html](report.html).",
        markdown_table(table),
    ]
    (folder / MARKDOWN).write_text("\n\n".join(lines) + "\n", encoding="utf-8")
    (folder / SUMMARY).write_text(json.dumps([asdict(step) for step in steps], indent=1) + "\n", encoding="utf-8")
    (folder / PAGE).write_text(page("Load sweep", parts), encoding="utf-8")
    return folder / PAGE


def sweep_charts(steps: Sequence[SweepStep]) -> list[str]:
    """Return the sweep's pictures."""
    ttft, e2e = (promised_limit(target, steps[0].model) for target in (TTFT_P95, E2E_P95))
    return [
        _curve("Time to first token, p95", "", seconds, steps, lambda step: step.ttft_p95_s, ttft),
        _curve("End-to-end latency, p95", "", seconds, steps, lambda step: step.e2e_p95_s, e2e),
        _curve("Throughput", "tokens/s", number, steps, lambda step: step.tokens_per_s),
        _curve("Inter-token time, p50", "", seconds, steps, lambda step: step.inter_token_p50_s),
    ]


def _curve(
    title: str,
    unit: str,
    tell: Callable[[float], str],
    steps: Sequence[SweepStep],
    measure: Callable[[SweepStep], float | None],
    limit: Limit | None = None,
) -> str:
    points = sorted((step.rate, value, step.holds) for step in steps if (value := measure(step)) is not None)
    held = Series("held", [(rate, value) for rate, value, holds in points if holds], "good")
    broken = Series("broken", [(rate, value) for rate, value, holds in points if not holds], "bad")
    x = linear_axis("messages a second", max((step.rate for step in steps), default=1.0), number, num_steps=6)
    y = linear_axis(unit, max((value for _, value, _ in points), default=1.0), tell)
    line = Series("measured", [(rate, value) for rate, value, _ in points], "s1")
    return dot_chart(title, x, y, [held, broken], line, limit)


def _headline(best: SweepStep) -> list[tuple[str, str]]:
    return [
        (f"{best.rate:.3g}/s", "highest rate that held"),
        (f"{best.tokens_per_s:,.0f}/s", "tokens there"),
        (_time(best.ttft_p95_s), "TTFT p95"),
        (_time(best.inter_token_p50_s), "inter-token p50"),
        (_time(best.e2e_p95_s), "end-to-end p95"),
    ]


def _table(steps: Sequence[SweepStep]) -> Table:
    header = (
        "rate",
        "TTFT p95",
        "inter-token p50",
        "end-to-end p95",
        "tokens/s",
        "errors",
        "stays behind",
        VERDICT,
        "broken",
    )
    rows = tuple(
        (
            f"{step.rate:.3g}/s",
            _time(step.ttft_p95_s),
            _time(step.inter_token_p50_s),
            _time(step.e2e_p95_s),
            f"{step.tokens_per_s:,.0f}",
            f"{step.error_share:.2%}",
            f"{step.backlog_growth:.1%}",
            HELD[step.holds],
            ", ".join(step.broken),
        )
        for step in sorted(steps, key=lambda step: step.rate)
    )
    return Table(header, rows)


def _time(value: float | None) -> str:
    return "—" if value is None else seconds(value)
