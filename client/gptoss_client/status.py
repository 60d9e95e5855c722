"""`gptoss status`: what runs from a run directory, and how it is.

Stage: any time.
Owns: the report and its exit statuses.
Does not know: more than the run directory and the processes themselves tell.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Final

from gptoss_backend.model_names import MODELS_BY_SHORT
from gptoss_backend.settings import Settings
from gptoss_client.addresses import Addresses
from gptoss_client.launch import ADAPTER, TRITON
from gptoss_client.probing import probe
from gptoss_client.run_state import Death, Phase, RunDirectory, RunState

READY: Final = 0
NOT_READY: Final = 1
NOT_RUNNING: Final = 3  # as the init scripts of Linux have it


def report(run: RunDirectory) -> tuple[int, list[str]]:
    """Return an exit status and the lines to print. Probes both processes; blocks for some seconds at most.

    Raises CommandError where the settings of the server cannot be read.
    """
    state = run.read_state()
    if state is None:
        failure = run.read_failure()
        return NOT_RUNNING, [
            f"no server runs from {run.root}",
            *([f"the last one failed: {failure}"] if failure else []),
        ]
    if state.supervisor.find() is None:
        return NOT_RUNNING, [f"the server of {run.root} was killed; `gptoss stop` ends what it left", *_left(state)]
    if state.phase is Phase.PREPARING:
        return NOT_READY, [f"a server prepares its checkpoint (pid {state.supervisor.pid})"]
    return _running(run, state)


def _running(run: RunDirectory, state: RunState) -> tuple[int, list[str]]:
    settings = run.read_settings()
    addresses = Addresses.of(settings)
    health = {TRITON: probe(addresses.triton_ready), ADAPTER: probe(addresses.adapter_ready)}
    is_ready = state.phase is Phase.READY and set(health.values()) == {"ready"}
    phase = state.phase if is_ready or state.phase is not Phase.READY else "not ready"
    lines = [
        f"{_served(settings)}: {phase}, up {_duration(time.time() - state.started_at)}",
        *(f"  {record.name:<13} pid {record.pid:<8} {health.get(record.name, '')}" for record in state.processes),
        f"  {'supervisor':<13} pid {state.supervisor.pid}",
        *(f"  awaited: {sentence}" for sentence in state.awaited),
        *map(_told, state.deaths),
        f"  OpenAI API    {addresses.api}",
        f"  Triton        {addresses.triton_grpc} (gRPC), {addresses.triton_http} (HTTP), {addresses.metrics}",
        f"  logs          {run.logs}",
    ]
    return READY if is_ready else NOT_READY, lines


def _served(settings: Settings) -> str:
    return ", ".join(
        f"{MODELS_BY_SHORT[model].openai} (profile {settings.profile_of(model)})" for model in settings.served_models
    )


def _told(death: Death) -> str:
    times = "once" if death.count == 1 else f"{death.count} times"
    return f"  started again {times}: {death.reason}, {_duration(time.time() - death.at)} ago"


def _left(state: RunState) -> Iterator[str]:
    for record in state.processes:
        if record.find():
            yield f"  {record.name:<13} pid {record.pid} still runs"


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    parts = (f"{hours} h" if hours else "", f"{minutes} min" if hours or minutes else "", f"{seconds} s")
    return " ".join(filter(None, parts))
