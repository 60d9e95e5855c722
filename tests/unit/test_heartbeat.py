"""What a stub's silence means, on pages as Triton writes them."""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace

import pytest

from gptoss_backend.heartbeat import HEARTBEAT, PERIOD_S, SILENT_AFTER_S, STALLED, Heartbeats
from support.live_server import wait_until

NOW_S = 1_795_477_950.25
STEP_TIMEOUT_S = 120.0


class Reader:
    """Looks at pages, by a clock that the test moves."""

    def __init__(self) -> None:
        self.now_s = 1e5
        self._heartbeats = Heartbeats(lambda: self.now_s)

    def look(self, *pages: str, after_s: float = 0.0) -> list[list[str]]:
        self.now_s += after_s
        named = {f"10.0.0.{number}:8001": one for number, one in enumerate(pages)}
        return list(self._heartbeats.stuck_parts(named, STEP_TIMEOUT_S).values())


def page(*, beat_s: float = NOW_S, other_beat_s: float = NOW_S, stalled_for_s: float = 0.0) -> str:
    return (
        f"# HELP {HEARTBEAT} When\n# TYPE {HEARTBEAT} gauge\n"
        f'{HEARTBEAT}{{instance="gpt_oss_demo_0_0",model="gpt_oss_demo"}} {beat_s:.6f}\n'
        f'{HEARTBEAT}{{instance="preprocess_0_1",model="preprocess"}} {other_beat_s:.6f}\n'
        f'{STALLED}{{model="gpt_oss_demo",instance="gpt_oss_demo_0_0"}} {stalled_for_s}\n'
    )


@pytest.mark.parametrize("clock_is_off_by_s", [0.0, 3600.0, -3600.0])
def test_heartbeats_when_all_beat_then_none_is_stuck_however_wrong_their_clock_is(clock_is_off_by_s: float) -> None:
    reader = Reader()
    for second in range(0, 60, 5):
        now_s = NOW_S + clock_is_off_by_s + second
        assert reader.look(page(beat_s=now_s, other_beat_s=now_s), after_s=5.0) == [[]]


def test_heartbeats_when_one_says_the_same_for_too_long_then_names_it_alone() -> None:
    reader = Reader()
    assert reader.look(page()) == [[]], "one look tells of no silence"
    assert reader.look(page(other_beat_s=NOW_S + 2), after_s=SILENT_AFTER_S - 0.1) == [[]]
    assert reader.look(page(other_beat_s=NOW_S + 7), after_s=4.1) == [
        ["gpt_oss_demo_0_0 has given no sign of life for 7 s"]
    ]
    assert reader.look(page(beat_s=NOW_S + 8, other_beat_s=NOW_S + 8), after_s=1.0) == [[]], "it beats again"


def test_heartbeats_when_replicas_have_instances_of_one_name_then_each_is_judged_by_itself() -> None:
    reader = Reader()
    reader.look(page(), page(beat_s=NOW_S - 1))
    beating = page(beat_s=NOW_S + 5, other_beat_s=NOW_S + 5)
    silent, lively = reader.look(page(), beating, after_s=5.0)
    assert [sentence.split()[0] for sentence in silent] == ["gpt_oss_demo_0_0", "preprocess_0_1"]
    assert lively == []


def test_heartbeats_when_a_page_could_not_be_had_for_a_while_then_its_silence_begins_anew() -> None:
    reader = Reader()
    for pages in ([page()], [], [page()]):
        assert not any(reader.look(*pages, after_s=10.0))


def test_heartbeats_when_a_step_is_long_but_may_be_then_none_is_stuck() -> None:
    assert Reader().look(page(stalled_for_s=STEP_TIMEOUT_S)) == [[]]


def test_heartbeats_when_a_step_does_not_end_then_names_the_engine() -> None:
    assert Reader().look(page(stalled_for_s=1e3)) == [["gpt_oss_demo_0_0 has been in one step for 1000 s"]]


def test_heartbeats_when_a_stub_has_ended_in_good_order_then_its_silence_means_nothing() -> None:
    reader = Reader()
    for second in range(3):
        assert reader.look(page(beat_s=0.0, other_beat_s=NOW_S + second), after_s=10.0) == [[]]


def test_heartbeats_when_the_page_has_no_signs_of_life_then_none_is_stuck() -> None:
    assert Reader().look('nv_inference_count{model="preprocess"} 5\n') == [[]]


@pytest.fixture
def beats(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[float]]:
    """What the gauge was set to."""
    values: list[float] = []

    class MetricFamily:
        GAUGE = "gauge"

        def __init__(self, **about: str) -> None:
            assert about["name"] == HEARTBEAT

        def Metric(self, labels: dict[str, str]) -> SimpleNamespace:  # noqa: N802 (Triton's)
            assert set(labels) == {"model", "instance"}
            return SimpleNamespace(set=values.append)

    library = ModuleType("triton_python_backend_utils")
    library.MetricFamily = MetricFamily  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, library.__name__, library)
    yield values
    sys.modules.pop("gptoss_backend.triton.heartbeat", None)


def test_beat_when_called_over_and_over_then_says_the_time_once_a_period(beats: list[float]) -> None:
    heartbeat = importlib.import_module("gptoss_backend.triton.heartbeat").Heartbeat("m", "m_0")
    until = time.monotonic() + 2.5 * PERIOD_S
    while time.monotonic() < until:
        heartbeat.beat()
        time.sleep(0.01)
    assert len(beats) in (2, 3)
    assert time.time() - beats[-1] < 2 * PERIOD_S


def test_thread_when_closed_then_it_has_beaten_and_says_goodbye(beats: list[float]) -> None:
    module = importlib.import_module("gptoss_backend.triton.heartbeat")
    thread = module.HeartbeatThread(module.Heartbeat("m", "m_0"))
    wait_until(lambda: len(beats) >= 2)
    thread.close()
    assert beats[-1] == 0.0
    assert all(beats[:-1])
