"""The supervisor with small real processes: all run, what dies is started again, none is left behind."""

from __future__ import annotations

import contextlib
import os
import signal
import stat
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psutil
import pytest

from gptoss_client import hang_watch
from gptoss_client import supervisor as supervisor_module
from gptoss_client.backoff import Backoff
from gptoss_client.errors import CommandError, ProcessDiedError, StartupTimeoutError
from gptoss_client.process import ProcessSpec
from gptoss_client.process_group import ProcessRecord, kill_group
from gptoss_client.stop_signal import StopSignal
from gptoss_client.supervisor import Supervisor
from gptoss_client.triton_command import loaded_layers
from support.processes import FOREVER, READY, Diary, python_process, wait_until

DEAF = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
WITH_CHILD = (
    "import subprocess, sys; child = subprocess.Popen([sys.executable, '-S', '-c', 'import time; time.sleep(60)']); "
    "open('child', 'w').write(str(child.pid)); "
)


def supervisor(
    specs: list[ProcessSpec],
    diary: Diary,
    stop: StopSignal,
    *,
    startup_timeout_s: float = 20,
    shutdown_timeout_s: float = 20,
    hang_timeout_s: float = 0,
) -> Supervisor:
    return Supervisor(
        specs,
        diary,
        stop,
        startup_timeout_s=startup_timeout_s,
        shutdown_timeout_s=shutdown_timeout_s,
        hang_timeout_s=hang_timeout_s,
        new_backoff=lambda: Backoff(first_s=0.2, longest_s=0.8),
    )


def is_alive(pid: int) -> bool:
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def child_of(folder: Path, name: str) -> int:
    wait_until(lambda: (folder / name / "child").exists() and (folder / name / "child").read_text() != "")
    return int((folder / name / "child").read_text())


@pytest.fixture
def heeded_signals() -> Iterator[None]:
    """Signals as an interactive shell leaves them, also where the tests run in the background or under nohup."""
    before = {
        number: signal.signal(number, signal.SIG_DFL) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    }
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


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


# --- restarts -------------------------------------------------------------------------------------------------------


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


# --- signals and groups ---------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("heeded_signals")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_stop_signal_when_a_signal_arrives_then_it_is_a_wish_and_the_old_handler_comes_back(number: int) -> None:
    before = signal.getsignal(number)
    with StopSignal() as stop:
        os.kill(os.getpid(), number)
        wait_until(lambda: stop.requested)
        assert not stop.at_once
    assert signal.getsignal(number) is before


@pytest.mark.usefixtures("heeded_signals")
def test_stop_signal_when_the_shell_told_to_ignore_a_signal_then_it_stays_ignored() -> None:
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with StopSignal() as stop:
        os.kill(os.getpid(), signal.SIGHUP)
        time.sleep(0.05)
        assert not stop.requested


@pytest.mark.usefixtures("heeded_signals")
def test_stop_signal_when_interrupted_again_later_then_wants_it_at_once_but_not_within_the_same_moment() -> None:
    with StopSignal() as stop:
        os.kill(os.getpid(), signal.SIGINT)
        os.kill(os.getpid(), signal.SIGINT)
        assert not stop.at_once
        time.sleep(0.6)
        os.kill(os.getpid(), signal.SIGTERM)
        assert not stop.at_once
        os.kill(os.getpid(), signal.SIGINT)
        wait_until(lambda: stop.at_once)


def test_process_record_when_the_id_belongs_to_another_process_then_it_is_not_found() -> None:
    own = ProcessRecord.of("tests", os.getpid())
    stranger = ProcessRecord("tests", own.pid, own.created_at - 3600)

    assert own.find() is not None
    assert stranger.find() is None


def test_kill_group_when_nothing_of_it_is_left_then_kills_nothing() -> None:
    assert kill_group(ProcessRecord("gone", 2**22 - 1, time.time())) == 0


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
