"""A run in figures, and the verdict on the service targets.

Stage: after the last answer.
Owns: what is summed up, how a target is judged.
Does not know: the targets' values (gptoss_adapter.stats_targets has them for /stats, too), how anything is shown.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

from gptoss_adapter.stats_targets import (
    CACHE_HIT_RATE,
    E2E_P95,
    ERROR_RATE,
    INTER_TOKEN_P95,
    TTFT_P95,
    WEIGHTS_PER_GPU,
    Target,
)
from load.records import ChatRecord, Outcome
from load.report.figures import RunFacts, backlog_growth, percentile, slices

_MOST_FAULTS: Final = 10


@dataclass(frozen=True, slots=True)
class Verdict:
    """One row of the target table. `held` is None where there was nothing to measure."""

    measure: str
    target: str
    measured: str
    held: bool | None


@dataclass(frozen=True, slots=True)
class Spread:
    """A measure's distribution, in seconds. None where there was no sample."""

    p50: float | None
    p95: float | None
    p99: float | None

    @classmethod
    def of(cls, samples: Sequence[float]) -> Spread:
        """Take the percentiles."""
        return cls(*(percentile(samples, share) for share in (0.50, 0.95, 0.99)))


@dataclass(frozen=True, slots=True)
class KindSummary:
    """What one kind of users met with."""

    kind: str
    num_chats: int
    outcomes: dict[str, int]
    """Chats by how they ended."""
    ttft: Spread
    e2e: Spread
    inter_token: Spread
    num_tokens: int


@dataclass(frozen=True, slots=True)
class Summary:
    """A run."""

    facts: RunFacts
    verdicts: tuple[Verdict, ...]
    all: KindSummary
    kinds: tuple[KindSummary, ...]
    tokens_per_s: float
    """Over the run's duration."""
    chats_per_s: float
    """That were due."""
    peak_in_flight: float
    backlog_growth: float
    oldest_cut_off_s: float | None
    faults: tuple[tuple[str, int], ...]
    """The commonest, with how often each came."""

    @property
    def all_held(self) -> bool:
        """Whether no target was broken."""
        return all(verdict.held is not False for verdict in self.verdicts)


def summarize(records: Sequence[ChatRecord], facts: RunFacts) -> Summary:
    """Sum a run up."""
    parts = slices(records, facts)
    kinds = sorted({record.kind for record in records})
    faults = Counter(f"{record.kind}: {record.fault}" for record in records if record.fault)
    return Summary(
        facts=facts,
        verdicts=tuple(judge(records, facts)),
        all=_kind("all", records),
        kinds=tuple(_kind(kind, [record for record in records if record.kind == kind]) for kind in kinds),
        tokens_per_s=sum(part.tokens_per_s * part.length_s for part in parts) / facts.duration_s,
        chats_per_s=len(records) / facts.duration_s,
        peak_in_flight=max(part.in_flight for part in parts),
        backlog_growth=backlog_growth(parts, len(records)),
        oldest_cut_off_s=max((r.e2e_s for r in records if r.outcome == Outcome.CUT_OFF), default=None),
        faults=tuple(faults.most_common(_MOST_FAULTS)),
    )


def judge(records: Sequence[ChatRecord], facts: RunFacts) -> list[Verdict]:
    """Hold the run against the targets that are promised of its model.

    A chat cut off by the end of the run when it was already too old counts as that old: it could only have got worse.
    """
    outcomes = Counter(record.outcome for record in records)
    num_ended = outcomes.total() - outcomes[Outcome.CUT_OFF]
    whole = [record.e2e_s for record in records if record.outcome == Outcome.ANSWERED]
    late = [r.e2e_s for r in records if r.outcome == Outcome.CUT_OFF and not E2E_P95.holds(r.e2e_s)]
    unborn = [r.e2e_s for r in records if r.outcome == Outcome.CUT_OFF and r.ttft_s is None]
    ttft = [record.ttft_s for record in records if record.ttft_s is not None]
    ttft += [age_s for age_s in unborn if not TTFT_P95.holds(age_s)]
    gaps = [record.inter_token_s for record in records if record.inter_token_s is not None]
    error_rate = outcomes[Outcome.FAILED] / num_ended if num_ended else None
    verdicts = {
        TTFT_P95: _must("TTFT p95", TTFT_P95, percentile(ttft, 0.95), seconds),
        E2E_P95: _must("end-to-end p95", E2E_P95, percentile(whole + late, 0.95), seconds),
        INTER_TOKEN_P95: _must("inter-token p95 of chats", INTER_TOKEN_P95, percentile(gaps, 0.95), seconds),
        ERROR_RATE: _must("errors", ERROR_RATE, error_rate, _percent),
        CACHE_HIT_RATE: _where_told(
            "prompt cache hits", CACHE_HIT_RATE, facts.cache_hit_share, _percent, "not told by the server"
        ),
        WEIGHTS_PER_GPU: _where_told("weights per GPU", WEIGHTS_PER_GPU, facts.weights_per_gpu, _gigabytes, "no GPU"),
    }
    return [verdict for target, verdict in verdicts.items() if target.is_promised_of(facts.model)]


def seconds(value: float) -> str:
    """Return a time for people, three digits."""
    if value == 0:
        return "0"
    return f"{value * 1000:.3g} ms" if value < 0.9995 else f"{value:.3g} s"


def _must(measure: str, target: Target, value: float | None, tell: Callable[[float], str]) -> Verdict:
    verdict = _where_told(measure, target, value, tell, "nothing was measured")
    return verdict if value is not None else Verdict(measure, verdict.target, verdict.measured, held=False)


def _where_told(
    measure: str, target: Target, value: float | None, tell: Callable[[float], str], otherwise: str
) -> Verdict:
    comparison = {"<=": "≤", ">=": "≥"}.get(target.comparison, target.comparison)
    promised = f"{comparison} {tell(target.limit)}"
    return Verdict(
        measure,
        promised,
        otherwise if value is None else tell(value),
        None if value is None else target.holds(value),
    )


def _kind(name: str, records: Sequence[ChatRecord]) -> KindSummary:
    return KindSummary(
        kind=name,
        num_chats=len(records),
        outcomes=dict(Counter(record.outcome for record in records)),
        ttft=Spread.of([record.ttft_s for record in records if record.ttft_s is not None]),
        e2e=Spread.of([record.e2e_s for record in records if record.outcome == Outcome.ANSWERED]),
        inter_token=Spread.of([record.inter_token_s for record in records if record.inter_token_s is not None]),
        num_tokens=sum(record.num_tokens for record in records),
    )


def _percent(value: float) -> str:
    return f"{value * 100:.3g}%"


def _gigabytes(value: float) -> str:
    return f"{value / 1e9:.3g} GB"
