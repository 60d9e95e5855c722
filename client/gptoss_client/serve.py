"""`gptoss serve`: from settings to a running server, here or in the background.

Stage: start of a server; then this process is its supervisor.
Owns: the order of what is seen to before anything starts; what of the server's life is written to the run directory.
Does not know: what the processes are made of, how they are watched.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Final

from rich.console import Console

from gptoss_backend.environment import child_environment
from gptoss_backend.loopback import is_loopback
from gptoss_backend.model_names import MODELS_BY_SHORT
from gptoss_backend.settings import Settings
from gptoss_client.addresses import Addresses, listeners
from gptoss_client.checkpoint import check_checkpoints, ensure_checkpoints
from gptoss_client.display import Display, failure_in, how_to_use
from gptoss_client.errors import INTERRUPTED, CommandError, PortTakenError, ProcessDiedError
from gptoss_client.launch import processes, triton_logs
from gptoss_client.logs import bound_sizes
from gptoss_client.placing import place, with_num_replicas
from gptoss_client.ports import check_ports
from gptoss_client.process_group import ProcessRecord
from gptoss_client.run_state import Death, Phase, RunDirectory, RunState
from gptoss_client.stop import end_leftovers
from gptoss_client.stop_signal import StopSignal
from gptoss_client.supervisor import Observer, Supervisor
from gptoss_client.triton_command import exposure
from gptoss_client.triton_runtime import TritonRuntime, find_runtime

_FOLLOW_PERIOD_S: Final = 0.2


def serve(settings: Settings, console: Console, *, detach: bool) -> int:
    """Serve until asked to stop, or (detach) until ready in the background; returns the exit status.

    settings: with absolute paths and the number of replicas. Raises CommandError.
    """
    run = RunDirectory(settings.server.run_dir)
    with run.claim() as claim, StopSignal() as stop:
        runtime = _prepare(settings, run, stop, console)
        if stop.requested:
            run.forget_state()
            return INTERRUPTED
        if detach:
            display = _display(settings, run, console, f"{run.command('stop')} ends it")
            return _serve_in_background(run, claim, display, stop)
        return supervise(settings, runtime, run, _display(settings, run, console, "Ctrl-C ends it"), stop)


def check_startable(settings: Settings) -> None:
    """Raise CommandError where a server cannot start, as far as can be told while another one still runs.

    settings: with absolute paths.
    """
    check_checkpoints(settings)
    find_runtime()
    settings = with_num_replicas(settings, child_environment(RunDirectory.of(settings).config))
    with contextlib.suppress(PortTakenError):  # by the one that runs, it may be
        check_ports(listeners(settings.server))


def supervise(
    settings: Settings, runtime: TritonRuntime, run: RunDirectory, observer: Observer, stop: StopSignal
) -> int:
    """Run the server's processes until asked to stop; returns the exit status. The run directory must be claimed.

    Raises CommandError when the models cannot be placed, a process dies or is not ready in time; nothing runs any more
    then.
    """
    shm_prefix = f"gptoss_{secrets.token_hex(4)}_"
    keeper = _StateKeeper(run, shm_prefix, observer)
    try:
        placing = place(settings, child_environment(run.config))
        specs = processes(settings, runtime, run, placing=placing, shm_prefix=shm_prefix)
        Supervisor(
            specs,
            keeper,
            stop,
            startup_timeout_s=settings.server.startup_timeout_s,
            shutdown_timeout_s=settings.server.shutdown_timeout_s,
            hang_timeout_s=settings.server.hang_timeout_s,
            housekeeping=lambda: bound_sizes(run.logs, settings.server.log_max_bytes),
        ).run()
    except CommandError as error:
        run.write_failure(str(error))
        raise
    finally:
        run.forget_state()
    return 0 if keeper.was_ready else INTERRUPTED


def _prepare(settings: Settings, run: RunDirectory, stop: StopSignal, console: Console) -> TritonRuntime:
    """See to all that can fail before a process is started."""
    left = end_leftovers(run)
    if left:
        console.print(f"ended {left} processes that an earlier server left behind", highlight=False)
    check_ports(listeners(settings.server))
    runtime = find_runtime()
    if sentence := exposure(settings.server, runtime):
        console.print(f"warning: {sentence}", highlight=False)
    run.write_config(settings)
    run.forget_failure()
    run.write_state(_first_state(Phase.PREPARING))
    try:
        ensure_checkpoints(settings, run, stop)
    except BaseException:
        run.forget_state()
        raise
    return runtime


def _first_state(phase: Phase, shm_prefix: str = "") -> RunState:
    return RunState(phase, ProcessRecord.of("supervisor", os.getpid()), started_at=time.time(), shm_prefix=shm_prefix)


def _display(settings: Settings, run: RunDirectory, console: Console, how_to_stop: str) -> Display:
    model = MODELS_BY_SHORT[settings.served_model]
    asks_for_key = settings.adapter.keys_path is not None
    is_open = not asks_for_key and not is_loopback(settings.server.host)
    addresses = Addresses.of(settings)
    lines = how_to_use(model, addresses, run.logs, how_to_stop, asks_for_key=asks_for_key, is_open=is_open)
    return Display(console, lines, triton_logs=triton_logs(run, settings))


class _StateKeeper:
    """Writes what the supervisor tells to the run directory, and passes it on."""

    def __init__(self, run: RunDirectory, shm_prefix: str, observer: Observer) -> None:
        self.was_ready = False
        self._run = run
        self._state = _first_state(Phase.STARTING, shm_prefix)
        self._observer = observer

    def started(self, processes: Sequence[ProcessRecord]) -> None:
        self._change(processes=tuple(processes))
        self._observer.started(processes)

    def waiting(self, awaited: Sequence[str], elapsed_s: float) -> None:
        if tuple(awaited) != self._state.awaited:
            self._change(awaited=tuple(awaited))
        self._observer.waiting(awaited, elapsed_s)

    def ready(self, elapsed_s: float) -> None:
        self.was_ready = True
        self._change(phase=Phase.READY, awaited=())
        self._observer.ready(elapsed_s)

    def died(self, death: Death, delay_s: float) -> None:
        earlier = (other for other in self._state.deaths if other.name != death.name)
        self._change(phase=Phase.RESTARTING, deaths=(*earlier, death))
        self._observer.died(death, delay_s)

    def recovered(self, elapsed_s: float) -> None:
        self._change(phase=Phase.READY, awaited=())
        self._observer.recovered(elapsed_s)

    def ending(self, name: str) -> None:
        self._change(phase=Phase.STOPPING)
        self._observer.ending(name)

    def _change(self, **changes: Any) -> None:  # noqa: ANN401 (what `replace` takes)
        self._state = replace(self._state, **changes)
        with contextlib.suppress(OSError):  # a full disk must not take the server down, nor keep it from ending
            self._run.write_state(self._state)


# --- in the background ----------------------------------------------------------------------------------------------


def _serve_in_background(run: RunDirectory, claim: int, display: Display, stop: StopSignal) -> int:
    """Start a supervisor that outlives this process and its terminal; return when its server is ready.

    The supervisor inherits the claim's descriptor, and with it the claim.
    """
    log = run.new_log("supervisor")
    with log.open("ab") as output:
        supervisor = subprocess.Popen(
            (sys.executable, "-m", "gptoss_client.detached"),
            env=child_environment(run.config),
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            pass_fds=(claim,),
            start_new_session=True,
        )
    with contextlib.closing(display):
        if _follow(supervisor, run, display, stop):
            return 0
    _forget_own_state(run)
    if stop.requested:
        return INTERRUPTED
    words = log.read_text(encoding="utf-8", errors="replace").strip()
    raise ProcessDiedError(failure_in(words) or f"the server's supervisor died ({supervisor.returncode}): {words}")


def _forget_own_state(run: RunDirectory) -> None:
    """Remove what this process said of itself, where its supervisor failed before it could say anything of its own."""
    state = run.read_state()
    if state and state.supervisor.pid == os.getpid():
        run.forget_state()


def _follow(supervisor: subprocess.Popen[bytes], run: RunDirectory, display: Display, stop: StopSignal) -> bool:
    """Show the start of a background server; returns whether it got ready. A stop asked for ends it."""
    started = time.monotonic()
    while supervisor.poll() is None:
        state = run.read_state()
        if stop.requested:
            supervisor.terminate()
        elif state and state.supervisor.pid == supervisor.pid:
            elapsed_s = time.monotonic() - started
            if state.phase is Phase.READY:
                display.ready(elapsed_s)
                return True
            if state.awaited:
                display.waiting(state.awaited, elapsed_s)
        time.sleep(_FOLLOW_PERIOD_S)
    return False
