"""The report's tables and sentences, as plain cells.

Stage: after the last answer.
Owns: which figures are told, in which words. Markdown, HTML and the console all show these.
Does not know: how a table is drawn.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final

from load.records import Outcome
from load.report.summary import Spread, Summary, seconds

VERDICT: Final = "verdict"
"""A column that holds one of HELD."""
HELD: Final = {True: "held", False: "BROKEN", None: "—"}


@dataclass(frozen=True, slots=True)
class Table:
    """Cells by row, under a header."""

    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def target_table(summary: Summary) -> Table:
    """The service targets and the verdict on each."""
    rows = tuple((v.measure, v.target, v.measured, HELD[v.held]) for v in summary.verdicts)
    return Table(("target", "promised", "measured", VERDICT), rows)


def latency_table(summary: Summary) -> Table:
    """Percentiles by kind of user."""
    measures = [f"{name} p{share}" for name in ("TTFT", "inter-token", "end-to-end") for share in (50, 95, 99)]
    kinds = (*summary.kinds, summary.all) if len(summary.kinds) > 1 else summary.kinds
    return Table(
        ("users", "chats", *measures),
        tuple(
            (kind.kind, f"{kind.num_chats:,}", *_cells(kind.ttft), *_cells(kind.inter_token), *_cells(kind.e2e))
            for kind in kinds
        ),
    )


def fault_table(summary: Summary) -> Table:
    """The commonest failures."""
    return Table(("times", "failure"), tuple((f"{count:,}", fault) for fault, count in summary.faults))


def headline(summary: Summary) -> list[tuple[str, str]]:
    """The figures to see first, with what they are."""
    return [
        (f"{summary.chats_per_s:.3g}/s", "chats"),
        (f"{summary.tokens_per_s:,.0f}/s", "tokens"),
        (f"{summary.peak_in_flight:.0f}", "under way at most"),
        (_time(summary.all.ttft.p95), "TTFT p95"),
        (_time(summary.all.inter_token.p50), "inter-token p50"),
        (_time(summary.all.e2e.p95), "end-to-end p95"),
    ]


def outcome_sentence(summary: Summary) -> str:
    """How the chats ended."""
    counts = summary.all.outcomes
    told = ", ".join(f"{counts[outcome]:,} {outcome}" for outcome in Outcome if outcome in counts)
    oldest = summary.oldest_cut_off_s
    more = "" if oldest is None else f"; the oldest that the end cut off was {seconds(oldest)} old"
    return f"{told or 'no chat'} in {summary.facts.duration_s:.0f} s{more}"


def circumstances(summary: Summary) -> list[tuple[str, str]]:
    """Of what the figures are."""
    facts = summary.facts
    arrivals = (
        f"{facts.num_users} users, each thinking {facts.think_s:g} s on average (exponential)"
        if facts.rate is None
        else f"{facts.rate:g} messages a second (Poisson), answered by up to {facts.num_users} users at once"
    )
    return [
        ("server", facts.host),
        ("model", facts.model),
        ("load", arrivals),
        ("answers", f"up to {facts.max_tokens} tokens, streamed"),
        ("began", f"{datetime.fromtimestamp(facts.started_s, UTC):%Y-%m-%d %H:%M:%S} UTC, seed {facts.seed}"),
        ("the load's own process", f"{facts.generator_cores:.2f} of a core"),
    ]


def _cells(spread: Spread) -> tuple[str, str, str]:
    return _time(spread.p50), _time(spread.p95), _time(spread.p99)


def _time(value: float | None) -> str:
    return "—" if value is None else seconds(value)
