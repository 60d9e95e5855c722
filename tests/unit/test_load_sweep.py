"""The search for the highest rate that holds, on servers whose limit is known."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from load.report.sweep import SweepStep, write_sweep
from load.sweep import highest_held, next_rate, sweep


def step(rate: float, *, holds: bool) -> SweepStep:
    return SweepStep(rate, "gpt-oss-demo", 0.1, 1.0, 0.01, 64 * rate, rate, 0.0, 0.0, () if holds else ("TTFT p95",))


def summary(*, growth: float = 0.0, held: bool | None = True) -> dict[str, Any]:
    return {
        "facts": {"model": "gpt-oss-demo"},
        "all": {
            "num_chats": 200,
            "outcomes": {"answered": 190, "failed": 10},
            "ttft": {"p95": 0.1},
            "e2e": {"p95": None},
            "inter_token": {"p50": 0.01},
        },
        "verdicts": [{"measure": "errors", "held": held}, {"measure": "weights per GPU", "held": None}],
        "backlog_growth": growth,
        "tokens_per_s": 640.0,
        "chats_per_s": 10.0,
    }


class Server:
    """Holds every rate up to its limit. A step takes its length."""

    def __init__(self, limit: float, step_s: float = 20.0) -> None:
        self.limit = limit
        self.now_s = 0.0
        self._step_s = step_s

    def take(self, rate: float, number: int) -> SweepStep:
        self.now_s += self._step_s
        return step(rate, holds=rate <= self.limit)

    def clock(self) -> float:
        return self.now_s


@pytest.mark.parametrize("limit", [0.4, 1.0, 7.3, 150.0])
def test_sweep_when_there_is_a_limit_then_what_it_finds_is_within_a_tenth_below(limit: float) -> None:
    server = Server(limit)
    steps = sweep(server.take, first=1.0, step_s=20.0, budget_s=10_000.0, now=server.clock)
    best = highest_held(steps)

    assert best is not None
    assert limit / 1.1 <= best.rate <= limit
    assert len(steps) <= 14


def test_sweep_when_the_time_is_up_then_it_begins_no_further_step() -> None:
    server = Server(limit=1e9)
    steps = sweep(server.take, first=1.0, step_s=20.0, budget_s=100.0, now=server.clock)

    # two steps leave 60 s; a fourth would have begun at 60 and ended, drained, at 90
    assert len(steps) == 4
    assert server.now_s <= 100.0


def test_sweep_when_the_server_has_no_limit_then_it_ends_at_the_highest_rate() -> None:
    server = Server(limit=1e9)
    steps = sweep(server.take, first=1.0, step_s=20.0, budget_s=1e6, now=server.clock)

    assert [step.rate for step in steps][-2:] == [512.0, 1000.0]


def test_sweep_when_nothing_holds_then_it_gives_up_and_says_so() -> None:
    server = Server(limit=0.0)
    steps = sweep(server.take, first=1.0, step_s=20.0, budget_s=1e6, now=server.clock)

    assert highest_held(steps) is None
    assert steps[-1].rate < 0.2


def test_rates_when_one_held_above_one_that_did_not_then_it_was_luck() -> None:
    steps = [step(4.0, holds=True), step(8.0, holds=False), step(16.0, holds=True)]

    assert highest_held(steps) == steps[0]
    assert 4.0 < (next_rate(steps) or 0.0) < 8.0


@pytest.mark.parametrize(
    ("read", "broken"),
    [
        (summary(), ()),
        (summary(held=None), ()),
        (summary(held=False), ("errors",)),
        (summary(growth=0.2), ("keeping up",)),
        (summary(growth=0.2, held=False), ("errors", "keeping up")),
    ],
)
def test_step_when_read_from_a_run_then_it_holds_where_targets_do_and_nothing_stays_behind(
    read: dict[str, Any], broken: tuple[str, ...]
) -> None:
    found = SweepStep.of(8.0, read)

    assert found.broken == broken
    assert found.holds is not bool(broken)
    assert found.error_share == 0.05
    assert ("held" if not broken else "BROKEN: ") in found.sentence


def test_report_when_written_then_it_names_the_highest_rate_and_every_step(tmp_path: Path) -> None:
    steps = [step(4.0, holds=True), step(8.0, holds=False)]
    page = write_sweep(tmp_path, steps, steps[0], "http://here").read_text(encoding="utf-8")

    assert "<h1>Load sweep: 4 messages a second still hold every target</h1>" in page
    assert page.count("<figure>") == 4
    assert [row["rate"] for row in json.loads((tmp_path / "summary.json").read_text(encoding="utf-8"))] == [4.0, 8.0]
    assert (tmp_path / "report.md").read_text(encoding="utf-8").count("BROKEN") == 1
