"""Where a server is reached from this machine, and the ports that takes.

Stage: start of a server, and every command that asks one.
Owns: which ports a server needs; the addresses at which its processes answer.
Does not know: what listens there, who asks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from gptoss_backend.settings import ServerSettings, Settings
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


def _reachable(host: str, port: int) -> str:
    address = _ANY_ADDRESS.get(host, host)
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
