"""`python -m gptoss_adapter` as a process of its own, without a Triton."""

from __future__ import annotations

import os
import signal
import socket
import ssl
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import httpx
import pytest

from gptoss_adapter.healthcheck import is_live
from gptoss_backend.settings_sources import load_settings
from gptoss_client.addresses import Addresses
from gptoss_client.keys import add_key
from gptoss_client.probing import probe
from support.fake_adapter import adapter_process
from support.live_app import chat_body
from support.ports import free_port


def start(**settings: object) -> subprocess.Popen[str]:
    environment = {name: text for name, text in os.environ.items() if not name.startswith("GPTOSS_")}
    environment |= {f"GPTOSS_{name}": str(value) for name, value in settings.items()}
    command = [sys.executable, "-m", "gptoss_adapter"]
    return subprocess.Popen(command, env=environment, stderr=subprocess.PIPE, text=True)


@pytest.fixture
def process() -> Iterator[tuple[subprocess.Popen[str], str]]:
    port = free_port()
    ports = {"SERVER__PORT": port, "SERVER__TRITON_GRPC_PORT": free_port()}
    process = start(MODEL="demo", ADAPTER__LOG_FORMAT="text", **ports)
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


def test_process_when_a_file_of_keys_or_a_certificate_is_not_there_then_it_ends_with_a_sentence(tmp_path: Path) -> None:
    for setting, sentence in (
        ({"ADAPTER__KEYS_PATH": tmp_path / "keys"}, f"cannot read the API keys of {tmp_path}/keys: No such file"),
        (
            {"ADAPTER__TLS_CERTIFICATE": tmp_path / "cert"},
            f"cannot take adapter.tls_certificate and adapter.tls_key ({tmp_path}",
        ),
    ):
        process = start(**setting)
        _, log = process.communicate(timeout=30)
        assert process.returncode == 1
        assert log.startswith(f"gptoss_adapter: {sentence}"), log


@pytest.mark.parametrize(
    ("host", "keys", "warned"), [("127.0.0.1", False, False), ("0.0.0.0", False, True), ("0.0.0.0", True, False)]
)
def test_process_when_the_network_reaches_it_without_keys_then_it_warns(
    tmp_path: Path, host: str, keys: bool, warned: bool
) -> None:
    settings: dict[str, object] = {"SERVER__HOST": host}
    if keys:
        add_key(tmp_path / "keys", "alice")
        settings["ADAPTER__KEYS_PATH"] = tmp_path / "keys"
    with adapter_process(**settings) as adapter:
        adapter.process.terminate()
        _, log = adapter.process.communicate(timeout=10)
    assert ("anyone who reaches 0.0.0.0 may use this server" in log) == warned


def test_process_when_a_shell_lets_it_open_few_files_then_it_takes_as_many_connections_as_it_may() -> None:
    with adapter_process(limits="ulimit -Sn 256") as adapter, ExitStack() as stack:
        address = ("127.0.0.1", adapter.port)
        connections = [stack.enter_context(socket.create_connection(address, timeout=10)) for _ in range(300)]
        for connection in connections:
            connection.sendall(b"GET /health/live HTTP/1.1\r\nHost: localhost\r\n\r\n")
        assert all(connection.recv(15) == b"HTTP/1.1 200 OK" for connection in connections)
        adapter.process.terminate()
        _, log = adapter.process.communicate(timeout=10)
    assert "files may be open" not in log


def test_process_when_it_may_never_open_as_many_files_as_full_engines_make_connections_then_it_warns_once() -> None:
    with adapter_process(limits="ulimit -n 1024") as adapter:
        adapter.process.terminate()
        _, log = adapter.process.communicate(timeout=10)
    assert log.count("no more than 1024 files may be open here") == 1
    assert "full engines make about 1216" in log


def test_process_when_its_container_is_asked_how_it_does_then_by_http_where_that_is_spoken() -> None:
    with adapter_process() as adapter:
        assert is_live(adapter.port)


def test_process_when_the_disk_of_its_log_is_full_then_it_answers_and_ends_well() -> None:
    with Path("/dev/full").open("w") as full, adapter_process(stderr=full) as adapter:
        for _ in range(3):
            assert httpx.post(f"{adapter.url}/v1/chat/completions", json=chat_body()).status_code == 200
        adapter.process.terminate()
        assert adapter.process.wait(timeout=10) == 0


def test_process_when_it_has_a_certificate_then_it_speaks_https_and_the_probe_takes_it_for_ready(
    tmp_path: Path,
) -> None:
    certificate, key = tmp_path / "cert.pem", tmp_path / "key.pem"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    make = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", *subject]
    subprocess.run([*make, "-keyout", key, "-out", certificate], check=True, capture_output=True)
    settings = {"ADAPTER__TLS_CERTIFICATE": certificate, "ADAPTER__TLS_KEY": key}
    with adapter_process(scheme="https", **settings) as adapter:
        trust = ssl.create_default_context(cafile=certificate)
        response = httpx.post(f"{adapter.url}/v1/chat/completions", json=chat_body(stream=True), verify=trust)
        server = {"port": adapter.port}
        sections = {"server": server, "adapter": {"tls_certificate": str(certificate), "tls_key": str(key)}}
        addresses = Addresses.of(load_settings(sections, environ={}))
        assert probe(addresses.adapter_ready) == "ready"
        assert is_live(adapter.port)
    assert not is_live(adapter.port)
    assert response.text.endswith("data: [DONE]\n\n")
    assert addresses.api == f"{adapter.url}/v1"
