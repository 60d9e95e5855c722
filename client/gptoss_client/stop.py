"""`gptoss stop`: ends a server from another terminal, and what is left of one whose supervisor died.

Stage: end of a server.
Owns: what to do when the supervisor does not answer any more.
Does not know: how a supervisor ends its processes.
"""

from __future__ import annotations

import contextlib
import time
from typing import Final

import psutil

from gptoss_backend.settings import ServerSettings
from gptoss_client.errors import CommandError, RunningError
from gptoss_client.process_group import ProcessRecord, kill_group
from gptoss_client.run_state import RunDirectory
from gptoss_client.triton_command import remove_shared_memory

_TICK_S: Final = 0.1
_MARGIN_S: Final = 15.0
_KILL_TIMEOUT_S: Final = 5.0
# whoever follows the start of a server in the background lets go of its directory some moments after its end
_CLAIM_PATIENCE_S: Final = 2.0


def stop_server(run: RunDirectory) -> bool:
    """End the server of a run directory and wait until it is gone; returns whether there was anything to end.

    Raises CommandError where it may not be ended, or does not end.
    """
    state = run.read_state()
    if state is None:
        return False
    # what its supervisor grants to each of its two processes
    supervised = _end_supervisor(state.supervisor, timeout_s=2 * _shutdown_timeout_s(run) + _MARGIN_S)
    try:
        with run.claim(_CLAIM_PATIENCE_S):
            return bool(end_leftovers(run)) or supervised
    except RunningError:  # by a new server, which has ended what this one left
        return supervised


def end_leftovers(run: RunDirectory) -> int:
    """Kill what a supervisor that died left running, remove its traces, and return how many processes there were.

    The directory must be claimed. Raises CommandError where something runs on: then its traces stay, too.
    """
    state = run.read_state()
    if state is None:
        return 0
    if state.supervisor.find():  # it would start again what is killed here
        raise _unending(state.supervisor)
    num_ended = sum(kill_group(process) for process in state.processes)
    for record in state.processes:
        if record.find():
            raise _unending(record)
    if state.shm_prefix:
        remove_shared_memory(state.shm_prefix)
    run.forget_state()
    return num_ended


def _end_supervisor(record: ProcessRecord, timeout_s: float) -> bool:
    supervisor = record.find()
    if supervisor is None:
        return False
    try:
        with contextlib.suppress(psutil.NoSuchProcess):
            supervisor.terminate()
            _wait_for_end(record, timeout_s)
            supervisor.kill()
            _wait_for_end(record, _KILL_TIMEOUT_S)
    except psutil.AccessDenied as error:
        raise _unending(record) from error
    return True


def _wait_for_end(record: ProcessRecord, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while record.find() and time.monotonic() < deadline:
        time.sleep(_TICK_S)


def _shutdown_timeout_s(run: RunDirectory) -> float:
    try:
        return run.read_settings().server.shutdown_timeout_s
    except CommandError:  # unreadable settings are a reason more to end it
        return ServerSettings().shutdown_timeout_s


def _unending(record: ProcessRecord) -> CommandError:
    try:
        owner = psutil.Process(record.pid).username()
    except psutil.Error:
        owner = "unknown"
    who = f"{record.name} (pid {record.pid}, of user {owner})"
    return CommandError(f"cannot end {who}: where that is not you, stop the server as that user")
