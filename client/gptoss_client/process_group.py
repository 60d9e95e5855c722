"""Processes that lead a group of their own, and the groups they leave behind.

Stage: start and end of a server.
Owns: telling a remembered process from a stranger with the same id, and a crashed child from one that ends in order;
ending whole groups.
Does not know: what the processes are.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import psutil

_BOOT_ID: Final = Path("/proc/sys/kernel/random/boot_id")
_START_TIME: Final = 19  # of the fields of /proc/PID/stat that follow the name; see proc_pid_stat(5)
# Processes tell their start in clock ticks since boot; the boot's time of day drifts with the clock.
_CLOCK_SLACK_S: Final = 2.0
_KILL_TIMEOUT_S: Final = 5.0
_LATER_CHILD_S: Final = 4.0
_UNKNOWN: Final = ("", 0)


@dataclass(frozen=True, slots=True)
class ProcessRecord:
    """A process as another one remembers it. Its group has the same id as itself."""

    name: str
    pid: int
    created_at: float
    """Seconds since the epoch. Ids are used again; with its time of birth a process is never mistaken."""
    boot: str = ""
    """Which boot it was born in: with `ticks` a time of birth that stands when somebody sets the clock."""
    ticks: int = 0
    """Clock ticks from then to its birth. Neither is known without /proc: then `created_at` counts."""

    @classmethod
    def of(cls, name: str, pid: int) -> ProcessRecord:
        """Remember a process that is this one's child, or this one."""
        try:
            created_at = psutil.Process(pid).create_time()
        except psutil.Error:  # it ended at once: what it may have left in its group is not older than now
            created_at = time.time()
        return cls(name, pid, created_at, *_birth(pid))

    def find(self) -> psutil.Process | None:
        """Return the process if it still runs. One that has ended and was not yet waited for does not."""
        try:
            process = psutil.Process(self.pid)
            return process if self._is(process) and process.status() != psutil.STATUS_ZOMBIE else None
        except psutil.Error:
            return None

    def is_replaced(self) -> bool:
        """Tell whether another process has its id now. An id is not given out anew while a group still has it."""
        try:
            return not self._is(psutil.Process(self.pid))
        except psutil.Error:
            return False

    def is_not_younger_than(self, process: psutil.Process) -> bool:
        """Tell whether a process was born with this one or later. Raises psutil.Error."""
        boot, ticks = birth = _birth(process.pid)
        if self.boot and birth != _UNKNOWN:
            return boot == self.boot and ticks >= self.ticks
        return bool(process.create_time() > self.created_at - _CLOCK_SLACK_S)

    def _is(self, process: psutil.Process) -> bool:
        birth = _birth(process.pid)
        if self.boot and birth != _UNKNOWN:
            return birth == (self.boot, self.ticks)
        return bool(abs(process.create_time() - self.created_at) < _CLOCK_SLACK_S)


def kill_group(leader: ProcessRecord) -> int:
    """End all that is left of a group by SIGKILL, its leader included; returns how many there were.

    Blocks until they are gone, some seconds at most.
    """
    members = list(_members(leader))
    for member in members:
        with contextlib.suppress(psutil.Error):
            member.send_signal(signal.SIGKILL)
    deadline = time.monotonic() + _KILL_TIMEOUT_S
    while any(_members(leader)) and time.monotonic() < deadline:
        time.sleep(0.02)
    return len(members)


class CrashWatch:
    """Looks whether a process has lost a child: one that ended without its parent taking note.

    An orderly end looks like a crash until the parent has taken note: a crash still looks so a look later. Of a child
    that was born while its parent served already it may be the parent's to say that it failed: Triton takes a second to
    find that the stub of a model that it loads is dead, and goes on with what it has.
    """

    def __init__(self, leader: ProcessRecord) -> None:
        self._leader = leader
        self._served_with: list[psutil.Process] | None = None
        self._crashed_since: dict[psutil.Process, float] = {}

    def begin_to_serve(self) -> None:
        """Note that the process serves with the children that it has now; until then it needs all."""
        self._served_with = _children(self._leader)

    def lost_child(self) -> int | None:
        """Return the id of a child that the process has lost; None where there is none."""
        now = time.monotonic()
        crashed = [child for child in _children(self._leader) if _is_zombie(child)]
        self._crashed_since = {child: self._crashed_since.get(child, now) for child in crashed}
        lasting_s = {child: now - since for child, since in self._crashed_since.items()}
        lost = [child.pid for child, for_s in lasting_s.items() if for_s > 0 and for_s >= self._patience_s(child)]
        return min(lost, default=None)

    def _patience_s(self, child: psutil.Process) -> float:
        return 0.0 if self._served_with is None or child in self._served_with else _LATER_CHILD_S


def has_children(leader: ProcessRecord) -> bool:
    """Say whether any child of the process runs."""
    return not all(_is_zombie(child) for child in _children(leader))


def _children(leader: ProcessRecord) -> list[psutil.Process]:
    try:
        return list(psutil.Process(leader.pid).children())
    except psutil.Error:
        return []


def _members(leader: ProcessRecord) -> Iterator[psutil.Process]:
    if leader.is_replaced():  # nothing is left of its group: this one is a stranger's
        return
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error, ProcessLookupError):
            in_group = os.getpgid(process.pid) == leader.pid
            if in_group and leader.is_not_younger_than(process) and not _has_ended(process):
                yield process


def _birth(pid: int) -> tuple[str, int]:
    """Return the boot that a process was born in, and the clock ticks from then on; unknown without /proc."""
    try:
        boot = _BOOT_ID.read_text(encoding="ascii").strip()
        # the name may hold blanks and parentheses, and whatever bytes
        fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
        return boot, int(fields[_START_TIME])
    except (OSError, ValueError, IndexError):
        return _UNKNOWN


def _has_ended(process: psutil.Process) -> bool:
    """Tell whether nothing runs of it. Raises psutil.Error.

    A zombie whose other threads are on their way out still holds its ports and memory, for up to a second.
    """
    return _is_zombie(process) and process.num_threads() <= 1


def _is_zombie(process: psutil.Process) -> bool:
    try:
        return bool(process.status() == psutil.STATUS_ZOMBIE)
    except psutil.Error:
        return False
