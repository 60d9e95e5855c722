"""The supervisor with small real processes: what hangs is started again."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from gptoss_client import hang_watch
from gptoss_client.process import ProcessSpec
from gptoss_client.stop_signal import StopSignal
from support.processes import FOREVER, READY, Diary, is_alive, python_process, supervisor


@pytest.fixture
def watched_closely(monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes are asked five times a second whether they get on."""
    monkeypatch.setattr(hang_watch, "_PERIOD_S", 0.2)


def hanging_while(folder: Path, name: str, trouble: Callable[[], str | None]) -> ProcessSpec:
    return replace(python_process(folder, name, READY + FOREVER), hang=trouble)


@pytest.mark.usefixtures("watched_closely")
def test_run_when_one_hangs_for_too_long_then_only_that_is_killed_and_started_again(tmp_path: Path) -> None:
    stop = StopSignal()
    diary = Diary(stop, stop_at="recovered")
    asked: list[None] = []

    def trouble() -> str | None:
        asked.append(None)
        return "it stares" if len(asked) < 4 else None

    specs = [hanging_while(tmp_path, "server", trouble), python_process(tmp_path, "adapter", READY + FOREVER)]
    supervisor(specs, diary, stop, hang_timeout_s=0.3).run()

    assert [(death.name, death.reason) for death in diary.deaths] == [("server", "server hangs: it stares")]
    assert not any(is_alive(process.pid) for process in diary.processes)


@pytest.mark.usefixtures("watched_closely")
def test_run_when_one_gets_on_again_in_time_then_it_is_left_alone(tmp_path: Path) -> None:
    stop = StopSignal()
    diary = Diary(stop)
    answers = [None, "it stares", "it stares", None, "it stares", None]

    def trouble() -> str | None:
        if not answers:
            stop.request()
            return None
        return answers.pop(0)

    supervisor([hanging_while(tmp_path, "server", trouble)], diary, stop, hang_timeout_s=0.8).run()

    assert diary.deaths == []


@pytest.mark.usefixtures("watched_closely")
def test_run_when_hangs_are_not_to_be_looked_for_then_nobody_is_asked(tmp_path: Path) -> None:
    stop = StopSignal()
    diary = Diary(stop)
    asked: list[None] = []
    spec = hanging_while(tmp_path, "server", lambda: asked.append(None))
    threading.Timer(1.5, stop.request).start()

    supervisor([spec], diary, stop).run()

    assert "ready" in diary.events
    assert asked == []
