"""tritonserver: its command, what its log tells, what it leaves behind.

Stage: start of a server.
Owns: tritonserver's flags, which of its APIs are closed; how its log is read.
Does not know: how processes are started or watched, the adapter.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import Final

from gptoss_backend.contract import PREPROCESS
from gptoss_backend.host_port import bracketed
from gptoss_backend.loopback import is_loopback
from gptoss_backend.model_names import MODELS_BY_SHORT
from gptoss_backend.settings import ServerSettings, Settings
from gptoss_client.logs import tail
from gptoss_client.triton_runtime import TritonRuntime

API_KEY_HEADER: Final = "gptoss-key"

_SHARED_MEMORY: Final = Path("/dev/shm")
# A container's /dev/shm is 64 MB unless asked for; tensors here are token ids and text. A region grows when it must.
_SHM_REGION_BYTES: Final = 1024 * 1024
# Triton counts its own timeout down in steps of a second, and is to be done before it is killed.
_EXIT_MARGIN_S: Final = 2
# an exception of `initialize`; its class, which is ours, says nothing to a person
_LOAD_FAILURE: Final = re.compile(r"UNAVAILABLE state: Internal: (?:\w+: )?(.+)")
_LAYER: Final = re.compile(r"layer (\d+) of (\d+) loaded")
_WAITING: Final = re.compile(r"has waited (\d+) s for ranks")
# what a client of our models has no use for and could take the server over with: a loaded model may bring code,
# regions lead into the memory that server and stubs share, the other two name files to write
_CLOSED_APIS: Final = ("model-repository", "shared-memory", "trace", "logging")


def triton_command(
    settings: Settings,
    runtime: TritonRuntime,
    *,
    config_name: str | None,
    shm_prefix: str,
    api_key: str | None = None,
    num_cards: int = 0,
) -> tuple[str, ...]:
    """Return tritonserver's command.

    config_name: which variant of the models' configs; None: config.pbtxt itself.
    api_key: what opens the APIs that are closed to clients; None: one that nobody is told.
    num_cards: how many GPUs it sees.
    """
    server = settings.server
    # its HTTP server, libevhtp, is told of the family in front of the address, and knows no brackets
    http_host = f"ipv6:{server.triton_host}" if ":" in server.triton_host else server.triton_host
    return (
        str(runtime.binary),
        f"--model-repository={server.model_repository}",
        "--model-control-mode=explicit",
        *(f"--load-model={name}" for name in (PREPROCESS, *_with_ensembles(settings))),
        "--disable-auto-complete-config",
        *([f"--model-config-name={config_name}"] if config_name else []),
        *([f"--backend-directory={runtime.backend_directory}"] if runtime.backend_directory else []),
        f"--backend-config=python,shm-default-byte-size={_SHM_REGION_BYTES}",
        f"--backend-config=python,shm-growth-byte-size={_SHM_REGION_BYTES}",
        f"--backend-config=python,shm-region-prefix-name={shm_prefix}",
        *_memory_flags(num_cards),
        *_cache_flags(server, runtime),
        *_restriction_flags(api_key or secrets.token_hex(16)),
        f"--grpc-address={bracketed(server.triton_host)}",
        f"--grpc-port={server.grpc_port}",
        f"--http-address={http_host}",
        f"--http-port={server.http_port}",
        f"--metrics-address={http_host}",
        f"--metrics-port={server.metrics_port}",
        "--metrics-config=histogram_latencies=true",
        *([] if server.gpu_metrics else ["--allow-gpu-metrics=false"]),
        f"--exit-timeout-secs={max(1, int(server.shutdown_timeout_s) - _EXIT_MARGIN_S)}",
    )


def _with_ensembles(settings: Settings) -> Iterator[str]:
    for model in (MODELS_BY_SHORT[short] for short in settings.served_models):
        yield from (model.triton, model.ensemble)


def _memory_flags(num_cards: int) -> list[str]:
    """Return what leaves the cards to the engines: Triton would take 64 MB of each, and 256 MB of pinned memory.

    All our tensors are on the host.
    """
    pools = [f"--cuda-memory-pool-byte-size={card}:0" for card in range(num_cards)]
    return ["--pinned-memory-pool-byte-size=0", *pools] if pools else []


def _cache_flags(server: ServerSettings, runtime: TritonRuntime) -> list[str]:
    if not server.response_cache_bytes:
        return []
    folder = [f"--cache-directory={runtime.cache_directory}"] if runtime.cache_directory else []
    return [f"--cache-config=local,size={server.response_cache_bytes}", *folder]


def _restriction_flags(api_key: str) -> list[str]:
    """Return what closes those APIs, on loopback too: any page in a browser of this machine can send a POST there."""
    closed = f"{','.join(_CLOSED_APIS)}:{API_KEY_HEADER}={api_key}"
    return [f"--http-restricted-api={closed}", f"--grpc-restricted-protocol={closed}"]


def exposure(server: ServerSettings, runtime: TritonRuntime) -> str | None:
    """Return what to say where a tritonserver with known holes listens to the network; None where there is no such."""
    if is_loopback(server.triton_host) or not runtime.is_of_wheel:
        return None
    return (
        "the wheel's tritonserver (24.10) has the holes of NVIDIA's advisories of 2025, which 25.07 closed, and "
        f"listens on {server.triton_host} (server.triton_host): let only the adapter reach it, or use NVIDIA's image"
    )


def load_failure(log: Path) -> str | None:
    """Return the sentence with which a model's stub refused to start, as Triton repeats it in its log."""
    sentences = [sentence for line in tail(log) if (sentence := load_failure_in(line))]
    return sentences[-1] if sentences else None


def load_failure_in(line: str) -> str | None:
    """Return that sentence of a line of Triton's, where it tells of such a failure."""
    found = _LOAD_FAILURE.search(line)
    return found[1] if found else None


def loaded_layers(triton_log: Path) -> tuple[int, int]:
    """Return how many layers the engine has read, and of how many; (0, 0) where the log does not tell."""
    found = [match for line in tail(triton_log) if (match := _LAYER.search(line))]
    return (int(found[-1][1]), int(found[-1][2])) if found else (0, 0)


def start_progress(triton_log: Path) -> object:
    """Return what differs while a start gets on: layers are read, or the engine says again that it waits for ranks.

    How long it may wait for those is placement.meeting_timeout_s, no start that hangs.
    """
    waited = [match[1] for line in tail(triton_log) if (match := _WAITING.search(line))]
    return loaded_layers(triton_log), waited[-1:]


def remove_shared_memory(prefix: str, folder: Path = _SHARED_MEMORY) -> None:
    """Remove the regions that killed stubs have left behind."""
    for region in folder.glob(f"{prefix}*"):
        region.unlink(missing_ok=True)
