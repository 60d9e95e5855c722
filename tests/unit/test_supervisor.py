"""The supervisor with small real processes: all run, all are ended, none is left behind."""

from __future__ import annotations

import contextlib
import stat
import time
from dataclasses import replace
from pathlib import Path

import pytest

from gptoss_client import supervisor as supervisor_module
from gptoss_client.errors import CommandError, ProcessDiedError, StartupTimeoutError
from gptoss_client.process import ProcessSpec
from gptoss_client.stop_signal import StopSignal
from gptoss_client.triton_command import loaded_layers
from support.processes import DEAF, FOREVER, READY, WITH_CHILD, Diary, child_of, is_alive, python_process, supervisor


def test_run_when_a_stop_is_asked_for_then_ends_the_processes_in_reverse_order(tmp_path: Path) -> None:
    stop = StopSignal()
    diary = Diary(stop, stop_at="ready")
    specs = [python_process(tmp_path, name, READY + FOREVER) for name in ("server", "adapter")]

    supervisor(specs, diary, stop).run()

    assert diary.events[0] == "started"
    assert diary.events[-3:] == ["ready", "ending adapter", "ending server"]
    assert not any(is_alive(process.pid) for process in diary.processes)
    assert (tmp_path / "server.cleaned").exists()
    assert (tmp_path / "adapter.cleaned").exists()


@pytest.mark.parametrize("event", ["ready", "ending adapter"])
def test_run_when_who_is_told_fails_then_every_process_is_ended_all_the_same(tmp_path: Path, event: str) -> None:
    stop = StopSignal()

    class Mute(Diary):
        def _note(self, told: str) -> None:
            super()._note(told)
            if told == event:
                raise UnicodeEncodeError("latin-1", "⠙", 0, 1, "ordinal not in range")

    diary = Mute(stop, stop_at="ready")
    specs = [python_process(tmp_path, name, READY + FOREVER) for name in ("server", "adapter")]

    with contextlib.suppress(UnicodeEncodeError):
        supervisor(specs, diary, stop).run()

    assert diary.events[-2:] == ["ending adapter", "ending server"]
    assert not any(is_alive(process.pid) for process in diary.processes)


def test_run_when_one_is_ready_before_the_other_then_tells_what_is_awaited(tmp_path: Path) -> None:
    stop = StopSignal()
    diary = Diary(stop, stop_at="ready")
    slow = python_process(tmp_path, "slow", "import time; time.sleep(1.0); " + READY + FOREVER)

    supervisor([slow, python_process(tmp_path, "quick", READY + FOREVER)], diary, stop).run()

    assert "waiting for slow gets up" in diary.events


def test_run_when_a_process_exits_then_tells_its_status_and_last_words_and_ends_the_other(tmp_path: Path) -> None:
    stop = StopSignal()
    diary = Diary(stop)
    failing = python_process(tmp_path, "adapter", "print('port is gone', flush=True); raise SystemExit(3)")

    with pytest.raises(ProcessDiedError, match=r"adapter died \(exit status 3\).*\n  port is gone") as caught:
        supervisor([python_process(tmp_path, "server", READY + FOREVER), failing], diary, stop).run()

    assert caught.value.exit_status == 1
    assert diary.events[-1] == "ending server"
    assert not any(is_alive(process.pid) for process in diary.processes)


def test_run_when_a_process_is_killed_before_it_was_ready_then_names_the_signal(tmp_path: Path) -> None:
    stop = StopSignal()
    diary = Diary(stop)
    spec = python_process(tmp_path, "server", "import signal; os.kill(os.getpid(), signal.SIGKILL)")

    with pytest.raises(ProcessDiedError, match=r"server died \(killed by SIGKILL\)"):
        supervisor([spec], diary, stop).run()


def test_run_when_a_process_is_not_ready_in_time_then_says_so_and_ends_it(tmp_path: Path) -> None:
    stop = StopSignal()
    diary = Diary(stop)
    spec = python_process(tmp_path, "server", "print('still loading', flush=True); " + FOREVER)

    with pytest.raises(StartupTimeoutError, match=r"server was not ready after 1 s.*\n  still loading"):
        supervisor([spec], diary, stop, startup_timeout_s=0.6).run()

    assert not is_alive(diary.processes[0].pid)


def test_run_when_a_process_takes_long_but_gets_on_then_it_is_given_its_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(supervisor_module, "_PROGRESS_PERIOD_S", 0.1)
    stop = StopSignal()
    diary = Diary(stop, stop_at="ready")
    loads = (
        "import time\nfor layer in range(12): print(f'layer {layer} of 12 loaded', flush=True); time.sleep(0.15)\n"
        + READY.rstrip("; ")
        + "\n"
        + FOREVER
    )
    spec = python_process(tmp_path, "server", loads)
    spec = replace(spec, progress=lambda: loaded_layers(spec.log))

    supervisor([spec], diary, stop, startup_timeout_s=0.9).run()

    assert "ready" in diary.events


def test_run_when_a_stop_is_asked_for_before_all_are_ready_then_ends_them(tmp_path: Path) -> None:
    stop = StopSignal()
    diary = Diary(stop, stop_at="waiting")

    supervisor([python_process(tmp_path, "server", FOREVER)], diary, stop).run()

    assert "ready" not in diary.events
    assert not is_alive(diary.processes[0].pid)


def test_run_when_a_process_ignores_the_request_to_end_then_kills_it_after_the_timeout(tmp_path: Path) -> None:
    stop = StopSignal()
    diary = Diary(stop, stop_at="ready")
    started = time.monotonic()

    supervisor([python_process(tmp_path, "server", DEAF + READY + FOREVER)], diary, stop, shutdown_timeout_s=0.5).run()

    assert not is_alive(diary.processes[0].pid)
    assert time.monotonic() - started < 10


def test_run_when_told_to_end_at_once_then_does_not_wait_for_the_timeout(tmp_path: Path) -> None:
    stop = StopSignal()
    stop.at_once = True
    diary = Diary(stop, stop_at="ready")
    started = time.monotonic()

    supervisor([python_process(tmp_path, "server", DEAF + READY + FOREVER)], diary, stop, shutdown_timeout_s=60).run()

    assert time.monotonic() - started < 10


def test_run_when_a_process_leaves_children_behind_then_ends_them_too(tmp_path: Path) -> None:
    stop = StopSignal()
    diary = Diary(stop, stop_at="ready")

    supervisor([python_process(tmp_path, "server", WITH_CHILD + READY + FOREVER)], diary, stop).run()

    assert not is_alive(child_of(tmp_path, "server"))


def test_run_when_the_children_that_a_process_needs_have_ended_then_it_is_not_waited_for(tmp_path: Path) -> None:
    stop = StopSignal()
    diary = Diary(stop, stop_at="ready")
    short = WITH_CHILD.replace("sleep(60)", "sleep(1)")
    lingering = python_process(tmp_path, "server", DEAF + short + READY + FOREVER, needs_children=True)
    started = time.monotonic()

    supervisor([lingering], diary, stop, shutdown_timeout_s=60).run()

    assert not is_alive(diary.processes[0].pid)
    assert time.monotonic() - started < 30


def test_run_when_a_command_does_not_exist_then_says_so_and_ends_the_one_before(tmp_path: Path) -> None:
    stop = StopSignal()
    diary = Diary(stop)
    first = python_process(tmp_path, "server", READY + WITH_CHILD + FOREVER)
    missing = ProcessSpec("adapter", ("/does/not/exist",), {}, tmp_path / "adapter.log", "gets up", lambda: True)

    with pytest.raises(CommandError, match=r"cannot start adapter \(/does/not/exist\): No such file"):
        supervisor([first, missing], diary, stop).run()

    assert diary.events == ["ending server"]
    assert (tmp_path / "server.cleaned").exists()
    assert stat.S_IMODE((tmp_path / "adapter.log").stat().st_mode) == 0o600
