"""`python -m support.fake_adapter`: the adapter's process as it is, but for a scripted model server behind it."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import httpx

from gptoss_adapter.__main__ import serve
from gptoss_backend.settings_sources import load_settings
from support.fake_model_server import FOREVER, HELLO, FakeModelServer, Pause
from support.ports import free_port

SCRIPTS = {
    "hello": HELLO,
    "slow": [*HELLO[:5], Pause(1.5), *HELLO[5:]],
    "endless": [*HELLO[:5], FOREVER],
    "flood": [HELLO[0], *(HELLO[1:-1] * 200_000)],
}
_TESTS = Path(__file__).parents[1]


@dataclass(frozen=True)
class FakeAdapter:
    """A running process."""

    process: subprocess.Popen[str]
    url: str
    port: int


@contextmanager
def adapter_process(
    script: str = "hello",
    *,
    stderr: int | IO[str] = subprocess.PIPE,
    scheme: str = "http",
    limits: str = "",
    **settings: object,
) -> Iterator[FakeAdapter]:
    """Run the process and wait until it answers. settings: as variables name them, without the prefix.

    limits: a shell's commands that bound it.
    """
    port = free_port()
    environment = {name: text for name, text in os.environ.items() if not name.startswith("GPTOSS_")}
    environment["PYTHONPATH"] = str(_TESTS)
    named = {"MODEL": "demo", "SERVER__PORT": port, "ADAPTER__LOG_FORMAT": "text"} | settings
    environment |= {f"GPTOSS_{name}": str(value) for name, value in named.items()}
    bounded = ["sh", "-c", f'{limits}; exec "$0" "$@"'] if limits else []
    command = [*bounded, sys.executable, "-m", "support.fake_adapter", script]
    process = subprocess.Popen(command, env=environment, stderr=stderr, text=True)
    adapter = FakeAdapter(process, f"{scheme}://127.0.0.1:{port}", port)
    try:
        _wait_for(adapter)
        yield adapter
    finally:
        process.kill()
        process.communicate()


def _wait_for(adapter: FakeAdapter) -> None:
    deadline = time.monotonic() + 30
    while True:
        try:
            httpx.get(f"{adapter.url}/health/live", verify=False, trust_env=False)
            return
        except httpx.TransportError:
            assert adapter.process.poll() is None, adapter.process.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.05)


if __name__ == "__main__":
    serve(load_settings(), FakeModelServer(script=SCRIPTS[sys.argv[1]]))
