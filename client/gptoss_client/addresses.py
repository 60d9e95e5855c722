"""Where a server is reached from this machine, and the ports that takes.

Stage: start of a server, and every command that asks one.
Owns: which ports a server needs; the addresses at which its processes answer.
Does not know: what listens there, who asks.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from gptoss_backend.host_port import host_port
from gptoss_backend.settings import NUM_TRITON_PORTS, ServerSettings, Settings
from gptoss_client.errors import PortError
from gptoss_client.ports import Listener, is_free

_LAST_PORT: Final = 65535
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


def of_each_replica(settings: Settings) -> tuple[Settings, ...]:
    """Return the settings as each tritonserver has them, in their order; what they share is as it was."""
    server = settings.server
    return tuple(
        settings.model_copy(update={"server": server.of_replica(number)}) for number in range(server.num_tritonservers)
    )


def listeners(server: ServerSettings) -> tuple[Listener, ...]:
    """Return the ports a server needs."""
    api = Listener("the OpenAI API", server.host, server.port, "stop what listens there, or choose another --port")
    of_replicas = (_of_triton(server.of_replica(number), number) for number in range(server.num_tritonservers))
    return (api, *(listener for of_one in of_replicas for listener in of_one))


def _of_triton(server: ServerSettings, number: int) -> Iterator[Listener]:
    whose = "Triton's" if number == 0 else f"Triton {number}'s"
    ports = {"gRPC": server.grpc_port, "metrics": server.metrics_port, "HTTP": server.http_port}
    for purpose, port in ports.items():
        remedy = f"choose another --port, or set server.triton_{purpose.lower()}_port"
        yield Listener(f"{whose} {purpose}", server.triton_host, port, remedy)


def on_free_ports(settings: Settings) -> Settings:
    """Return the settings with the next ports in a row, from `server.port` on, that all can be had.

    Four, and three more for each further replica. Raises PortError where there are none up to the last port, or a host
    has none at all.
    """
    server = settings.server
    hosts = (server.host, *[server.triton_host] * (NUM_TRITON_PORTS * server.num_tritonservers))
    for first in range(server.port, _LAST_PORT - len(hosts) + 2):
        if all(is_free(host, first + offset) for offset, host in enumerate(hosts)):
            names = ("port", "triton_grpc_port", "triton_metrics_port", "triton_http_port")
            ports = {name: first + offset for offset, name in enumerate(names)}  # the further replicas' follow
            return settings.model_copy(update={"server": server.model_copy(update=ports)})
    raise PortError(f"there are no {len(hosts)} free ports in a row from {server.port} on: choose another --port")


def _reachable(host: str, port: int) -> str:
    return host_port(_ANY_ADDRESS.get(host, host), port)
