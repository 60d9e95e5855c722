"""The whole server as a user starts it: `gptoss serve`, real tritonserver, real adapter, real sockets."""

from __future__ import annotations

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import httpx

from gptoss_backend.environment import ENV_PREFIX
from gptoss_client.run_state import Phase, RunDirectory

GPTOSS = Path(sys.executable).with_name("gptoss")
START_TIMEOUT_S = 180.0
NOTICE_TIMEOUT_S = 3.0


def free_ports(count: int = 4) -> int:
    """Return the first of `count` consecutive ports that nobody listens on."""
    # below 32768, where the system begins to take ports for outgoing connections; far from those of a run beside this
    for first in range(20000 + os.getpid() % 12 * 1000, 32768 - count, 4):
        if all(_is_free(port) for port in range(first, first + count)):
            return first
    raise RuntimeError("no free ports")


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        return probe.connect_ex(("127.0.0.1", port)) != 0


@dataclass(frozen=True, slots=True)
class LiveServer:
    """A running server."""

    process: subprocess.Popen[str]
    port: int
    run_dir: Path

    @property
    def url(self) -> str:
        """Of the adapter."""
        return f"http://127.0.0.1:{self.port}"

    @property
    def grpc(self) -> str:
        """Of tritonserver."""
        return f"127.0.0.1:{self.port + 1}"

    def triton_metric(self, name: str, *, of_replica: int = 0, **labels: str) -> float:
        """Return a value of a Triton's metrics page, summed over the series that carry `labels`; 0 without any."""
        page = httpx.get(f"http://127.0.0.1:{self.port + 2 + 3 * of_replica}/metrics").text
        return metric_in(page, name, **labels)

    def metric(self, name: str, **labels: str) -> float:
        """Return a value of the adapter's metrics page."""
        return metric_in(httpx.get(f"{self.url}/metrics").text, name, **labels)


def metric_in(page: str, name: str, **labels: str) -> float:
    """Sum the series of `name` that carry `labels` on a Prometheus page."""
    wanted = {f'{key}="{value}"' for key, value in labels.items()}
    total = 0.0
    for match in re.finditer(rf"^{name}(?:{{(.*)}})? (\S+)$", page, re.MULTILINE):
        if wanted <= set((match[1] or "").split(",")):
            total += float(match[2])
    return total


def start(
    run_dir: Path,
    checkpoint: Path | None,
    *options: str,
    model: str = "demo",
    environment: dict[str, str] | None = None,
    wrapper: Sequence[str] = (),
    num_replicas: int = 1,
) -> LiveServer:
    """Start a server and wait until it answers, with all its replicas; the caller ends it with `stop`.

    checkpoint: None: as configured. wrapper: a command that becomes the one that follows it.
    """
    port = free_ports(1 + 3 * num_replicas)
    inherited = {name: value for name, value in os.environ.items() if not name.startswith(ENV_PREFIX)}
    if num_replicas > 1:
        inherited["GPTOSS_SERVER__NUM_REPLICAS"] = str(num_replicas)
    command = [
        *(*wrapper, str(GPTOSS), "serve", "--model", model, "--port", str(port), "--run-dir", str(run_dir)),
        *(("--checkpoint", str(checkpoint)) if checkpoint else ()),
        *options,
    ]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=inherited | (environment or {})
    )
    server = LiveServer(process, port, run_dir)
    deadline = time.monotonic() + START_TIMEOUT_S
    while not answers(server):
        if process.poll() is not None or time.monotonic() > deadline:
            process.kill()
            raise RuntimeError(f"the server did not start:\n{process.communicate()[0]}")
        time.sleep(0.2)
    # ended before the supervisor has noticed, too, it would count as never ready; on a full disk it cannot say so
    noticed_by = time.monotonic() + NOTICE_TIMEOUT_S if num_replicas == 1 else deadline
    seen_dir = Path(f"/proc/{process.pid}/root{run_dir}")  # which a wrapper may have mounted for the server alone
    while not _is_ready(seen_dir) and time.monotonic() < noticed_by:
        time.sleep(0.05)
    return server


def stop(server: LiveServer) -> tuple[int, str]:
    """End a server as Ctrl-C does; returns its exit status and what it printed."""
    server.process.send_signal(signal.SIGINT)
    output, _ = server.process.communicate(timeout=60)
    return server.process.returncode, output


def wait_until(condition: Callable[[], bool], timeout_s: float = 10.0, period_s: float = 0.02) -> float:
    """Wait until `condition` holds and return the seconds it took; fails after `timeout_s`."""
    started = time.monotonic()
    while not condition():
        assert time.monotonic() - started < timeout_s, "waited in vain"
        time.sleep(period_s)
    return time.monotonic() - started


def _is_ready(run_dir: Path) -> bool:
    """Whether the supervisor says so."""
    state = RunDirectory(run_dir).read_state()
    return state is not None and state.phase is Phase.READY


def answers(server: LiveServer) -> bool:
    """Whether the adapter says that all is well."""
    try:
        return httpx.get(f"{server.url}/health", timeout=2.0).status_code == 200
    except httpx.HTTPError:
        return False
