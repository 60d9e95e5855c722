"""`python -m gptoss_adapter` as a process of its own, without a Triton."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from support.live_app import chat_body


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def start(**settings: object) -> subprocess.Popen[str]:
    environment = {name: text for name, text in os.environ.items() if not name.startswith("GPTOSS_")}
    environment |= {f"GPTOSS_{name}": str(value) for name, value in settings.items()}
    command = [sys.executable, "-m", "gptoss_adapter"]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


@pytest.fixture
def process() -> Iterator[tuple[subprocess.Popen[str], str]]:
    port = free_port()
    process = start(MODEL="demo", SERVER__PORT=port, SERVER__TRITON_GRPC_PORT=free_port())
    url = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + 30
    while True:
        try:
            httpx.get(f"{url}/health/live")
            break
        except httpx.TransportError:
            assert process.poll() is None, process.communicate()[1]
            assert time.monotonic() < deadline
            time.sleep(0.05)
    yield process, url
    process.kill()
    process.communicate()


def test_process_when_triton_is_not_there_then_it_answers_503(process: tuple[subprocess.Popen[str], str]) -> None:
    _, url = process
    health = httpx.get(f"{url}/health")
    assert health.status_code == 503
    assert health.json()["triton"]["missing"] == ["tritonserver", "preprocess", "gpt_oss_demo"]
    for streamed in (False, True):
        response = httpx.post(f"{url}/v1/chat/completions", json=chat_body(stream=streamed))
        assert response.status_code == 503
        assert response.json()["error"]["code"] == "service_unavailable"
        assert "server" not in response.headers


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_process_when_told_to_end_then_it_exits_0_and_its_log_carries_request_ids(
    process: tuple[subprocess.Popen[str], str], number: signal.Signals
) -> None:
    running, url = process
    httpx.get(f"{url}/v1/models", headers={"X-Request-Id": "mine"})
    running.send_signal(number)
    _, log = running.communicate(timeout=10)
    assert running.returncode == 0, log
    assert " INFO mine gptoss_adapter.edge: GET /v1/models 200 duration_ms=" in log
    assert "Traceback" not in log


def test_process_when_running_then_it_holds_no_torch(process: tuple[subprocess.Popen[str], str]) -> None:
    maps = Path(f"/proc/{process[0].pid}/maps")
    if not maps.exists():
        pytest.skip("no /proc here")
    assert "libtorch" not in maps.read_text()


def test_process_when_a_setting_is_unknown_then_it_ends_with_a_sentence() -> None:
    process = start(ADAPTER__SPEED="high")
    _, log = process.communicate(timeout=30)
    assert process.returncode == 1
    assert log == "gptoss_adapter: adapter.speed: no such setting\n"
