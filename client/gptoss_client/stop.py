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

from gptoss_client.launch import remove_shared_memory
from gptoss_client.process_group import ProcessRecord, kill_group
from gptoss_client.run_state import RunDirectory

_TICK_S: Final = 0.1
_MARGIN_S: Final = 15.0


def stop_server(run: RunDirectory, shutdown_timeout_s: float) -> bool:
    """End the server of a run directory and wait until it is gone; returns whether there was anything to end.

    shutdown_timeout_s: what its supervisor grants to each of its two processes.
    """
    state = run.read_state()
    if state is None:
        return False
    supervised = _end_supervisor(state.supervisor, timeout_s=2 * shutdown_timeout_s + _MARGIN_S)
    return bool(end_leftovers(run)) or supervised


def end_leftovers(run: RunDirectory) -> int:
    """Kill what a supervisor that died left running, remove its traces, and return how many processes there were.

    The supervisor must not run any more.
    """
    state = run.read_state()
    if state is None:
        return 0
    num_ended = sum(kill_group(process) for process in state.processes)
    if state.shm_prefix:
        remove_shared_memory(state.shm_prefix)
    run.forget_state()
    return num_ended


def _end_supervisor(record: ProcessRecord, timeout_s: float) -> bool:
    supervisor = record.find()
    if supervisor is None:
        return False
    with contextlib.suppress(psutil.Error):
        supervisor.terminate()
    deadline = time.monotonic() + timeout_s
    while record.find() and time.monotonic() < deadline:
        time.sleep(_TICK_S)
    with contextlib.suppress(psutil.Error):
        supervisor.kill()
    return True
