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
from gptoss_client.addresses import Addresses, of_each_replica
from gptoss_client.launch import ADAPTER, TRITON, numbered
from gptoss_client.probing import probe
from gptoss_client.run_state import Death, Phase, RunDirectory, RunState

READY: Final = 0
NOT_READY: Final = 1
NOT_RUNNING: Final = 3  # as the init scripts of Linux have it


def report(run: RunDirectory) -> tuple[int, list[str]]:
    """Return an exit status and the lines to print. Probes every process; blocks for some seconds at most.

    A server of several replicas that answers with some of them counts as ready.
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
        killed = f"the server of {run.root} was killed; `{run.command('stop')}` ends what it left"
        return NOT_RUNNING, [killed, *_left(state)]
    if state.phase is Phase.PREPARING:
        return NOT_READY, [f"a server prepares its checkpoint (pid {state.supervisor.pid})"]
    return _running(run, state)


def _running(run: RunDirectory, state: RunState) -> tuple[int, list[str]]:
    settings = run.read_settings()
    of_tritons = [Addresses.of(one) for one in of_each_replica(settings)]
    health = {numbered(TRITON, number): probe(one.triton_ready) for number, one in enumerate(of_tritons)}
    num_ready = list(health.values()).count("ready")
    health[ADAPTER] = probe(of_tritons[0].adapter_ready)
    is_ready, phase = _judged(state.phase, num_ready, len(of_tritons), answers=health[ADAPTER] == "ready")
    width = max(map(len, ("supervisor   ", *health)))
    lines = [
        f"{_served(settings)}: {phase}, up {_duration(time.time() - state.started_at)}",
        *(f"  {record.name:<{width}} pid {record.pid:<8} {health.get(record.name, '')}" for record in state.processes),
        f"  {'supervisor':<{width}} pid {state.supervisor.pid}",
        *(f"  awaited: {sentence}" for sentence in state.awaited),
        *map(_told, state.deaths),
        f"  {'OpenAI API':<{width}} {of_tritons[0].api}",
        *(
            f"  {numbered('Triton', number):<{width}} {one.triton_grpc} (gRPC), {one.triton_http} (HTTP), {one.metrics}"
            for number, one in enumerate(of_tritons)
        ),
        *(f"  {model + ' weights':<{width}} {settings.checkpoints[model]}" for model in settings.served_models),
        f"  {'logs':<{width}} {run.logs}",
    ]
    return READY if is_ready else NOT_READY, lines


def _judged(phase: Phase, num_ready: int, num_replicas: int, *, answers: bool) -> tuple[bool, str]:
    """Return whether a chat sent now is answered, as far as this can tell, and how the server is in words."""
    if phase is Phase.READY and answers and num_ready == num_replicas:
        return True, phase
    if phase in (Phase.READY, Phase.RESTARTING) and answers and 0 < num_ready < num_replicas:
        return True, f"degraded, {num_ready} of {num_replicas} replicas are ready"
    return False, "not ready" if phase is Phase.READY else phase


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
