"""The run directory: what a server leaves on disk for the other commands to find.

Stage: start, `gptoss status` and `gptoss stop`.
Owns: config.yaml (the resolved settings all processes read), state.json, failure.txt (why the last server ended),
triton.key, the locks that admit one server and one reload of it, logs/.
Does not know: how processes are started or probed.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shlex
import time
from collections.abc import Iterator
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Final

from pydantic import TypeAdapter, ValidationError

from gptoss_backend.settings import Settings, SettingsError
from gptoss_backend.settings_sources import load_settings
from gptoss_client.errors import CommandError, RunningError
from gptoss_client.process_group import ProcessRecord


class Phase(StrEnum):
    """How far a server is."""

    PREPARING = "preparing"
    STARTING = "starting"
    READY = "ready"
    RESTARTING = "restarting"
    STOPPING = "stopping"


@dataclass(frozen=True, slots=True)
class Death:
    """The last death of one of a server's processes since the server was started."""

    name: str
    reason: str
    count: int
    """How often it died, this time included: so often it was, or will be, started again."""
    at: float
    """Seconds since the epoch."""


@dataclass(frozen=True, slots=True)
class RunState:
    """A running server, as state.json holds it."""

    phase: Phase
    supervisor: ProcessRecord
    started_at: float
    """Seconds since the epoch."""
    shm_prefix: str
    """How the names of the Python backend's shared memory begin."""
    processes: tuple[ProcessRecord, ...] = ()
    awaited: tuple[str, ...] = ()
    """While starting: what is not ready yet, as sentences for people."""
    deaths: tuple[Death, ...] = ()
    """One for each process that ever died, the latest last."""


_STATE: Final = TypeAdapter(RunState)
_TICK_S: Final = 0.05


class RunDirectory:
    """One server's place on disk."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.config = root / "config.yaml"
        self.logs = root / "logs"
        self._state = root / "state.json"
        self._triton_key = root / "triton.key"
        self._failure = root / "failure.txt"
        self._lock = root / "lock"
        self._reload_lock = root / "reload.lock"

    @classmethod
    def of(cls, settings: Settings) -> RunDirectory:
        """Return the one that settings name, with a full path."""
        return cls(Path(os.path.abspath(settings.server.run_dir)))

    @contextlib.contextmanager
    def claim(self, patience_s: float = 0.0) -> Iterator[int]:
        """Hold the directory for one server; gives the lock's file descriptor.

        patience_s: how long to wait for another to let go of it.

        The lock lives as long as any process has the descriptor open, so a child that inherits it keeps the claim,
        and no crash leaves it behind. Raises RunningError where another server holds it.
        """
        try:
            self.logs.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(self._lock, os.O_RDWR | os.O_CREAT, 0o644)
        except OSError as error:
            raise CommandError(f"cannot write in the run directory {self.root}: {error.strerror}") from error
        try:
            self._take(descriptor, time.monotonic() + patience_s)
            yield descriptor
        finally:
            os.close(descriptor)

    def _take(self, descriptor: int, deadline: float) -> None:
        while True:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                return
            except BlockingIOError:
                if time.monotonic() >= deadline:
                    raise self._taken() from None
            time.sleep(_TICK_S)

    def command(self, name: str) -> str:
        """Return how a command is typed that means this run directory."""
        with contextlib.suppress(SettingsError):
            if self.root == Path(os.path.abspath(load_settings().server.run_dir)):
                return f"gptoss {name}"
        return f"gptoss {name} --run-dir {shlex.quote(str(self.root))}"

    def _taken(self) -> RunningError:
        state = self.read_state()
        by = f" (pid {state.supervisor.pid})" if state else ""
        return RunningError(
            f"a server{by} already runs from {self.root}: end it with `{self.command('stop')}`, "
            "or give this one another --run-dir"
        )

    @contextlib.contextmanager
    def claim_reload(self) -> Iterator[None]:
        """Keep a second reload out. Raises RunningError."""
        with self._reload_lock.open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise RunningError(f"another reload of the server of {self.root} is under way") from None
            yield

    def write_config(self, settings: Settings) -> None:
        """Replace the resolved settings in one step. They may hold a secret, so nobody else may read them."""
        _replace_private(self.config, settings.dump_yaml())

    def read_settings(self) -> Settings:
        """Return the resolved settings that the server was started with. Raises CommandError."""
        try:
            return load_settings(config=self.config, environ={})
        except SettingsError as error:
            raise CommandError(
                f"the settings that the server of {self.root} was started with cannot be read ({error}): "
                f"if another version of gptoss started it, end it with `{self.command('stop')}` and start it anew"
            ) from error

    def new_triton_key(self) -> str:
        """Return a fresh key for Triton's closed APIs, written where the other commands of this user find it."""
        key = secrets.token_hex(16)
        _replace_private(self._triton_key, key)
        return key

    def read_triton_key(self) -> str:
        """Return that key. Raises CommandError where there is none."""
        try:
            return self._triton_key.read_text(encoding="ascii")
        except OSError as error:
            raise CommandError(f"cannot read the key of Triton's APIs, {self._triton_key}: {error.strerror}") from error

    def read_state(self) -> RunState | None:
        """Return what the last server wrote, if it did not clean up itself; it need not run any more."""
        try:
            return _STATE.validate_json(self._state.read_bytes())
        except (OSError, ValidationError):
            return None

    def write_state(self, state: RunState) -> None:
        """Replace the state in one step: a reader sees the old one or the new one."""
        fresh = self._state.with_suffix(".new")
        fresh.write_bytes(_STATE.dump_json(state))
        fresh.replace(self._state)

    def forget_state(self) -> None:
        """Remove the state: nothing runs any more."""
        self._state.unlink(missing_ok=True)

    def write_failure(self, sentence: str) -> None:
        """Leave word of why the server is not there any more; never raises."""
        with contextlib.suppress(OSError):
            self._failure.write_text(sentence, encoding="utf-8")

    def read_failure(self) -> str | None:
        """Return why the last server ended, where nobody asked it to."""
        try:
            return self._failure.read_text(encoding="utf-8")
        except OSError:
            return None

    def forget_failure(self) -> None:
        """Remove the word left by an earlier server."""
        self._failure.unlink(missing_ok=True)

    def log(self, name: str) -> Path:
        """Return the path of a log."""
        return self.logs / f"{name}.log"

    def new_log(self, name: str) -> Path:
        """Return the path of a log that starts empty; the one before is kept as `.1`."""
        log = self.log(name)
        if log.exists() and log.stat().st_size:
            log.replace(log.with_suffix(".log.1"))
        return log


def _replace_private(place: Path, text: str) -> None:
    """Replace a file in one step by one that nobody else may read."""
    fresh = place.with_suffix(".new")
    fresh.unlink(missing_ok=True)  # one that was left half-written may be open to all
    with open(fresh, "x", encoding="utf-8", opener=_private) as file:
        file.write(text)
    fresh.replace(place)


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
