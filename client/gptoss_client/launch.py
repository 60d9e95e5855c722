"""What a server is made of: its processes, in the order of their start.

Stage: start of a server.
Owns: what each process is asked, waited for and watched by.
Does not know: tritonserver's flags (triton_command.py), how processes are started, watched or ended.
"""

from __future__ import annotations

import sys
from typing import Final

from gptoss_backend.environment import child_environment
from gptoss_backend.model_names import MODELS_BY_SHORT
from gptoss_backend.settings import Settings
from gptoss_client.addresses import Addresses
from gptoss_client.liveness import adapter_hang, triton_hang
from gptoss_client.probing import http_probe
from gptoss_client.process import ProcessSpec
from gptoss_client.run_state import RunDirectory
from gptoss_client.triton_command import load_failure, loaded_layers, remove_shared_memory, triton_command
from gptoss_client.triton_runtime import TritonRuntime

TRITON: Final = "tritonserver"
TRITON_LOG: Final = "triton"
ADAPTER: Final = "adapter"


def processes(
    settings: Settings, runtime: TritonRuntime, run: RunDirectory, *, config_name: str | None, shm_prefix: str
) -> tuple[ProcessSpec, ...]:
    """Return the server's processes in the order of their start. Rotates their logs, makes a key for Triton's APIs."""
    addresses = Addresses.of(settings)
    environment, triton_log = child_environment(run.config), run.new_log(TRITON_LOG)
    return (
        ProcessSpec(
            name=TRITON,
            command=triton_command(
                settings, runtime, config_name=config_name, shm_prefix=shm_prefix, api_key=run.new_triton_key()
            ),
            environment=runtime.environment(environment),
            log=triton_log,
            awaited=f"loads {', '.join(MODELS_BY_SHORT[model].triton for model in settings.served_models)}",
            is_ready=http_probe(addresses.triton_ready),
            progress=lambda: loaded_layers(triton_log),
            needs_children=True,
            hang=triton_hang(addresses.metrics, settings.server.step_timeout_s),
            reason_in=load_failure,
            clean_up=lambda: remove_shared_memory(shm_prefix),
        ),
        ProcessSpec(
            name=ADAPTER,
            command=(sys.executable, "-m", "gptoss_adapter"),
            environment=environment,
            log=run.new_log("adapter"),
            awaited=f"waits for {TRITON}",
            is_ready=http_probe(addresses.adapter_ready),
            hang=adapter_hang(addresses.adapter_live),
        ),
    )
