"""The supervisor with small real processes: what dies is started again."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from gptoss_client.backoff import Backoff
from gptoss_client.process import ProcessSpec
from gptoss_client.stop_signal import StopSignal
from support.processes import (
    DEAF,
    FOREVER,
    READY,
    WITH_CHILD,
    Diary,
    child_of,
    is_alive,
    python_process,
    supervisor,
    wait_until,
)


@contextlib.contextmanager
def running(
    specs: list[ProcessSpec], diary: Diary, *, startup_timeout_s: float = 20, shutdown_timeout_s: float = 20
) -> Iterator[None]:
    """A supervisor at work in a thread of its own, with everything ready."""
    stop = StopSignal()
    server = supervisor(specs, diary, stop, startup_timeout_s=startup_timeout_s, shutdown_timeout_s=shutdown_timeout_s)
    thread = threading.Thread(target=server.run, name="supervisor")
    thread.start()
    try:
        wait_until(lambda: "ready" in diary.events)
        yield
    finally:
        stop.request()
        thread.join()


def pid_of(diary: Diary, name: str) -> int:
    return next(record.pid for record in diary.processes if record.name == name)


@pytest.mark.parametrize(("victim", "other"), [("server", "adapter"), ("adapter", "server")])
def test_run_when_one_of_two_is_killed_then_starts_it_again_and_leaves_the_other_alone(
    tmp_path: Path, victim: str, other: str
) -> None:
    diary = Diary(StopSignal())
    with running([python_process(tmp_path, name, READY + FOREVER) for name in ("server", "adapter")], diary):
        before = {name: pid_of(diary, name) for name in (victim, other)}
        os.kill(before[victim], signal.SIGKILL)
        wait_until(lambda: "recovered" in diary.events)

        assert pid_of(diary, other) == before[other]
        assert pid_of(diary, victim) != before[victim]
        assert is_alive(pid_of(diary, victim))
        assert (tmp_path / f"{victim}.cleaned").exists()
        assert not (tmp_path / f"{other}.cleaned").exists()

    assert [(death.reason, death.count) for death in diary.deaths] == [(f"{victim} died (killed by SIGKILL)", 1)]
    assert not any(is_alive(record.pid) for record in diary.processes)


def test_run_when_the_first_of_two_dies_then_all_are_ready_again_only_when_the_second_says_so(tmp_path: Path) -> None:
    diary = Diary(StopSignal())
    healthy = threading.Event()
    healthy.set()
    adapter = python_process(tmp_path, "adapter", FOREVER, is_ready=healthy.is_set, lives_on=("server",))
    with running([python_process(tmp_path, "server", READY + FOREVER), adapter], diary):
        healthy.clear()
        os.kill(pid_of(diary, "server"), signal.SIGKILL)
        wait_until(lambda: diary.events[-1] == "waiting for adapter gets up")
        assert "recovered" not in diary.events
        healthy.set()
        wait_until(lambda: diary.events[-1] == "recovered")


def two_and_one(folder: Path) -> list[ProcessSpec]:
    """Two that live on nothing, and one that lives on both."""
    first, second = (python_process(folder, name, READY + FOREVER) for name in ("first", "second"))
    return [first, second, python_process(folder, "adapter", READY + FOREVER, lives_on=("first", "second"))]


@pytest.mark.parametrize(("victim", "other"), [("first", "second"), ("second", "first")])
def test_run_when_one_that_the_others_do_without_is_killed_then_they_are_not_awaited_again(
    tmp_path: Path, victim: str, other: str
) -> None:
    asked: list[str] = []

    def counting(spec: ProcessSpec) -> ProcessSpec:
        def is_ready() -> bool:
            asked.append(spec.name)
            return spec.is_ready()

        return replace(spec, is_ready=is_ready)

    diary = Diary(StopSignal())
    with running([counting(spec) for spec in two_and_one(tmp_path)], diary):
        (tmp_path / victim / "ready").unlink()
        asked.clear()
        os.kill(pid_of(diary, victim), signal.SIGKILL)
        wait_until(lambda: "recovered" in diary.events)

    assert other not in asked
    assert asked.count("adapter") == 1, "it says at once that it is ready as it was"
    assert {event for event in diary.events if event.endswith("died")} == {f"{victim} died"}


def test_run_when_one_dies_again_and_again_then_another_that_does_not_get_on_is_given_up_all_the_same(
    tmp_path: Path,
) -> None:
    diary = Diary(StopSignal())
    healthy = threading.Event()
    healthy.set()
    (tmp_path / "fate").touch()
    dying = f"{READY}import time\nwhile os.path.exists({str(tmp_path / 'fate')!r}): time.sleep(.05)"
    stuck = python_process(tmp_path, "stuck", FOREVER, is_ready=healthy.is_set)
    with running([python_process(tmp_path, "dying", dying), stuck], diary, startup_timeout_s=1.5):
        healthy.clear()
        (tmp_path / "fate").unlink()
        os.kill(pid_of(diary, "stuck"), signal.SIGKILL)
        wait_until(lambda: [death.name for death in diary.deaths].count("stuck") == 2)
        assert [death.name for death in diary.deaths].count("dying") > 1

    assert "stuck was not ready after 2 s" in [death.reason for death in diary.deaths if death.name == "stuck"][1]


def test_run_when_several_take_their_time_to_end_then_they_take_it_together_and_after_who_lives_on_them(
    tmp_path: Path,
) -> None:
    stop = StopSignal()
    diary = Diary(stop, stop_at="ready")
    slow = "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: (time.sleep(2), sys.exit(0))); "
    slow_ones = [python_process(tmp_path, name, slow + READY + FOREVER) for name in ("first", "second", "third")]
    adapter = python_process(tmp_path, "adapter", READY + FOREVER, lives_on=("first", "second", "third"))
    ended: dict[str, float] = {}

    def with_time(spec: ProcessSpec) -> ProcessSpec:
        return replace(spec, clean_up=lambda: ended.setdefault(spec.name, time.monotonic()))

    supervisor([with_time(spec) for spec in (*slow_ones, adapter)], diary, stop).run()

    assert diary.events[-4:] == ["ending adapter", "ending third", "ending second", "ending first"]
    assert ended["adapter"] < min(ended[name] for name in ("first", "second", "third")) - 1.5
    assert max(ended.values()) - ended["adapter"] < 4.0


def test_run_when_a_needed_child_crashes_then_the_whole_group_is_killed_and_started_again_within_two_seconds(
    tmp_path: Path,
) -> None:
    diary = Diary(StopSignal())
    deaf = python_process(tmp_path, "server", DEAF + WITH_CHILD + READY + FOREVER, needs_children=True)
    with running([deaf], diary, shutdown_timeout_s=0.5):
        before, child = pid_of(diary, "server"), child_of(tmp_path, "server")
        (tmp_path / "server" / "child").unlink()
        os.kill(child, signal.SIGKILL)
        wait_until(lambda: bool(diary.deaths), timeout_s=2)
        wait_until(lambda: not is_alive(before), timeout_s=1)
        wait_until(lambda: "recovered" in diary.events)

        assert diary.deaths[0].reason == f"server lost a process it cannot do without (pid {child})"
        assert is_alive(child_of(tmp_path, "server"))


def test_run_when_a_child_crashes_that_nobody_needs_then_goes_on(tmp_path: Path) -> None:
    diary = Diary(StopSignal())
    with running([python_process(tmp_path, "server", WITH_CHILD + READY + FOREVER)], diary):
        os.kill(child_of(tmp_path, "server"), signal.SIGKILL)
        time.sleep(2)

        assert not diary.deaths


def test_run_when_a_process_dies_again_and_again_then_each_wait_is_longer_up_to_the_longest(tmp_path: Path) -> None:
    diary = Diary(StopSignal())
    (tmp_path / "fate").touch()
    dying = f"{READY}import time\nwhile os.path.exists({str(tmp_path / 'fate')!r}): time.sleep(.05)"
    with running([python_process(tmp_path, "server", dying)], diary):
        (tmp_path / "fate").unlink()
        wait_until(lambda: len(diary.deaths) >= 5)

    assert diary.delays_s[:5] == [0.2, 0.4, 0.8, 0.8, 0.8]
    assert [death.count for death in diary.deaths[:5]] == [1, 2, 3, 4, 5]


def test_run_when_a_restarted_process_is_not_ready_in_time_then_is_killed_and_started_once_more(tmp_path: Path) -> None:
    diary = Diary(StopSignal())
    healthy = threading.Event()
    healthy.set()
    server = python_process(tmp_path, "server", FOREVER, is_ready=healthy.is_set)
    with running([server], diary, startup_timeout_s=1.5):
        healthy.clear()
        os.kill(pid_of(diary, "server"), signal.SIGKILL)
        wait_until(lambda: len(diary.deaths) == 2)
        healthy.set()
        wait_until(lambda: "recovered" in diary.events)

    assert diary.deaths[1].reason.startswith("server was not ready after 2 s")


def test_run_when_a_stop_is_asked_for_while_a_process_waits_for_its_restart_then_ends_the_other(tmp_path: Path) -> None:
    diary = Diary(StopSignal())
    with running([python_process(tmp_path, name, READY + FOREVER) for name in ("server", "adapter")], diary):
        adapter = pid_of(diary, "adapter")
        os.kill(pid_of(diary, "server"), signal.SIGKILL)
        wait_until(lambda: bool(diary.deaths))

    assert diary.events[-1] == "ending adapter"
    assert not is_alive(adapter)


def test_backoff_when_a_process_was_healthy_for_long_then_begins_anew_but_not_before() -> None:
    backoff = Backoff(forget_after_s=180)

    delays_s = [backoff.next_delay_s(healthy_s) for healthy_s in (0, 0, 179, 0, 0, 0, 0, 0, 0, 180, 0)]

    assert delays_s == [0.25, 0.5, 1, 2, 4, 8, 16, 30, 30, 0.25, 0.5]
