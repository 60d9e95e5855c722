"""Figures out of records: percentiles, and what went on at each moment of a run.

Stage: after the last answer.
Owns: the percentile, the slices of a run, what counts as under way.
Does not know: targets, pictures, how records were taken.

locust's own percentiles come from rounded buckets (20.4 s and 19.6 s are both 20 s there), too coarse for a verdict:
these are taken from every chat.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Final

from load.records import ChatRecord, Outcome

_MOST_SLICES: Final = 60
_LEAST_SLICE_S: Final = 1.0
_CHANCE_SIGMAS: Final = 2.0


@dataclass(frozen=True, slots=True)
class RunFacts:
    """The circumstances of a run, and what was measured beside the chats."""

    host: str
    model: str
    num_users: int
    rate: float | None
    """Messages a second, where they came by a rate."""
    think_s: float
    max_tokens: int
    seed: int
    started_s: float
    """Seconds since the epoch."""
    duration_s: float
    """Until users were told to stop; the chats then under way went on to their end."""
    cache_hit_share: float | None = None
    """Of the prompts, those answered from Triton's response cache; None where it is not told."""
    weights_per_gpu: float | None = None
    """Bytes; None without GPUs."""
    generator_cores: float = 0.0
    """Processor time of the load's own process, in cores."""


@dataclass(slots=True)
class Slice:
    """A part of a run. Rates and means are over its length."""

    at_s: float
    """Its middle, from the run's start."""
    length_s: float
    in_flight: float = 0.0
    """Chats under way, on average."""
    tokens_per_s: float = 0.0
    ended: Counter[str] = field(default_factory=Counter)
    """Chats that ended, by outcome."""
    ttft_s: list[float] = field(default_factory=list)
    """Of the chats that ended."""
    e2e_s: list[float] = field(default_factory=list)


def percentile(samples: Sequence[float], share: float) -> float | None:
    """Return the nearest-rank percentile: the smallest sample with at least `share` of all at or below it."""
    if not samples:
        return None
    rank = math.ceil(share * len(samples))
    return sorted(samples)[max(rank, 1) - 1]


def slices(records: Iterable[ChatRecord], facts: RunFacts) -> list[Slice]:
    """Cut the run into equal parts of a second or more, sixty at most. What ends after its duration falls into none."""
    count = min(_MOST_SLICES, max(1, int(facts.duration_s / _LEAST_SLICE_S)))
    length_s = facts.duration_s / count
    parts = [Slice((number + 0.5) * length_s, length_s) for number in range(count)]
    for record in records:
        _add(parts, record, record.began_s - facts.started_s)
    return parts


def backlog_growth(parts: Sequence[Slice], num_arrived: int) -> float:
    """Return how much of what arrived stayed behind, beyond what chance explains: 0 where the server keeps up.

    From the second quarter of the run to the last, which are half a run apart, the first being the ramp. A run has to
    be several answers long. The number under way in a queue that keeps up is Poisson's: its variance is its mean.
    """
    quarter = len(parts) // 4
    if quarter == 0 or num_arrived == 0:
        return 0.0
    early = fmean(part.in_flight for part in parts[quarter : 2 * quarter])
    late = fmean(part.in_flight for part in parts[-quarter:])
    chance = _CHANCE_SIGMAS * math.sqrt(early + late)
    return max(0.0, late - early - chance) / (num_arrived / 2)


def _add(parts: list[Slice], record: ChatRecord, began_s: float) -> None:
    length_s = parts[0].length_s
    ended_s = began_s + record.e2e_s
    for part, share_s in _overlaps(parts, began_s, ended_s):
        part.in_flight += share_s / length_s
    _spread_tokens(parts, record, began_s, ended_s)
    number = int(ended_s / length_s)
    if 0 <= number < len(parts) and record.outcome != Outcome.CUT_OFF:
        part = parts[number]
        part.ended[record.outcome] += 1
        if record.ttft_s is not None:
            part.ttft_s.append(record.ttft_s)
        if record.outcome == Outcome.ANSWERED:
            part.e2e_s.append(record.e2e_s)


def _spread_tokens(parts: list[Slice], record: ChatRecord, began_s: float, ended_s: float) -> None:
    if record.ttft_s is None:
        return
    # evenly from its first to its end; one that came at once belongs to one moment
    first_s = min(began_s + record.ttft_s, ended_s - 1e-6)
    for part, share_s in _overlaps(parts, first_s, ended_s):
        part.tokens_per_s += record.num_tokens * share_s / (ended_s - first_s) / part.length_s


def _overlaps(parts: list[Slice], from_s: float, to_s: float) -> Iterable[tuple[Slice, float]]:
    length_s = parts[0].length_s
    for number in range(max(0, int(from_s / length_s)), min(len(parts), int(to_s / length_s) + 1)):
        share_s = min(to_s, (number + 1) * length_s) - max(from_s, number * length_s)
        if share_s > 0:
            yield parts[number], share_s
