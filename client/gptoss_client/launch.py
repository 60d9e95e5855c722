"""What a server is made of: its processes, in the order of their start.

Stage: start of a server.
Owns: what each process is asked, waited for and watched by.
Does not know: tritonserver's flags (triton_command.py), how processes are started, watched or ended.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Final

from gptoss_backend.environment import child_environment, show_cards
from gptoss_backend.model_names import MODELS_BY_SHORT
from gptoss_backend.settings import Settings
from gptoss_client.addresses import Addresses, of_each_replica
from gptoss_client.liveness import adapter_hang, triton_hang
from gptoss_client.placing import Placing
from gptoss_client.probing import http_probe
from gptoss_client.process import ProcessSpec
from gptoss_client.run_state import RunDirectory
from gptoss_client.triton_command import load_failure, remove_shared_memory, start_progress, triton_command
from gptoss_client.triton_runtime import TritonRuntime

TRITON: Final = "tritonserver"
TRITON_LOG: Final = "triton"
ADAPTER: Final = "adapter"


def numbered(name: str, number: int) -> str:
    """Return what tritonserver `number`, or what is its own, is called: the first as if it were the only one."""
    return f"{name}-{number}" if number else name


def triton_logs(run: RunDirectory, settings: Settings) -> tuple[Path, ...]:
    """Return the log of each tritonserver."""
    names = (numbered(TRITON_LOG, number) for number in range(settings.server.num_tritonservers))
    return tuple(run.logs / f"{name}.log" for name in names)


def processes(
    settings: Settings, runtime: TritonRuntime, run: RunDirectory, *, placing: Placing, shm_prefix: str
) -> tuple[ProcessSpec, ...]:
    """Return the server's processes in the order of their start: tritonservers, as many as the settings say, adapter.

    Rotates their logs, makes a key for Triton's APIs.
    """
    for former in list(run.logs.glob(f"{TRITON_LOG}-*.log")):
        run.new_log(former.stem)  # of a server that had more of them, whose last words are not this one's
    replicas, api_key = of_each_replica(settings), run.new_triton_key()
    tritons = []
    for number, of_replica in enumerate(replicas):
        # cleaning up after one must leave the others' regions
        prefix = f"{shm_prefix}{number}_" if len(replicas) > 1 else shm_prefix
        tritons.append(_tritonserver(number, of_replica, runtime, run, placing, api_key=api_key, shm_prefix=prefix))
    addresses = Addresses.of(settings)
    adapter = ProcessSpec(
        name=ADAPTER,
        command=(sys.executable, "-m", "gptoss_adapter"),
        environment=child_environment(run.config),
        log=run.new_log("adapter"),
        awaited=f"waits for {TRITON}",
        is_ready=http_probe(addresses.adapter_ready),
        lives_on=tuple(triton.name for triton in tritons),
        hang=adapter_hang(addresses.adapter_live),
    )
    return (*tritons, adapter)


def _tritonserver(
    number: int,
    settings: Settings,
    runtime: TritonRuntime,
    run: RunDirectory,
    placing: Placing,
    *,
    api_key: str,
    shm_prefix: str,
) -> ProcessSpec:
    """Return one of them. settings: as it has them."""
    addresses = Addresses.of(settings)
    environment, log = child_environment(run.config), run.new_log(numbered(TRITON_LOG, number))
    models = ", ".join(MODELS_BY_SHORT[model].triton for model in settings.served_models)
    if cards := placing.cards_of(number):
        show_cards(cards, environment)
    return ProcessSpec(
        name=numbered(TRITON, number),
        command=triton_command(
            settings,
            runtime,
            config_name=placing.variant,
            shm_prefix=shm_prefix,
            api_key=api_key,
            num_cards=placing.num_cards_of(number),
        ),
        environment=runtime.environment(environment),
        log=log,
        awaited=f"loads {models}" + (f", without {', '.join(placing.left_out)}" if placing.left_out else ""),
        is_ready=http_probe(addresses.triton_ready),
        progress=lambda: start_progress(log),
        needs_children=True,
        hang=triton_hang(addresses.metrics, settings.server.step_timeout_s),
        reason_in=load_failure,
        clean_up=lambda: remove_shared_memory(shm_prefix),
    )
