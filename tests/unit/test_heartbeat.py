"""What a stub's silence means, on pages as Triton writes them."""

from __future__ import annotations

import importlib
import sys
import time
from collections.abc import Iterator
from types import ModuleType, SimpleNamespace

import pytest

from gptoss_backend.heartbeat import HEARTBEAT, PERIOD_S, SILENT_AFTER_S, STALLED, stuck_parts
from support.live_server import wait_until

NOW_S = 1_795_477_950.25
STEP_TIMEOUT_S = 120.0


def page(*, silent_for_s: float = 0.0, stalled_for_s: float = 0.0, beat_s: float | None = None) -> str:
    beat_s = NOW_S - silent_for_s if beat_s is None else beat_s
    return (
        f"# HELP {HEARTBEAT} When\n# TYPE {HEARTBEAT} gauge\n"
        f'{HEARTBEAT}{{instance="gpt_oss_demo_0_0",model="gpt_oss_demo"}} {beat_s:.6f}\n'
        f'{HEARTBEAT}{{instance="preprocess_0_1",model="preprocess"}} {NOW_S:.6f}\n'
        f'{STALLED}{{model="gpt_oss_demo",instance="gpt_oss_demo_0_0"}} {stalled_for_s}\n'
    )


def test_stuck_parts_when_all_beat_then_none() -> None:
    assert stuck_parts(page(silent_for_s=SILENT_AFTER_S - 0.1), NOW_S, STEP_TIMEOUT_S) == []


def test_stuck_parts_when_one_is_silent_then_names_it_alone() -> None:
    [sentence] = stuck_parts(page(silent_for_s=7.0), NOW_S, STEP_TIMEOUT_S)
    assert sentence == "gpt_oss_demo_0_0 has given no sign of life for 7 s"


def test_stuck_parts_when_a_step_is_long_but_may_be_then_none() -> None:
    assert stuck_parts(page(stalled_for_s=STEP_TIMEOUT_S), NOW_S, STEP_TIMEOUT_S) == []


def test_stuck_parts_when_a_step_does_not_end_then_names_the_engine() -> None:
    [sentence] = stuck_parts(page(stalled_for_s=1e3), NOW_S, STEP_TIMEOUT_S)
    assert sentence == "gpt_oss_demo_0_0 has been in one step for 1000 s"


def test_stuck_parts_when_a_stub_has_ended_in_good_order_then_its_silence_means_nothing() -> None:
    assert stuck_parts(page(beat_s=0.0), NOW_S, STEP_TIMEOUT_S) == []


def test_stuck_parts_when_the_page_has_no_signs_of_life_then_none() -> None:
    assert stuck_parts('nv_inference_count{model="preprocess"} 5\n', NOW_S, STEP_TIMEOUT_S) == []


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
