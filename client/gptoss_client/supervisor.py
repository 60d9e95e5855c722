"""Starts processes, waits until they are ready, starts those that die or hang again, and leaves none behind.

Stage: the life of a server, from its start to its end.
Owns: the order of start (as given) and end (the reverse; who lives on others first); what a death means: the end of a
server that was never ready, a restart of one that was. One that hangs is killed.
Does not know: what the processes are, how their readiness is asked for, or who is told.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol

from gptoss_client.backoff import Backoff
from gptoss_client.errors import CommandError, ProcessDiedError, StartupTimeoutError
from gptoss_client.logs import last_lines
from gptoss_client.process import TICK_S, Process, ProcessSpec
from gptoss_client.process_group import ProcessRecord
from gptoss_client.run_state import Death
from gptoss_client.stop_signal import StopSignal

_PROBE_PERIOD_S: Final = 0.1
_PROGRESS_PERIOD_S: Final = 0.5
_HOUSEKEEPING_PERIOD_S: Final = 5.0
_GRACE_AFTER_DEATH_S: Final = 5.0


class Observer(Protocol):
    """Who is told how the server gets on. Its methods are called between the supervisor's steps and must be quick."""

    def started(self, processes: Sequence[ProcessRecord]) -> None:
        """Those processes run; none need be ready. Told again whenever one was started again."""

    def waiting(self, awaited: Sequence[str], elapsed_s: float) -> None:
        """Some are not ready yet. Called over and over."""

    def ready(self, elapsed_s: float) -> None:
        """All are ready for the first time."""

    def died(self, death: Death, delay_s: float) -> None:
        """A process died; it is started again after `delay_s`."""

    def recovered(self, elapsed_s: float) -> None:
        """All are ready again."""

    def ending(self, name: str) -> None:
        """A process is about to be asked to end."""


@dataclass(slots=True)
class _Member:
    """A process as the supervisor keeps it, from one life to the next."""

    spec: ProcessSpec
    backoff: Backoff
    process: Process | None = None
    start_at: float = 0.0
    """While there is no process: when to start it."""
    ready_since: float | None = None
    num_deaths: int = 0
    progress: object = None
    """While it is not ready: what it had come to when it was last asked."""
    got_on_at: float = 0.0
    """When it was started, had come further, or got what it lives on."""


class Supervisor:
    """Runs processes together.

    Until all have been ready once, the death of one ends all: it would only die again. From then on what died is
    started again, after a wait that grows. Those that live on it go on running and count as ready when they say so
    again; the others are not touched by it.
    """

    def __init__(
        self,
        specs: Sequence[ProcessSpec],
        observer: Observer,
        stop: StopSignal,
        *,
        startup_timeout_s: float,
        shutdown_timeout_s: float,
        hang_timeout_s: float = 0.0,
        new_backoff: Callable[[], Backoff] = Backoff,
        housekeeping: Callable[[], None] = lambda: None,
    ) -> None:
        """hang_timeout_s: how long a ready process may not get on before it is killed; 0: for ever.

        housekeeping: called every few seconds; must be quick.
        """
        self._members = [_Member(spec, new_backoff()) for spec in specs]
        self._observer = observer
        self._stop = stop
        self._startup_timeout_s = startup_timeout_s
        self._shutdown_timeout_s = shutdown_timeout_s
        self._hang_timeout_s = hang_timeout_s
        self._housekeeping = housekeeping
        self._was_ready = False
        self._has_failed = False
        self._outage_began = 0.0
        self._next_probe = self._next_look = 0.0
        self._next_housekeeping = 0.0

    def run(self) -> None:
        """Start everything and keep it running until a stop is asked for; blocks for as long.

        Whatever happens, nothing runs any more when it returns or raises.
        Raises ProcessDiedError or StartupTimeoutError, with the last log lines of the process at fault, where one of
        them was never ready.
        """
        self._outage_began = time.monotonic()
        try:
            while not self._stop.requested:
                self._start_due()
                self._bury_dead()
                self._look_who_is_ready()
                self._keep_house()
                time.sleep(TICK_S)
        except CommandError:
            self._has_failed = True
            raise
        finally:
            self._end_all()

    def _start_due(self) -> None:
        due = [member for member in self._members if not member.process and time.monotonic() >= member.start_at]
        for member in due:
            try:
                member.process, member.got_on_at = Process(member.spec), time.monotonic()
            except CommandError as error:
                self._lose(member, str(error), error)
        if due:
            self._observer.started([member.process.record for member in self._members if member.process])

    def _bury_dead(self) -> None:
        for member in self._members:
            reason = (member.process.death() or member.process.hang()) if member.process else None
            if reason:
                self._lose(member, reason, ProcessDiedError(_with_log(reason, member.spec)))

    def _look_who_is_ready(self) -> None:
        unready = [member for member in self._members if member.ready_since is None]
        if not unready or time.monotonic() < self._next_probe:
            return
        self._next_probe = time.monotonic() + _PROBE_PERIOD_S
        for member in unready:
            if member.process and member.spec.is_ready():
                member.ready_since = time.monotonic()
                for other in self._living_on(member):
                    other.got_on_at = member.ready_since
                member.process.begin_to_serve(self._hang_timeout_s)
        self._tell([member for member in unready if member.ready_since is None])

    def _tell(self, awaited: list[_Member]) -> None:
        elapsed_s = time.monotonic() - self._outage_began
        self._note_progress(awaited)
        late = next((member for member in awaited if self._waited_s(member) > self._startup_timeout_s), None)
        if late:
            reason = f"{late.spec.name} was not ready after {self._waited_s(late):.0f} s (server.startup_timeout_s)"
            self._lose(late, reason, StartupTimeoutError(_with_log(reason, late.spec)))
        elif awaited:
            self._observer.waiting([f"{member.spec.name} {member.spec.awaited}" for member in awaited], elapsed_s)
        elif self._was_ready:
            self._observer.recovered(elapsed_s)
        else:
            self._was_ready = True
            self._observer.ready(elapsed_s)

    def _waited_s(self, member: _Member) -> float:
        """Return for how long it has not got on; 0 while it waits for what it lives on, or for its next life."""
        lacks = any(other.ready_since is None for other in self._members if other.spec.name in member.spec.lives_on)
        return 0.0 if lacks or not member.process else time.monotonic() - member.got_on_at

    def _living_on(self, member: _Member) -> list[_Member]:
        return [other for other in self._members if member.spec.name in other.spec.lives_on]

    def _note_progress(self, awaited: list[_Member]) -> None:
        """Give what gets on more time: a model of 65 GB on a slow disk is no start that hangs."""
        if not awaited or time.monotonic() < self._next_look:
            return
        self._next_look = time.monotonic() + _PROGRESS_PERIOD_S
        for member in awaited:
            progress = member.spec.progress()
            if progress != member.progress:
                member.progress, member.got_on_at = progress, time.monotonic()

    def _lose(self, member: _Member, reason: str, error: CommandError) -> None:
        """Make sure that nothing is left of a process and plan its next life; before all were ready raise `error`."""
        if not self._was_ready:
            raise error
        now = time.monotonic()
        if member.process:
            # at once: with a part of it dead, none of its streams can end well, and its clients wait to be told
            member.process.kill()
        if all(other.ready_since for other in self._members):
            self._outage_began = now
        delay_s = member.backoff.next_delay_s(now - member.ready_since if member.ready_since else 0.0)
        member.process, member.start_at = None, now + delay_s
        member.num_deaths += 1
        for other in (member, *self._living_on(member)):
            other.ready_since = None
        self._observer.died(Death(member.spec.name, reason, member.num_deaths, time.time()), delay_s)

    def _keep_house(self) -> None:
        if time.monotonic() >= self._next_housekeeping:
            self._next_housekeeping = time.monotonic() + _HOUSEKEEPING_PERIOD_S
            self._housekeeping()

    def _end_all(self) -> None:
        # with a part of the server dead, its clients are told soon
        grace_s = min(self._shutdown_timeout_s, _GRACE_AFTER_DEATH_S) if self._has_failed else self._shutdown_timeout_s
        with contextlib.ExitStack() as ends:  # the last first; each whatever becomes of the others
            for stage in self._stages():
                for member in stage:
                    ends.callback(self._end, member, grace_s)
                for member in stage:
                    ends.callback(self._ask_to_end, member)

    def _stages(self) -> tuple[list[_Member], list[_Member]]:
        """Return those that live on nothing, and those that live on them: the ones of a stage end side by side."""
        alone = [member for member in self._members if not member.spec.lives_on]
        return alone, [member for member in self._members if member.spec.lives_on]

    def _ask_to_end(self, member: _Member) -> None:
        if member.process is None:
            return
        if not member.process.has_ended:
            # who cannot be told must not keep what runs from its end
            with contextlib.suppress(Exception):
                self._observer.ending(member.spec.name)
        member.process.ask_to_end()

    def _end(self, member: _Member, grace_s: float) -> None:
        if member.process is not None:
            member.process.end(grace_s, self._stop)
            member.process = None


def _with_log(sentence: str, spec: ProcessSpec) -> str:
    reason = spec.reason_in(spec.log)
    lines = last_lines(spec.log) or ["(nothing)"]
    why = f": {reason}" if reason else ""
    return "\n  ".join([f"{sentence}{why}; the last lines of {spec.log}:", *lines])
