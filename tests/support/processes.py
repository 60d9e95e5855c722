"""Small real processes for a supervisor to run, and an observer that writes down what it is told."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import psutil

from gptoss_client.backoff import Backoff
from gptoss_client.process import ProcessSpec
from gptoss_client.process_group import ProcessRecord
from gptoss_client.run_state import Death
from gptoss_client.stop_signal import StopSignal
from gptoss_client.supervisor import Supervisor

READY = "open('ready','w').close(); "
FOREVER = "import time; time.sleep(60)"
DEAF = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); "
WITH_CHILD = (
    "import subprocess, sys; child = subprocess.Popen([sys.executable, '-S', '-c', 'import time; time.sleep(60)']); "
    "open('child', 'w').write(str(child.pid)); "
)


class Diary:
    """An observer that asks for a stop at a chosen event."""

    def __init__(self, stop: StopSignal, *, stop_at: str | None = None) -> None:
        self.events: list[str] = []
        self.processes: list[ProcessRecord] = []
        self.deaths: list[Death] = []
        self.delays_s: list[float] = []
        self._stop = stop
        self._stop_at = stop_at

    def started(self, processes: Sequence[ProcessRecord]) -> None:
        self.processes = list(processes)
        self._note("started")

    def waiting(self, awaited: Sequence[str], elapsed_s: float) -> None:
        event = f"waiting for {', '.join(awaited)}"
        if self.events[-1] != event:
            self._note(event)

    def ready(self, elapsed_s: float) -> None:
        self._note("ready")

    def died(self, death: Death, delay_s: float) -> None:
        self.deaths.append(death)
        self.delays_s.append(delay_s)
        self._note(f"{death.name} died")

    def recovered(self, elapsed_s: float) -> None:
        self._note("recovered")

    def ending(self, name: str) -> None:
        self._note(f"ending {name}")

    def _note(self, event: str) -> None:
        self.events.append(event)
        if self._stop_at and event.startswith(self._stop_at):
            self._stop.request()


def python_process(
    folder: Path,
    name: str,
    program: str,
    *,
    is_ready: Callable[[], bool] | None = None,
    needs_children: bool = False,
    lives_on: tuple[str, ...] = (),
) -> ProcessSpec:
    """A process that runs a line of Python in `folder`/`name`; ready when the file `ready` is there."""
    place = folder / name
    place.mkdir()
    # -S -E: without site-packages an interpreter starts in some 10 ms
    command = (sys.executable, "-S", "-E", "-c", f"import os; os.chdir({str(place)!r}); {program}")
    return ProcessSpec(
        name=name,
        command=command,
        environment={},
        log=folder / f"{name}.log",
        awaited="gets up",
        is_ready=is_ready or (place / "ready").exists,
        needs_children=needs_children,
        lives_on=lives_on,
        clean_up=lambda: (folder / f"{name}.cleaned").touch(),
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
    """A supervisor that does not wait long before it starts a process again."""
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
    """Say whether a process runs; one that has ended and is not waited for does not."""
    return psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE


def child_of(folder: Path, name: str) -> int:
    """Return the id of the child that a process of WITH_CHILD has, once it has one."""
    wait_until(lambda: (folder / name / "child").exists() and (folder / name / "child").read_text() != "")
    return int((folder / name / "child").read_text())


def wait_until(condition: Callable[[], bool], timeout_s: float = 10.0) -> None:
    """Return when the condition holds; fail if it does not in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        assert time.monotonic() < deadline, "the condition did not come to hold"
        time.sleep(0.02)
