"""What a server is made of: its two processes, their commands, and how to ask whether they are ready.

Stage: start of a server.
Owns: tritonserver's flags, the adapter's command, the addresses at which both are reached from this machine.
Does not know: how processes are started, watched or ended.
"""

from __future__ import annotations

import ipaddress
import re
import secrets
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import httpx

from gptoss_backend.contract import PREPROCESS
from gptoss_backend.environment import child_environment
from gptoss_backend.model_names import MODELS_BY_SHORT, ModelName
from gptoss_backend.settings import ServerSettings, Settings
from gptoss_client.errors import PortError
from gptoss_client.liveness import adapter_hang, triton_hang
from gptoss_client.logs import tail
from gptoss_client.ports import Listener, is_free
from gptoss_client.process import ProcessSpec
from gptoss_client.run_state import RunDirectory
from gptoss_client.triton_runtime import TritonRuntime

TRITON: Final = "tritonserver"
TRITON_LOG: Final = "triton"
ADAPTER: Final = "adapter"

_SHARED_MEMORY: Final = Path("/dev/shm")
# A container's /dev/shm is 64 MB unless asked for; tensors here are token ids and text. A region grows when it must.
_SHM_REGION_BYTES: Final = 1024 * 1024
# Triton counts its own timeout down in steps of a second, and is to be done before it is killed.
_EXIT_MARGIN_S: Final = 2
# an exception of `initialize`; its class, which is ours, says nothing to a person
_LOAD_FAILURE: Final = re.compile(r"UNAVAILABLE state: Internal: (?:\w+: )?(.+)")
_LAYER: Final = re.compile(r"layer (\d+) of (\d+) loaded")
_LAST_PORT: Final = 65535
API_KEY_HEADER: Final = "gptoss-key"
# what a client of our models has no use for and could take the server over with: a loaded model may bring code,
# regions lead into the memory that server and stubs share, the other two name files to write
_CLOSED_APIS: Final = ("model-repository", "shared-memory", "trace", "logging")
_PROBE_TIMEOUT_S: Final = 2.0
_ANY_ADDRESS: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}


@dataclass(frozen=True, slots=True)
class Addresses:
    """Where a server is reached from this machine."""

    api: str
    page: str | None
    triton_grpc: str
    triton_http: str
    metrics: str
    triton_ready: str
    adapter_ready: str
    adapter_live: str

    @classmethod
    def of(cls, settings: Settings) -> Addresses:
        """Derive them from where the processes listen."""
        server = settings.server
        scheme = "https" if settings.adapter.tls_certificate is not None else "http"
        api = f"{scheme}://{_reachable(server.host, server.port)}"
        triton_http = f"http://{_reachable(server.triton_host, server.http_port)}"
        return cls(
            api=f"{api}/v1",
            page=f"{api}/" if settings.adapter.page else None,
            triton_grpc=_reachable(server.triton_host, server.grpc_port),
            triton_http=triton_http,
            metrics=f"http://{_reachable(server.triton_host, server.metrics_port)}/metrics",
            triton_ready=f"{triton_http}/v2/health/ready",
            adapter_ready=f"{api}/health",
            adapter_live=f"{api}/health/live",
        )


def listeners(server: ServerSettings) -> tuple[Listener, ...]:
    """Return the ports a server needs."""

    def triton(purpose: str, port: int, setting: str) -> Listener:
        return Listener(purpose, server.triton_host, port, f"choose another --port, or set server.{setting}")

    return (
        Listener("the OpenAI API", server.host, server.port, "stop what listens there, or choose another --port"),
        triton("Triton's gRPC", server.grpc_port, "triton_grpc_port"),
        triton("Triton's metrics", server.metrics_port, "triton_metrics_port"),
        triton("Triton's HTTP", server.http_port, "triton_http_port"),
    )


def on_free_ports(settings: Settings) -> Settings:
    """Return the settings with the next four ports in a row, from `server.port` on, that all can be had.

    Raises PortError where there are none up to the last port, or a host has none at all.
    """
    server = settings.server
    hosts = (server.host, server.triton_host, server.triton_host, server.triton_host)
    for first in range(server.port, _LAST_PORT - len(hosts) + 2):
        if all(is_free(host, first + offset) for offset, host in enumerate(hosts)):
            names = ("port", "triton_grpc_port", "triton_metrics_port", "triton_http_port")
            ports = {name: first + offset for offset, name in enumerate(names)}
            return settings.model_copy(update={"server": server.model_copy(update=ports)})
    raise PortError(f"there are no {len(hosts)} free ports in a row from {server.port} on: choose another --port")


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
            awaited=f"loads {', '.join(model.triton for model in _served(settings))}",
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


def triton_command(
    settings: Settings, runtime: TritonRuntime, *, config_name: str | None, shm_prefix: str, api_key: str | None = None
) -> tuple[str, ...]:
    """Return tritonserver's command.

    config_name: which variant of the models' configs; None: config.pbtxt itself.
    api_key: what opens the APIs that are closed to clients; None: one that nobody is told.
    """
    server = settings.server
    return (
        str(runtime.binary),
        f"--model-repository={server.model_repository}",
        "--model-control-mode=explicit",
        *(f"--load-model={name}" for name in (PREPROCESS, *_with_ensembles(_served(settings)))),
        "--disable-auto-complete-config",
        *([f"--model-config-name={config_name}"] if config_name else []),
        *([f"--backend-directory={runtime.backend_directory}"] if runtime.backend_directory else []),
        f"--backend-config=python,shm-default-byte-size={_SHM_REGION_BYTES}",
        f"--backend-config=python,shm-growth-byte-size={_SHM_REGION_BYTES}",
        f"--backend-config=python,shm-region-prefix-name={shm_prefix}",
        *_cache_flags(server, runtime),
        *_restriction_flags(api_key or secrets.token_hex(16)),
        f"--grpc-address={server.triton_host}",
        f"--grpc-port={server.grpc_port}",
        f"--http-address={server.triton_host}",
        f"--http-port={server.http_port}",
        f"--metrics-address={server.triton_host}",
        f"--metrics-port={server.metrics_port}",
        "--metrics-config=histogram_latencies=true",
        f"--exit-timeout-secs={max(1, int(server.shutdown_timeout_s) - _EXIT_MARGIN_S)}",
    )


def http_probe(url: str) -> Callable[[], bool]:
    """Return a question that is answered yes when `url` answers 200."""
    return lambda: probe(url) == "ready"


def probe(url: str) -> str:
    """Ask once and return "ready" or what is the matter, for people. Blocks for two seconds at most."""
    try:
        # neither proxies nor certificates: it is this machine that is asked, by an address no certificate names
        with httpx.Client(trust_env=False, verify=False, timeout=_PROBE_TIMEOUT_S) as client:
            status = client.get(url).status_code
    except httpx.TimeoutException:
        return "does not answer in time"
    except httpx.HTTPError:
        return "does not answer"
    return "ready" if status == httpx.codes.OK else f"not ready (HTTP {status})"


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


def remove_shared_memory(prefix: str, folder: Path = _SHARED_MEMORY) -> None:
    """Remove the regions that killed stubs have left behind."""
    for region in folder.glob(f"{prefix}*"):
        region.unlink(missing_ok=True)


def _served(settings: Settings) -> list[ModelName]:
    return [MODELS_BY_SHORT[model] for model in settings.served_models]


def _with_ensembles(models: list[ModelName]) -> Iterator[str]:
    for model in models:
        yield from (model.triton, model.ensemble)


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


def is_loopback(host: str) -> bool:
    """Tell whether only this machine reaches who listens there."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def _reachable(host: str, port: int) -> str:
    address = _ANY_ADDRESS.get(host, host)
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
