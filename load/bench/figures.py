"""What was measured, its medians, and the table of them.

Stage: after a round.
Owns: the meaning of each figure, the medians over rounds, the ratios, the tables' text.
Does not know: how figures are taken.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from statistics import median
from typing import Final

OURS: Final = "ours"
ENGINE: Final = "engine"
"""Our engine alone, without Triton and HTTP: no peer, but what the whole stack is held against."""


@dataclass(frozen=True, slots=True)
class Reply:
    """One answered request. Times are seconds since just before its connection was opened."""

    first_token_s: float
    last_token_s: float
    num_tokens: int

    @property
    def inter_token_s(self) -> float:
        """Mean time of a token after the first."""
        return (self.last_token_s - self.first_token_s) / max(1, self.num_tokens - 1)


@dataclass(frozen=True, slots=True)
class RoundFigures:
    """One server's round at one concurrency."""

    server: str
    concurrency: int
    tokens_per_s: float
    """New tokens of all requests over the time from the first request to the last token."""
    ttft_s: float
    """Median over the round's requests."""
    inter_token_s: float
    """Median over the round's requests."""
    others_share: float = 0.0
    """Share of the machine's CPU time that processes of others took meanwhile."""

    @classmethod
    def of(
        cls, server: str, concurrency: int, replies: Sequence[Reply], wall_s: float, others_share: float = 0.0
    ) -> RoundFigures:
        """Take the figures of a round from its replies."""
        return cls(
            server,
            concurrency,
            tokens_per_s=sum(reply.num_tokens for reply in replies) / wall_s,
            ttft_s=median(reply.first_token_s for reply in replies),
            inter_token_s=median(reply.inter_token_s for reply in replies),
            others_share=others_share,
        )


@dataclass(frozen=True, slots=True)
class Summary:
    """One server at one concurrency: medians over its rounds, and how far apart its rounds lie."""

    server: str
    concurrency: int
    num_rounds: int
    tokens_per_s: float
    least_tokens_per_s: float
    most_tokens_per_s: float
    ttft_s: float
    inter_token_s: float
    others_share: float


def summarize(rounds: Iterable[RoundFigures]) -> list[Summary]:
    """Return one summary for each concurrency and server, in the order of their first rounds."""
    groups: dict[tuple[int, str], list[RoundFigures]] = {}
    for figures in rounds:
        groups.setdefault((figures.concurrency, figures.server), []).append(figures)
    summaries = []
    for (concurrency, server), group in groups.items():
        rates = [figures.tokens_per_s for figures in group]
        summaries.append(
            Summary(
                server,
                concurrency,
                num_rounds=len(group),
                tokens_per_s=median(rates),
                least_tokens_per_s=min(rates),
                most_tokens_per_s=max(rates),
                ttft_s=median(figures.ttft_s for figures in group),
                inter_token_s=median(figures.inter_token_s for figures in group),
                others_share=median(figures.others_share for figures in group),
            )
        )
    return summaries


def best_peer(summaries: Sequence[Summary], concurrency: int) -> Summary | None:
    """Return the peer with the most tokens/s at a concurrency; None where none ran."""
    peers = [s for s in summaries if s.concurrency == concurrency and s.server not in (OURS, ENGINE)]
    return max(peers, key=lambda s: s.tokens_per_s, default=None)


def server_table(summaries: Sequence[Summary]) -> str:
    """Return a Markdown table with one row for each concurrency and server."""
    rows = [("streams", "server", "tokens/s", "least to most", "TTFT ms", "inter-token ms", "CPU of others")]
    for s in sorted(summaries, key=lambda s: s.concurrency):
        rows.append(
            (
                str(s.concurrency),
                s.server,
                f"{s.tokens_per_s:,.0f}",
                f"{s.least_tokens_per_s:,.0f} to {s.most_tokens_per_s:,.0f}",
                f"{s.ttft_s * 1000:,.1f}",
                f"{s.inter_token_s * 1000:,.2f}",
                f"{s.others_share:.0%}",
            )
        )
    return markdown(rows)


def ratio_table(summaries: Sequence[Summary]) -> str:
    """Return a Markdown table of ours against the best peer and against the bare engine, one row a concurrency."""
    rows = [("streams", "best peer", "tokens/s, ours ÷ it", "TTFT, ours ÷ it", "TTFT, ours ÷ the quickest", "÷ engine")]
    by_key = {(s.server, s.concurrency): s for s in summaries}
    for concurrency in sorted({s.concurrency for s in summaries}):
        ours = by_key.get((OURS, concurrency))
        if ours is None:
            continue
        peer, engine = best_peer(summaries, concurrency), by_key.get((ENGINE, concurrency))
        peers = [s for s in summaries if s.concurrency == concurrency and s.server not in (OURS, ENGINE)]
        quickest = min((s.ttft_s for s in peers), default=None)
        rows.append(
            (
                str(concurrency),
                peer.server if peer else "-",
                _ratio(ours.tokens_per_s, peer.tokens_per_s if peer else None),
                _ratio(ours.ttft_s, peer.ttft_s if peer else None),
                _ratio(ours.ttft_s, quickest),
                _ratio(ours.tokens_per_s, engine.tokens_per_s if engine else None),
            )
        )
    return markdown(rows) if len(rows) > 1 else ""


def markdown(rows: Sequence[Sequence[str]]) -> str:
    """Return rows, the first of them the heading, as a Markdown table whose columns line up as plain text too."""
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["| " + " | ".join(c.ljust(w) for c, w in zip(row, widths, strict=True)) + " |" for row in rows]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return "\n".join(lines)


def _ratio(ours: float, other: float | None) -> str:
    return f"{ours / other:.2f}" if other else "-"
