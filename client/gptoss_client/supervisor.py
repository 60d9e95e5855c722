"""Starts processes, waits until they are ready, watches them, and leaves none behind.

Stage: the life of a server, from its start to its end.
Owns: the running processes and their groups; the order of start (as given) and end (the reverse).
Does not know: what the processes are, how their readiness is asked for, or who is told.
"""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol

from gptoss_client.errors import CommandError, ProcessDiedError, StartupTimeoutError
from gptoss_client.process_group import ProcessRecord, crashed_children, kill_group
from gptoss_client.run_state import last_lines
from gptoss_client.stop_signal import StopSignal

_TICK_S: Final = 0.1
_PROBE_PERIOD_S: Final = 0.25
_CHILD_CHECK_PERIOD_S: Final = 1.0
_GRACE_AFTER_DEATH_S: Final = 5.0


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """A process to run, and how to tell how it is."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    log: Path
    """Takes all the process and its children print."""
    awaited: str
    """What it does until it is ready, for people: "loads gpt_oss_20b"."""
    is_ready: Callable[[], bool]
    """Asked several times a second until it says yes; must not block for long."""
    needs_children: bool = False
    """Whether it is of no use any more when one of its children crashes."""
    clean_up: Callable[[], None] = lambda: None
    """Called when the process and its group are gone."""


class Observer(Protocol):
    """Who is told how the server gets on. Its methods are called between the supervisor's steps and must be quick."""

    def started(self, processes: Sequence[ProcessRecord]) -> None:
        """All processes run; none need be ready."""

    def waiting(self, awaited: Sequence[str], elapsed_s: float) -> None:
        """Some are not ready yet. Called over and over."""

    def ready(self, elapsed_s: float) -> None:
        """All are ready."""

    def ending(self, name: str) -> None:
        """A process is about to be asked to end."""


@dataclass(frozen=True, slots=True)
class _Child:
    spec: ProcessSpec
    process: subprocess.Popen[bytes]
    record: ProcessRecord


class Supervisor:
    """Runs processes together: all of them, or none."""

    def __init__(
        self,
        specs: Sequence[ProcessSpec],
        observer: Observer,
        stop: StopSignal,
        *,
        startup_timeout_s: float,
        shutdown_timeout_s: float,
    ) -> None:
        self._specs = specs
        self._observer = observer
        self._stop = stop
        self._startup_timeout_s = startup_timeout_s
        self._shutdown_timeout_s = shutdown_timeout_s
        self._children: list[_Child] = []
        self._crashed_before: set[int] = set()
        self._next_child_check = 0.0
        self._has_failed = False

    def run(self) -> None:
        """Start everything and watch it until a stop is asked for; blocks for as long.

        Whatever happens, nothing runs any more when it returns or raises.
        Raises ProcessDiedError or StartupTimeoutError, with the last log lines of the process at fault.
        """
        try:
            self._start_all()
            self._wait_until_ready()
            self._watch()
        except CommandError:
            self._has_failed = True
            raise
        finally:
            self._end_all()

    def _start_all(self) -> None:
        for spec in self._specs:
            self._children.append(_start(spec))
        self._observer.started([child.record for child in self._children])

    def _wait_until_ready(self) -> None:
        started = time.monotonic()
        awaited = list(self._children)
        while not self._stop.requested:
            self._raise_if_one_died()
            awaited = [child for child in awaited if not child.spec.is_ready()]
            elapsed_s = time.monotonic() - started
            if not awaited:
                self._observer.ready(elapsed_s)
                return
            if elapsed_s > self._startup_timeout_s:
                raise StartupTimeoutError(_too_late(awaited[0].spec, elapsed_s))
            self._observer.waiting([f"{child.spec.name} {child.spec.awaited}" for child in awaited], elapsed_s)
            time.sleep(_PROBE_PERIOD_S)

    def _watch(self) -> None:
        while not self._stop.requested:
            self._raise_if_one_died()
            time.sleep(_TICK_S)

    def _raise_if_one_died(self) -> None:
        for child in self._children:
            status = child.process.poll()
            if status is not None:
                raise ProcessDiedError(_with_log(f"{child.spec.name} died ({_how(status)})", child.spec.log))
        if time.monotonic() >= self._next_child_check:
            self._next_child_check = time.monotonic() + _CHILD_CHECK_PERIOD_S
            self._raise_if_a_child_crashed()

    def _raise_if_a_child_crashed(self) -> None:
        crashed = {
            pid: child.spec
            for child in self._children
            if child.spec.needs_children
            for pid in crashed_children(child.record)
        }
        # an orderly end looks like a crash until the parent has taken note: a crash still looks so a second later
        lasting = self._crashed_before & crashed.keys()
        if lasting:
            pid = min(lasting)
            sentence = f"{crashed[pid].name} lost a process it cannot do without (pid {pid})"
            raise ProcessDiedError(_with_log(sentence, crashed[pid].log))
        self._crashed_before = set(crashed)

    def _end_all(self) -> None:
        while self._children:
            self._end(self._children.pop())

    def _end(self, child: _Child) -> None:
        if child.process.poll() is None:
            self._observer.ending(child.spec.name)
            child.process.terminate()
        # with a part of the server dead, no stream can end well: its clients are told soon
        grace_s = min(self._shutdown_timeout_s, _GRACE_AFTER_DEATH_S) if self._has_failed else self._shutdown_timeout_s
        deadline = time.monotonic() + grace_s
        while child.process.poll() is None and time.monotonic() < deadline and not self._stop.at_once:
            time.sleep(_TICK_S)
        kill_group(child.record)
        child.process.wait()
        child.spec.clean_up()


def run_step(command: Sequence[str], environment: Mapping[str, str], stop: StopSignal) -> int:
    """Run a command to its end with our own output and return its exit status; a stop asked for ends its group."""
    process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, start_new_session=True)
    record = ProcessRecord.of(command[0], process.pid)
    try:
        while process.poll() is None and not stop.requested:
            time.sleep(_TICK_S)
    finally:
        kill_group(record)
    return process.wait()


def _start(spec: ProcessSpec) -> _Child:
    """Start a process as the leader of its own session: Ctrl-C reaches us only, and its group is ours to end."""
    try:
        with spec.log.open("wb") as log:
            process = subprocess.Popen(
                spec.command,
                env=spec.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
    except OSError as error:
        raise CommandError(f"cannot start {spec.name} ({spec.command[0]}): {error.strerror}") from error
    return _Child(spec, process, ProcessRecord.of(spec.name, process.pid))


def _how(status: int) -> str:
    if status >= 0:
        return f"exit status {status}"
    try:
        return f"killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"killed by signal {-status}"


def _too_late(spec: ProcessSpec, elapsed_s: float) -> str:
    return _with_log(f"{spec.name} was not ready after {elapsed_s:.0f} s (server.startup_timeout_s)", spec.log)


def _with_log(sentence: str, log: Path) -> str:
    lines = last_lines(log) or ["(nothing)"]
    return "\n  ".join([f"{sentence}; the last lines of {log}:", *lines])
