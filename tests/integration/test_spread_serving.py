"""A model spread over processes and hosts, behind the real server. The hosts are network namespaces of this machine."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from support import live_server
from support.live_server import GPTOSS, LiveServer, wait_until

CHAT = {"model": "gpt-oss-demo", "messages": [{"role": "user", "content": "count"}], "temperature": 0, "max_tokens": 24}
FLOAT32 = {"GPTOSS_ENGINE__DTYPE": "float32", "GPTOSS_ENGINE__CPU_KERNELS": "torch"}
TWO_RANKS = {"GPTOSS_PLACEMENT__NUM_DEVICES": "2", **FLOAT32}
FIRST_HOST = "10.213.7.1"


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> str:
    """What the same model says on one device."""
    server = live_server.start(tmp_path_factory.mktemp("run"), checkpoint, environment=FLOAT32)
    try:
        return said(httpx.post(f"{server.url}/v1/chat/completions", json=CHAT, timeout=60.0).json())
    finally:
        live_server.stop(server)


@pytest.fixture
def tensor_server(tmp_path: Path, checkpoint: Path) -> Iterator[LiveServer]:
    environment = TWO_RANKS | {"GPTOSS_PLACEMENT__MODE": "tensor"}
    server = live_server.start(tmp_path / "run", checkpoint, environment=environment)
    yield server
    status, output = live_server.stop(server)
    assert status == 0, output


def said(answer: dict[str, object]) -> str:
    message = answer["choices"][0]["message"]  # type: ignore[index]
    return f"{message.get('reasoning')}|{message['content']}"


def rank_of(server: LiveServer) -> psutil.Process:
    """Return the process of the rank that is not the engine's."""
    return next(child for child in psutil.Process(server.process.pid).children(recursive=True) if is_rank(child))


def is_rank(process: psutil.Process) -> bool:
    try:
        return "gptoss_backend.engine.placement.worker" in process.cmdline()
    except psutil.Error:
        return False


def test_spread_server_when_a_rank_is_killed_then_clients_are_told_and_it_answers_again(
    tensor_server: LiveServer, expected: str
) -> None:
    url = f"{tensor_server.url}/v1/chat/completions"
    assert said(httpx.post(url, json=CHAT, timeout=60.0).json()) == expected
    endless = CHAT | {"max_tokens": 50_000, "ignore_eos": True, "stream": True}
    first = rank_of(tensor_server)
    with httpx.stream("POST", url, json=endless, timeout=30.0) as answer:
        lines = answer.iter_lines()
        next(lines)
        os.kill(first.pid, signal.SIGKILL)
        told = [line for line in lines if "error" in line]
    assert "server_error" in told[-1]
    log = tensor_server.run_dir / "logs" / "triton.log"
    assert "rank 1 of 2 died of signal 9" in log.read_text(encoding="utf-8", errors="replace")

    def answers() -> bool:
        with contextlib.suppress(httpx.HTTPError, KeyError):
            return said(httpx.post(url, json=CHAT, timeout=10.0).json()) == expected
        return False

    wait_until(answers, timeout_s=90.0, period_s=0.5)
    assert rank_of(tensor_server).pid != first.pid
    assert not first.is_running()


def test_spread_engines_when_a_rank_of_one_is_killed_then_the_other_answers_meanwhile(
    tmp_path: Path, checkpoint: Path, expected: str
) -> None:
    environment = TWO_RANKS | {"GPTOSS_PLACEMENT__MODE": "pipeline"}
    server = live_server.start(tmp_path / "run", checkpoint, environment=environment, num_replicas=2)
    try:
        os.kill(rank_of(server).pid, signal.SIGKILL)
        for _ in range(3):
            answer = httpx.post(f"{server.url}/v1/chat/completions", json=CHAT, timeout=10.0).raise_for_status()
            assert said(answer.json()) == expected
    finally:
        status, output = live_server.stop(server)
    assert status == 0, output


@pytest.fixture
def two_hosts() -> Iterator[tuple[str, str]]:
    """Two network namespaces joined by a cable."""
    names = tuple(f"gptoss-{secrets.token_hex(3)}" for _ in range(2))
    cable = [f"gp{name[-6:]}" for name in names]
    commands = [
        *(f"ip netns add {name}" for name in names),
        f"ip link add {cable[0]} type veth peer name {cable[1]}",
        *(f"ip link set {end} netns {name}" for end, name in zip(cable, names, strict=True)),
        *(
            f"ip -n {name} addr add 10.213.7.{n}/24 dev {end}"
            for n, (end, name) in enumerate(zip(cable, names, strict=True), 1)
        ),
        *(f"ip -n {name} link set {end} up" for end, name in zip(cable, names, strict=True)),
        *(f"ip -n {name} link set lo up" for name in names),
    ]
    try:
        for command in commands:
            done = subprocess.run(command.split(), capture_output=True, text=True, check=False)
            if done.returncode:
                pytest.skip(f"this machine gives no network namespaces: {done.stderr.strip()}")
        yield names
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


@pytest.mark.parametrize("mode", ["tensor", "pipeline"])
def test_spread_server_when_its_ranks_are_on_two_hosts_then_it_answers_as_on_one(
    mode: str, two_hosts: tuple[str, str], tmp_path: Path, checkpoint: Path, expected: str
) -> None:
    environment = (
        os.environ
        | TWO_RANKS
        | {
            "GPTOSS_PLACEMENT__MODE": mode,
            "GPTOSS_PLACEMENT__NUM_NODES": "2",
            "GPTOSS_PLACEMENT__RENDEZVOUS": f"{FIRST_HOST}:29611",
            "GPTOSS_PLACEMENT__SECRET": secrets.token_hex(8),
        }
    )
    first, second = two_hosts
    common = ("--model", "demo", "--checkpoint", str(checkpoint))
    serve = [*on(first), str(GPTOSS), "serve", *common, "--run-dir", str(tmp_path / "run"), "--detach"]
    join = [*on(second), str(GPTOSS), "join", *common, "--node-rank", "1"]
    joined = subprocess.Popen(join, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    try:
        started = subprocess.run(serve, env=environment, capture_output=True, text=True, timeout=150.0, check=False)
        assert started.returncode == 0, started.stdout + started.stderr
        program = (
            "import httpx, json, sys; url = 'http://127.0.0.1:8000/v1/chat/completions'; "
            "print(httpx.post(url, json=json.loads(sys.argv[1]), timeout=60).text)"
        )
        asked = [*on(first), sys.executable, "-c", program, json.dumps(CHAT)]
        answer = subprocess.run(asked, capture_output=True, text=True, timeout=90.0, check=True)
        assert said(json.loads(answer.stdout)) == expected
    finally:
        stop = [*on(first), str(GPTOSS), "stop", "--run-dir", str(tmp_path / "run")]
        subprocess.run(stop, capture_output=True, timeout=60.0, check=False)
        joined.send_signal(signal.SIGINT)
        output, _ = joined.communicate(timeout=30.0)
    assert joined.returncode == 0
    assert "the engine is gone" in output


def on(host: str) -> list[str]:
    return ["ip", "netns", "exec", host]
