"""One process of the server: its start, the signs that it is dead or hangs, its end.

Stage: the life of a server.
Owns: a running process and the group it leads.
Does not know: what the process is for, or what its death means for the others.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Final

from gptoss_client.errors import CommandError
from gptoss_client.hang_watch import HangWatch
from gptoss_client.process_group import CrashWatch, ProcessRecord, has_children, kill_group
from gptoss_client.stop_signal import StopSignal

TICK_S: Final = 0.1
# twice this, and a tick, is how long a killed stub stays unnoticed, of those that there were when it got ready
_CHILD_CHECK_PERIOD_S: Final = 0.5
_CHILDLESS_S: Final = 1.5
"""For so long a process may end after its children, where it needs them. Triton itself waits for a second."""


@dataclass(frozen=True, slots=True)
class ProcessSpec:
    """A process to run, and how to tell how it is."""

    name: str
    command: tuple[str, ...]
    environment: Mapping[str, str]
    log: Path
    """Takes all the process and its children print, after what is there already."""
    awaited: str
    """What it does until it is ready, for people: "loads gpt_oss_20b"."""
    is_ready: Callable[[], bool]
    """Asked several times a second until it says yes; must not block for long."""
    lives_on: tuple[str, ...] = ()
    """The names of those whose death it may not get over: it counts as ready when it says so again. It ends first."""
    progress: Callable[[], object] = lambda: None
    """Asked now and then until it is ready: what it has come to. One that gets on is not given up; must be quick."""
    needs_children: bool = False
    """Whether it is of no use any more when one of its children crashes."""
    hang: Callable[[], str | None] = lambda: None
    """Asked every second, in a thread, once it is ready: returns what does not get on, None where all does.
    May block for some seconds."""
    reason_in: Callable[[Path], str | None] = lambda log: None
    """Finds in its log why it died, where it says so in a sentence for people."""
    clean_up: Callable[[], None] = lambda: None
    """Called when the process and its group are gone."""


class Process:
    """A spec's running process. Made, it runs; killed or ended, it is gone with all its group."""

    def __init__(self, spec: ProcessSpec) -> None:
        """Start it as the leader of its own session: Ctrl-C reaches us only, and its group is ours to end.

        Raises CommandError.
        """
        self._spec = spec
        self._process = _popen(spec)
        self.record = ProcessRecord.of(spec.name, self._process.pid)
        self._crash_watch = CrashWatch(self.record)
        self._asked_to_end_at: float | None = None
        self._next_child_check = 0.0
        self._hang_watch: HangWatch | None = None

    @property
    def has_ended(self) -> bool:
        """Whether the process itself, the group's leader, is gone."""
        return self._process.poll() is not None

    def death(self) -> str | None:
        """Return how the process died, or that it lost a child it needs; None while it lives."""
        status = self._process.poll()
        if status is not None:
            return f"{self._spec.name} died ({_how(status)})"
        if not self._spec.needs_children or time.monotonic() < self._next_child_check:
            return None
        self._next_child_check = time.monotonic() + _CHILD_CHECK_PERIOD_S
        lost = self._crash_watch.lost_child()
        return f"{self._spec.name} lost a process it cannot do without (pid {lost})" if lost else None

    def begin_to_serve(self, hang_limit_s: float) -> None:
        """Note that the process is ready. From now on `hang` tells when it has not got on for so long; 0: never."""
        self._crash_watch.begin_to_serve()
        if hang_limit_s and self._hang_watch is None:
            self._hang_watch = HangWatch(self._spec.name, self._spec.hang, hang_limit_s)

    def hang(self) -> str | None:
        """Return what of the process hangs, for longer than it may; None where it gets on."""
        trouble = self._hang_watch.verdict if self._hang_watch else None
        return f"{self._spec.name} hangs: {trouble}" if trouble else None

    def ask_to_end(self) -> float:
        """Ask the process to end, once: to some a second time means at once. Does not wait; returns when it was asked.

        In seconds of the monotonic clock.
        """
        if self._asked_to_end_at is None:
            self._asked_to_end_at = time.monotonic()
            if not self.has_ended:
                self._process.terminate()
        return self._asked_to_end_at

    def end(self, grace_s: float, stop: StopSignal) -> None:
        """Kill what is left of the group `grace_s` after the process was asked to end, or at once if `stop` says so.

        A process that needs its children has nothing to do without them: then it is not waited for so long. (After a
        reload that failed Triton counts a model that is not there, and would wait for it to the last.)
        """
        deadline = self.ask_to_end() + grace_s
        had_children_at = time.monotonic()
        while not self.has_ended and time.monotonic() < deadline and not stop.at_once:
            time.sleep(TICK_S)
            if not self._spec.needs_children or has_children(self.record):
                had_children_at = time.monotonic()
            if time.monotonic() > had_children_at + _CHILDLESS_S:
                break
        self.kill()

    def kill(self) -> None:
        """Kill what is left of the process and its group, and clean up after it."""
        kill_group(self.record)
        self._process.wait()
        if self._hang_watch:
            self._hang_watch.close()
        self._spec.clean_up()


def _popen(spec: ProcessSpec) -> subprocess.Popen[bytes]:
    try:
        # what it says may quote what clients sent
        with open(spec.log, "ab", opener=partial(os.open, mode=0o600)) as log:
            return subprocess.Popen(
                spec.command,
                env=spec.environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
    except OSError as error:
        raise CommandError(f"cannot start {spec.name} ({spec.command[0]}): {error.strerror}") from error


def _how(status: int) -> str:
    if status >= 0:
        return f"exit status {status}"
    try:
        return f"killed by {signal.Signals(-status).name}"
    except ValueError:
        return f"killed by signal {-status}"
