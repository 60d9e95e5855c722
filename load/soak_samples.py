"""What a server holds, looked at again and again, and whether it grows.

Stage: beside a request's way.
Owns: the figures that are sampled, what "flat" means.
Does not know: what the server is asked meanwhile.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean, linear_regression
from typing import Final

import httpx
import psutil

from gptoss_client.run_state import RunDirectory

MIB: Final = 1024 * 1024
# By requests; judged by what is left when all have gone.
_HELD: Final = ("num_requests_running", "num_requests_waiting", "kv_cache_blocks_used")
# Allocators and caches settle by so much; a leak of a kibibyte a request is more within minutes.
_FLAT_SHARE: Final = 0.02
_FLAT_BYTES: Final = 6 * MIB
_FLAT_COUNT: Final = 8


@dataclass(frozen=True, slots=True)
class Sample:
    """One look. Figures by name: `RSS …` in bytes, `fds …` and what the engine holds in counts."""

    at_s: float
    figures: dict[str, float]


@dataclass(frozen=True, slots=True)
class Trend:
    """One figure over a run."""

    name: str
    first: float
    last: float
    peak: float
    per_hour: float
    """By least squares over the second half, when caches are full."""
    growth: float
    """What the slope makes of the second half."""

    @property
    def is_flat(self) -> bool:
        """Whether it grew by no more than what settles. True of what requests hold: that goes up and down with them."""
        if self.name in _HELD:
            return True
        if self.name.startswith("RSS"):
            return self.growth <= max(_FLAT_SHARE * self.last, _FLAT_BYTES)
        return self.growth <= _FLAT_COUNT


def take_sample(run: RunDirectory, metrics_urls: Sequence[str]) -> Sample:
    """Look once. metrics_urls: of each tritonserver; what their engines hold is added up.

    Raises RuntimeError where the server has died or was restarted.
    """
    state = run.read_state()
    if state is None or state.deaths:
        raise RuntimeError(f"the server died: {[death.reason for death in state.deaths] if state else 'it is gone'}")
    figures: dict[str, float] = {}
    for name, process in _processes([(record.name, record.pid) for record in state.processes]):
        figures[f"RSS {name}"] = process.memory_info().rss
        figures[f"fds {name}"] = process.num_fds()
    pages = "".join(httpx.get(url, trust_env=False, timeout=10.0).text for url in metrics_urls)
    figures |= {name: _metric(pages, f"gptoss_engine_{name}") for name in _HELD}
    return Sample(time.monotonic(), figures)


def held(sample: Sample) -> dict[str, float]:
    """Return what the engine held for requests: nothing, where none is under way."""
    return {name: sample.figures[name] for name in _HELD}


def trends(samples: Sequence[Sample]) -> list[Trend]:
    """Return how each figure went. samples: four at least."""
    half = samples[len(samples) // 2 :]
    moments = [sample.at_s for sample in half]
    result = []
    for name in samples[0].figures:
        values = [sample.figures[name] for sample in half]
        slope = linear_regression(moments, values).slope
        peak = max(sample.figures[name] for sample in samples)
        edge = max(1, len(half) // 4)
        first = fmean(sample.figures[name] for sample in samples[:edge])
        growth = slope * (moments[-1] - moments[0])
        result.append(Trend(name, first, fmean(values[-edge:]), peak, slope * 3600, growth))
    return result


def render(found: Sequence[Trend]) -> str:
    """Return the table. RSS in MiB."""
    lines = [f"{'figure':28}{'first':>10}{'last':>10}{'peak':>10}{'per hour':>11}  verdict"]
    for trend in found:
        unit = MIB if trend.name.startswith("RSS") else 1
        numbers = "".join(f"{value / unit:10.1f}" for value in (trend.first, trend.last, trend.peak))
        verdict = "" if trend.name in _HELD else "flat" if trend.is_flat else "NOT FLAT"
        lines.append(f"{trend.name:28}{numbers}{trend.per_hour / unit:11.1f}  {verdict}".rstrip())
    return "\n".join(lines)


def _processes(leaders: Sequence[tuple[str, int]]) -> Iterator[tuple[str, psutil.Process]]:
    for name, pid in leaders:
        leader = psutil.Process(pid)
        yield name, leader
        for child in sorted(leader.children(), key=lambda child: child.pid):
            words = " ".join(child.cmdline())
            found = re.search(r"/(preprocess|gpt_oss_\w+)/1/", words)
            if found:
                yield f"{found[1]} {child.pid}", child


def _metric(page: str, name: str) -> float:
    return sum(float(value) for value in re.findall(rf"^{name}{{[^}}]*}} (\S+)$", page, re.MULTILINE))
