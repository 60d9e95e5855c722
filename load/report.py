"""The run's figures and the verdict on the service targets.

Stage: after the last answer.
Owns: the samples of a run, the targets, the percentile, the summary's text.
Does not know: locust, HTTP, how the samples were taken.

locust's own percentiles come from rounded buckets (20.4 s and 19.6 s are both 20 s there), too coarse for a verdict:
these are taken from every sample.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any


@dataclass(frozen=True, slots=True)
class Targets:
    """What the service promises."""

    ttft_p95_s: float = 7.0
    answer_p95_s: float = 20.0
    error_share: float = 0.005
    """Fewer than this share of the chats fail."""
    cache_hit_share: float = 0.30
    """At least this share of the prompts is answered from Triton's response cache."""


@dataclass(slots=True)
class Samples:
    """Every measurement of a run, in seconds. Not for use from several threads; greenlets are fine."""

    ttft_s: list[float] = field(default_factory=list)
    answer_s: list[float] = field(default_factory=list)
    """Whole answers, request to [DONE]."""
    inter_token_s: list[float] = field(default_factory=list)
    cut_off_s: list[float] = field(default_factory=list)
    """Ages of the chats that the end of the run interrupted."""
    num_tokens: int = 0
    num_failed: int = 0
    num_left_early: int = 0
    """Chats that the user gave up on purpose."""

    @property
    def num_ended(self) -> int:
        """Chats that came to an end of their own: answered, failed or left."""
        return len(self.answer_s) + self.num_failed + self.num_left_early

    def merge(self, other: dict[str, Any]) -> None:
        """Add what `drain` returned, perhaps in another process."""
        for name, value in other.items():
            setattr(self, name, getattr(self, name) + value)

    def drain(self) -> dict[str, Any]:
        """Return everything as plain lists and numbers and start again from nothing."""
        taken = asdict(self)
        empty = Samples()
        for part in fields(self):
            setattr(self, part.name, getattr(empty, part.name))
        return taken


@dataclass(frozen=True, slots=True)
class Verdict:
    """One row of the target table. `held` is None where the measure was not asked for."""

    measure: str
    target: str
    measured: str
    held: bool | None


def percentile(samples: Sequence[float], share: float) -> float | None:
    """Return the nearest-rank percentile: the smallest sample with at least `share` of all at or below it."""
    if not samples:
        return None
    rank = math.ceil(share * len(samples))
    return sorted(samples)[max(rank, 1) - 1]


def judge(samples: Samples, targets: Targets, *, cache_hit_share: float | None, cache_asked: bool) -> list[Verdict]:
    """Hold the run against the targets.

    cache_hit_share: None where it could not be read, which breaks the target if it was asked for.
    A chat cut off by the end of the run when it was already too old counts as that old: it could only have got worse.
    """
    late = [age_s for age_s in samples.cut_off_s if age_s > targets.answer_p95_s]
    error_share = samples.num_failed / samples.num_ended if samples.num_ended else None
    hits = _share_text(cache_hit_share) if cache_asked else "not asked for"
    return [
        _at_most("TTFT p95", percentile(samples.ttft_s, 0.95), targets.ttft_p95_s),
        _at_most("whole answer p95", percentile(samples.answer_s + late, 0.95), targets.answer_p95_s),
        Verdict(
            "errors",
            f"< {targets.error_share:.2%}",
            _share_text(error_share),
            error_share is not None and error_share < targets.error_share,
        ),
        Verdict(
            "prompt cache hits",
            f">= {targets.cache_hit_share:.0%}",
            hits,
            (cache_hit_share is not None and cache_hit_share >= targets.cache_hit_share) if cache_asked else None,
        ),
    ]


def all_held(verdicts: Sequence[Verdict]) -> bool:
    """Whether no target was broken."""
    return all(verdict.held is not False for verdict in verdicts)


def render(samples: Samples, verdicts: Sequence[Verdict], *, duration_s: float) -> str:
    """Return the summary as lines of plain text."""
    words = {True: "held", False: "BROKEN", None: "-"}
    rows = [("target", "promised", "measured", "verdict")]
    rows += [(v.measure, v.target, v.measured, words[v.held]) for v in verdicts]
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    lines.insert(1, "-" * (sum(widths) + 6))
    return "\n".join([*_totals(samples, duration_s), "", *lines])


def _totals(samples: Samples, duration_s: float) -> list[str]:
    rate = samples.num_tokens / duration_s if duration_s > 0 else 0.0
    totals = [
        f"{len(samples.answer_s)} answered, {samples.num_failed} failed, {samples.num_left_early} left early "
        f"in {duration_s:.1f} s; {samples.num_tokens} tokens, {rate:.1f} tokens/s",
        _spread("TTFT", samples.ttft_s, 1.0, "s"),
        _spread("whole answer", samples.answer_s, 1.0, "s"),
        _spread("inter-token", samples.inter_token_s, 1000.0, "ms"),
    ]
    if samples.cut_off_s:
        totals.append(
            f"{len(samples.cut_off_s)} chats were cut off by the end of the run, the oldest after "
            f"{max(samples.cut_off_s):.1f} s; a longer --stop-timeout lets them end"
        )
    return totals


def _spread(name: str, samples_s: Sequence[float], scale: float, unit: str) -> str:
    if not samples_s:
        return f"{name}: no sample"
    values = {percent: percentile(samples_s, percent / 100) or 0.0 for percent in (50, 95, 99)}
    return f"{name}: " + ", ".join(f"p{percent} {value * scale:.2f} {unit}" for percent, value in values.items())


def _at_most(measure: str, measured_s: float | None, limit_s: float) -> Verdict:
    text = "no sample" if measured_s is None else f"{measured_s:.2f} s"
    return Verdict(measure, f"<= {limit_s:g} s", text, measured_s is not None and measured_s <= limit_s)


def _share_text(share: float | None) -> str:
    return "not measurable" if share is None else f"{share:.2%}"
