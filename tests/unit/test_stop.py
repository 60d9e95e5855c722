"""`gptoss stop` with small real processes in place of a server's: what is waited for, what is never forgotten."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest

from gptoss_backend.settings_sources import load_settings
from gptoss_client.errors import CommandError
from gptoss_client.ports import Listener, check_ports
from gptoss_client.process_group import ProcessRecord
from gptoss_client.run_state import Phase, RunDirectory, RunState
from gptoss_client.stop import end_leftovers, stop_server
from support.processes import FOREVER, wait_until

SLOW_TO_END = "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: (time.sleep(1), sys.exit(0))); "


@contextmanager
def process(program: str) -> Iterator[subprocess.Popen[str]]:
    """Run a line of Python that leads a group of its own; return once it runs."""
    command = (sys.executable, "-S", "-E", "-c", f"{program}")
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True) as started:
        assert started.stdout is not None
        assert started.stdout.readline() == "up\n"
        yield started
        started.kill()


@pytest.fixture
def run(tmp_path: Path) -> RunDirectory:
    return RunDirectory(tmp_path)


def state_of(supervisor: int, *processes: int) -> RunState:
    records = tuple(ProcessRecord.of("tritonserver", pid) for pid in processes)
    return RunState(Phase.READY, ProcessRecord.of("supervisor", supervisor), time.time(), "", records)


def refuse(name: str) -> Callable[[psutil.Process], None]:
    """Return what a method of psutil's does for a process of another user."""

    def method(process: psutil.Process, *_: object) -> None:
        raise psutil.AccessDenied(process.pid, name)

    return method


def test_stop_when_the_server_was_granted_more_time_than_the_settings_here_say_then_it_has_it(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gptoss_client.stop._MARGIN_S", 0.0)
    monkeypatch.setenv("GPTOSS_SERVER__SHUTDOWN_TIMEOUT_S", "0.1")
    run.write_config(load_settings({"server": {"shutdown_timeout_s": 20}}, environ={}))
    with process(f"{SLOW_TO_END} print('up', flush=True); {FOREVER}") as supervisor:
        run.write_state(state_of(supervisor.pid))
        assert stop_server(run)
        assert supervisor.wait() == 0


def test_stop_when_the_settings_cannot_be_read_then_the_server_is_ended_all_the_same(run: RunDirectory) -> None:
    run.config.write_text("server: {no_such_setting: 1}")
    with process(f"print('up', flush=True); {FOREVER}") as supervisor:
        run.write_state(state_of(supervisor.pid))
        assert stop_server(run)
    assert run.read_state() is None


def test_stop_when_the_server_is_another_users_then_says_whose_and_forgets_nothing(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    with process(f"print('up', flush=True); {FOREVER}") as supervisor:
        run.write_state(state_of(supervisor.pid))
        monkeypatch.setattr(psutil.Process, "terminate", refuse("terminate"))
        with pytest.raises(CommandError, match=rf"cannot end supervisor \(pid {supervisor.pid}, of user "):
            stop_server(run)
        assert run.read_state() is not None


def test_leftovers_when_one_cannot_be_ended_then_their_traces_stay(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gptoss_client.process_group._KILL_TIMEOUT_S", 0.1)
    with process("print('up', flush=True)") as gone, process(f"print('up', flush=True); {FOREVER}") as left:
        run.write_state(state_of(gone.pid, left.pid))
        gone.wait()
        with monkeypatch.context() as denied:
            denied.setattr(psutil.Process, "send_signal", refuse("send_signal"))
            with pytest.raises(CommandError, match=rf"cannot end tritonserver \(pid {left.pid}"):
                end_leftovers(run)
        assert run.read_state() is not None
        assert end_leftovers(run) == 1
    assert run.read_state() is None


def test_leftovers_when_one_has_much_to_give_back_then_its_port_is_free_once_they_are_ended(run: RunDirectory) -> None:
    holds = (
        "import socket, threading, time; listener = socket.create_server(('127.0.0.1', 0)); "
        "memory = bytearray(b'x') * (300 * 1024 * 1024); "
        "[threading.Thread(target=time.sleep, args=(60,), daemon=True).start() for _ in range(40)]; "
    )
    for _ in range(3):
        with process(f"{holds} print('up', flush=True); {FOREVER}") as left:
            (listener,) = psutil.Process(left.pid).net_connections("tcp")
            run.write_state(RunState(Phase.READY, gone(), time.time(), "", (ProcessRecord.of("adapter", left.pid),)))
            assert end_leftovers(run) == 1
            check_ports([Listener("the API", "127.0.0.1", listener.laddr.port, "choose another")])


def gone() -> ProcessRecord:
    return ProcessRecord("supervisor", 2**22 - 1, 0.0)


def test_stop_when_a_new_server_has_the_directory_meanwhile_then_that_one_is_left_alone(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("gptoss_client.stop._CLAIM_PATIENCE_S", 0.1)
    with process("print('up', flush=True)") as old, process(f"print('up', flush=True); {FOREVER}") as new:
        run.write_state(state_of(old.pid, new.pid))
        old.wait()
        with run.claim():
            assert not stop_server(run)
        assert run.read_state() is not None
        assert new.poll() is None


def test_record_when_somebody_sets_the_clock_then_its_process_is_still_found_and_its_group_ended(
    run: RunDirectory, monkeypatch: pytest.MonkeyPatch
) -> None:
    with process(f"print('up', flush=True); {FOREVER}") as running:
        record = ProcessRecord.of("tritonserver", running.pid)
        assert record.boot, "these tests run on Linux"
        born = psutil.Process.create_time
        monkeypatch.setattr(psutil.Process, "create_time", lambda process: born(process) - 3600)
        found = record.find()
        assert found is not None
        assert found.pid == running.pid
        run.write_state(RunState(Phase.READY, gone(), time.time(), "", (record,)))
        assert end_leftovers(run) == 1


def test_record_when_it_is_of_another_boot_or_of_an_earlier_process_then_it_is_not_found() -> None:
    with process(f"print('up', flush=True); {FOREVER}") as running:
        record = ProcessRecord.of("tritonserver", running.pid)
        for boot, ticks in (("another", record.ticks), (record.boot, record.ticks - 1)):
            other = ProcessRecord(record.name, record.pid, record.created_at, boot, ticks)
            assert other.find() is None
        assert ProcessRecord(record.name, record.pid, record.created_at).find() is not None


def test_claim_when_it_is_let_go_of_in_time_then_patience_has_it(run: RunDirectory) -> None:
    holds = "import fcntl, sys, time; lock = open(sys.argv[1], 'w'); fcntl.flock(lock, fcntl.LOCK_EX); "
    command = (sys.executable, "-S", "-E", "-c", f"{holds} print('up', flush=True); time.sleep(0.5)")
    with subprocess.Popen((*command, str(run.root / "lock")), stdout=subprocess.PIPE, text=True) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "up\n"
        with run.claim(patience_s=10):
            wait_until(lambda: holder.poll() is not None)
