"""Hosts with a tritonserver each, and one for the adapter: network namespaces of this machine on one bridge."""

from __future__ import annotations

import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import pytest

from gptoss_backend.environment import child_environment
from gptoss_backend.settings import Settings
from gptoss_backend.settings_sources import load_settings
from gptoss_client.triton_command import remove_shared_memory, triton_command
from gptoss_client.triton_runtime import find_runtime
from support.live_server import metric_in, wait_until

NETWORK = f"10.213.{secrets.randbelow(254)}"
"""Another one in each run: the bridge of a run that was killed would stand in the way of the next."""
START_TIMEOUT_S = 120.0
SERVICE = "gptoss-triton"
"""The name that stands for all replicas, as a headless Service's does."""


@dataclass
class Host:
    """One host. What was started on it ends with it."""

    number: int
    namespace: str
    folder: Path
    process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"{NETWORK}.{self.number}"

    @property
    def grpc(self) -> str:
        return f"{self.address}:8001"

    def run(self, command: tuple[str, ...], environment: dict[str, str]) -> None:
        with (self.folder / f"{self.number}.log").open("ab") as log:
            self.process = subprocess.Popen(
                ("ip", "netns", "exec", self.namespace, *command),
                env=environment,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def kill(self) -> None:
        """End all of its processes at once, without a word."""
        if self.process is not None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()
            self.process = None

    def metric(self, name: str, **labels: str) -> float:
        """Return a value of its tritonserver's metrics page."""
        page = httpx.get(f"http://{self.address}:8002/metrics", trust_env=False, timeout=10.0).text
        return metric_in(page, name, **labels)


@dataclass
class TritonHosts:
    """The hosts, and the name service that tells the adapter of them."""

    folder: Path
    settings: Settings
    replicas: list[Host]
    adapter: Host
    shm_prefix: str = field(default_factory=lambda: f"gptoss_{secrets.token_hex(4)}_")

    @property
    def url(self) -> str:
        return f"http://{self.adapter.address}:8000"

    def begin(self, *hosts: Host) -> None:
        """Start tritonservers and wait until they have loaded their models."""
        runtime, environment = find_runtime(), child_environment(self._config())
        for host in hosts:
            prefix = f"{self.shm_prefix}{host.number}_"
            command = triton_command(self.settings, runtime, config_name="cpu", shm_prefix=prefix)
            host.run(command, runtime.environment(environment))
        for host in hosts:
            wait_until(lambda host=host: _answers(f"http://{host.address}:8003/v2/health/ready"), START_TIMEOUT_S, 0.1)

    def begin_adapter(self) -> None:
        """Start the adapter and wait until it lives."""
        self.adapter.run((sys.executable, "-m", "gptoss_adapter"), child_environment(self._config()))
        wait_until(lambda: _answers(f"{self.url}/health/live"), START_TIMEOUT_S, 0.1)

    def name(self, *hosts: Host) -> None:
        """Let the service's name stand for these hosts from now on."""
        lines = [f"{host.address} {SERVICE}\n" for host in hosts]
        _hosts_file(self.adapter).write_text("127.0.0.1 localhost\n" + "".join(lines), encoding="utf-8")

    def _config(self) -> Path:
        config = self.folder / "settings.yaml"
        config.write_text(self.settings.dump_yaml(), encoding="utf-8")
        return config


def _answers(url: str) -> bool:
    try:
        return httpx.get(url, trust_env=False, timeout=2.0).status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False


def _hosts_file(host: Host) -> Path:
    return Path("/etc/netns") / host.namespace / "hosts"


@contextmanager
def triton_hosts(folder: Path, checkpoint: Path, num_replicas: int) -> Iterator[TritonHosts]:
    """Make the hosts, nothing started on them; skips the test where the machine gives no network namespaces."""
    name = secrets.token_hex(3)
    hosts = [Host(number, f"gptoss-{name}-{number}", folder) for number in range(10, 11 + num_replicas)]
    overrides = {
        "model": "demo",
        "checkpoints": {"demo": str(checkpoint)},
        "server": {
            "host": "0.0.0.0",
            "triton_host": "0.0.0.0",
            "triton_replicas": [f"dns:///{SERVICE}:8001"],
            "run_dir": str(folder),
        },
        "engine": {"num_threads": 1, "kv_cache_bytes": 64 * 1024 * 1024},
    }
    made = TritonHosts(folder, load_settings(overrides, environ={}), hosts[1:], hosts[0])
    try:
        for command in _network(f"gpb{name}", hosts):
            done = subprocess.run(command.split(), capture_output=True, text=True, check=False)
            if done.returncode:
                pytest.skip(f"this machine gives no network namespaces: {done.stderr.strip()}")
        _hosts_file(made.adapter).parent.mkdir(parents=True)
        made.name()
        yield made
    finally:
        for host in hosts:
            host.kill()
            subprocess.run(["ip", "netns", "del", host.namespace], capture_output=True, check=False)
        subprocess.run(["ip", "link", "del", f"gpb{name}"], capture_output=True, check=False)
        _hosts_file(made.adapter).unlink(missing_ok=True)
        if _hosts_file(made.adapter).parent.exists():
            _hosts_file(made.adapter).parent.rmdir()
        remove_shared_memory(made.shm_prefix)


def _network(bridge: str, hosts: list[Host]) -> Iterator[str]:
    """Yield the commands that join the hosts and this machine by a bridge."""
    yield f"ip link add {bridge} type bridge"
    yield f"ip addr add {NETWORK}.1/24 dev {bridge}"
    yield f"ip link set {bridge} up"
    for host in hosts:
        cable = f"{bridge}{host.number}"
        yield f"ip netns add {host.namespace}"
        yield f"ip link add {cable} type veth peer name eth0 netns {host.namespace}"
        yield f"ip link set {cable} master {bridge} up"
        yield f"ip -n {host.namespace} addr add {host.address}/24 dev eth0"
        yield f"ip -n {host.namespace} link set eth0 up"
        yield f"ip -n {host.namespace} link set lo up"
