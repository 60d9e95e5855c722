"""What does not die but stops, fills up, floods or leaves: the server says so, bears it, and loses nothing.

Sends signals only to what its own servers started.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import pairwise
from pathlib import Path
from statistics import median
from typing import Self

import httpx
import psutil
import pytest
import yaml

from support import live_server
from support.live_server import LiveServer, wait_until
from support.victims import (
    ENDLESS,
    Stream,
    adapter,
    answers,
    generation_stub,
    num_deaths_of,
    state_of,
    tritonserver,
)

HANG_TIMEOUT_S = 8.0
TOLD_BY_HEALTH_WITHIN_S = 5.0
# until the first bad answer, the limit, the last question
REPLACED_WITHIN_S = HANG_TIMEOUT_S + 15.0
NUM_LEAVING = 300
NUM_FLOOD = 2_000
NUM_ROWS, NUM_QUEUE = 8, 32
TAKEN = (NUM_QUEUE, 0, 0)  # of each flood: the rows are taken, and after the first the queue is, too
LEAK_PER_REQUEST = 16 * 1024  # bytes
SPEED_KEPT = 0.8
RESPONSE = {"model": "gpt-oss", "input": "a", "max_output_tokens": 16}


# --- stopped, not dead ----------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def victim(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Iterator[LiveServer]:
    environment = {"GPTOSS_SERVER__HANG_TIMEOUT_S": str(HANG_TIMEOUT_S)}
    with running(tmp_path_factory.mktemp("run"), checkpoint, environment) as server:
        yield server


@contextmanager
def running(
    run_dir: Path, checkpoint: Path, environment: dict[str, str], wrapper: tuple[str, ...] = ()
) -> Iterator[LiveServer]:
    server = live_server.start(run_dir, checkpoint, environment=environment, wrapper=wrapper)
    try:
        yield server
    finally:
        status, output = live_server.stop(server)
    assert status == 0, output


def health(server: LiveServer) -> httpx.Response:
    return httpx.get(f"{server.url}/health", timeout=10.0)


def test_stop_when_the_stub_stands_still_for_10_s_then_health_says_so_and_streams_go_on(victim: LiveServer) -> None:
    stream = Stream(victim)
    stream.wait_for_lines(20)
    stub = generation_stub(victim)
    os.kill(stub, signal.SIGSTOP)
    stopped_at = time.monotonic()
    try:
        wait_until(lambda: health(victim).status_code == 503, timeout_s=TOLD_BY_HEALTH_WITHIN_S, period_s=0.2)
        document = health(victim).json()
        ready = httpx.get(f"{victim.url}/health/ready", timeout=10.0)
        time.sleep(max(0.0, stopped_at + 10.0 - time.monotonic()))
        before = stream.num_lines
    finally:
        os.kill(stub, signal.SIGCONT)

    assert document["status"] == "stuck"
    assert [sentence.split()[0] for sentence in document["stuck"]] == ["gpt_oss_demo_0_0"]
    assert (ready.status_code, ready.json()["status"]) == (503, "stuck")
    stream.wait_for_lines(20)
    assert stream.num_lines > before
    wait_until(lambda: health(victim).status_code == 200)
    assert num_deaths_of(victim) == 0
    stream.leave()


@pytest.mark.parametrize("find", [generation_stub, adapter, tritonserver])
def test_stop_when_one_stands_still_for_good_then_it_is_replaced(
    victim: LiveServer, find: Callable[[LiveServer], int]
) -> None:
    wait_until(lambda: answers(victim), timeout_s=30.0)
    num_deaths = num_deaths_of(victim)
    stream = Stream(victim)
    stream.wait_for_lines(20)

    os.kill(find(victim), signal.SIGSTOP)
    wait_until(lambda: num_deaths_of(victim) > num_deaths, timeout_s=REPLACED_WITHIN_S, period_s=0.1)
    stream.join()
    wait_until(lambda: answers(victim), timeout_s=40.0, period_s=0.2)

    assert num_deaths_of(victim) == num_deaths + 1
    last = state_of(victim).deaths[-1]
    name = "adapter" if find is adapter else "tritonserver"
    assert last.name == name
    assert last.reason.startswith(f"{name} hangs: ")


# --- clients by the hundred -----------------------------------------------------------------------------------------


def num_fds_of(server: LiveServer) -> dict[str, int]:
    roles = {"adapter": adapter, "tritonserver": tritonserver, "stub": generation_stub}
    return {name: psutil.Process(find(server)).num_fds() for name, find in roles.items()}


def leave_mid_stream(server: LiveServer, count: int) -> None:
    """Open streams all at once, read the beginning of each, and go away without a word."""
    request = httpx.Request("POST", f"{server.url}/v1/chat/completions", json=ENDLESS)
    head = "POST /v1/chat/completions HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: "
    sockets = [socket.create_connection(("127.0.0.1", server.port), timeout=60.0) for _ in range(count)]
    for one in sockets:
        one.sendall(f"{head}{len(request.content)}\r\n\r\n".encode() + request.content)
    running = sockets[: min(count // 4, 48)]  # the others still wait for a row when they leave
    for one in running:
        assert one.recv(1024).startswith(b"HTTP/1.1 200")
    for one in sockets:
        one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        one.close()


def is_idle(server: LiveServer) -> bool:
    names = ("num_requests_running", "num_requests_waiting", "kv_cache_blocks_used")
    held = sum(server.triton_metric(f"gptoss_engine_{name}") for name in names)
    return held == 0 and health(server).json()["requests_under_way"] == 0


def test_streams_when_clients_vanish_by_the_hundred_then_nothing_of_them_is_left(server: LiveServer) -> None:
    leave_mid_stream(server, NUM_LEAVING // 3)  # pools and caches take their size
    wait_until(lambda: is_idle(server), timeout_s=30.0)
    before = num_fds_of(server)

    leave_mid_stream(server, NUM_LEAVING)
    wait_until(lambda: is_idle(server), timeout_s=30.0)

    # gRPC may keep a channel more or less open
    wait_until(lambda: all(after <= before[name] + 3 for name, after in num_fds_of(server).items()))
    assert answers(server)


@pytest.mark.timed
def test_flood_when_2000_requests_come_at_once_then_each_is_answered_or_refused_and_streams_run_on(
    tmp_path: Path, checkpoint: Path, record_property: Callable[[str, object], None]
) -> None:
    environment = {
        "GPTOSS_ENGINE__NUM_THREADS": "1",  # the other core is the adapter's, and the flood's
        "GPTOSS_ENGINE__MAX_NUM_SEQS": str(NUM_ROWS),
        "GPTOSS_PROFILES__BALANCED__MAX_NUM_SEQS": str(NUM_ROWS),
        "GPTOSS_ENGINE__MAX_QUEUE": str(NUM_QUEUE),
    }
    with running(tmp_path, checkpoint, environment) as server, ExitStack() as stack:
        floods = [stack.enter_context(Flood(server)) for _ in TAKEN]
        streams = [Stream(server) for _ in range(NUM_ROWS)]
        wait_until(lambda: all(stream.num_lines > 5 for stream in streams), timeout_s=30.0)
        calm = [speed_of_streams(server, lambda: time.sleep(3.0))]
        speeds, memory = [], []
        for flood, taken in zip(floods, TAKEN, strict=True):
            speeds.append(speed_of_streams(server, partial(flood.run_until_refused, NUM_FLOOD - taken)))
            memory.append(memory_of(server))
        calm.append(speed_of_streams(server, lambda: time.sleep(3.0)))
        for stream in streams:
            assert stream.ended_at == 0.0, stream.last_line
            stream.leave()
        outcomes = [flood.outcomes() for flood in floods]
        assert num_deaths_of(server) == 0

    record_property("speed", f"{calm} tokens/s, in the floods {speeds}")
    record_property("memory", memory)
    for taken, outcome in zip(TAKEN, outcomes, strict=True):
        answered = {"200": taken} if taken else {}
        refused = NUM_FLOOD - taken
        assert outcome == answered | {"429": refused, "retry-after": refused}
    # A leak or a queue shows in each flood. By chance an allocator splits another arena during one of them, and the
    # machine itself is now faster, now slower.
    for name in memory[0]:
        growths = [after[name] - before[name] for before, after in pairwise(memory)]
        assert min(growths) < LEAK_PER_REQUEST * NUM_FLOOD, memory
    assert median(speeds) > min(calm) * SPEED_KEPT, (calm, speeds)


class Flood:
    """Clients that ask all at once, in a process of their own. None is left at the end of its `with`."""

    def __init__(self, server: LiveServer) -> None:
        self._server = server
        self._process: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *fault: object) -> None:
        if self._process is not None and self._process.poll() is None:
            self._process.kill()
            self._process.communicate()

    def run_until_refused(self, count: int) -> None:
        """Begin, and wait until so many were refused."""
        before = self._num_refused()
        command = (sys.executable, "-m", "support.flood", str(self._server.port), str(NUM_FLOOD))
        environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[1])}
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, env=environment)
        wait_until(lambda: self._num_refused() >= before + count, timeout_s=90.0, period_s=0.5)

    def outcomes(self) -> dict[str, int]:
        """Wait for the last answer; returns how many were answered with which status."""
        assert self._process is not None
        output, _ = self._process.communicate(timeout=60.0)
        outcomes: dict[str, int] = json.loads(output)
        return outcomes

    def _num_refused(self) -> float:
        # this question stands in line with the flood
        page = httpx.get(f"{self._server.url}/metrics", timeout=60.0).text
        return live_server.metric_in(page, "gptoss_http_responses_total", status="429")


def speed_of_streams(server: LiveServer, meanwhile: Callable[[], None]) -> float:
    """Return the tokens/s of the streams that hold all rows: nobody else gets one.

    Per second in which the engine's thread had a processor or did not want one. On a machine of two cores the flood,
    its refusal and the engine share them, and what the engine loses to that depends on the cores; what it would lose
    to locks, queues or a longer batch is the server's fault, and shows.
    """

    def sample() -> tuple[float, float]:
        waited_s = seconds_without_processor(generation_stub(server))
        return server.triton_metric("gptoss_engine_generation_tokens_total"), time.monotonic() - waited_s

    tokens_before, started = sample()
    meanwhile()
    tokens_after, ended = sample()
    return (tokens_after - tokens_before) / (ended - started)


def seconds_without_processor(pid: int) -> float:
    """Return for how long the process's busiest thread was ready to run and did not get to."""
    tasks = Path(f"/proc/{pid}/task").iterdir()
    busiest = max([int(number) for number in (task / "schedstat").read_text().split()] for task in tasks)
    return busiest[1] / 1e9  # time on a processor, time in line for one, turns


def memory_of(server: LiveServer) -> dict[str, int]:
    roles = {"adapter": adapter, "tritonserver": tritonserver, "stub": generation_stub}
    return {name: psutil.Process(find(server)).memory_info().rss for name, find in roles.items()}


# --- the machine it shares ------------------------------------------------------------------------------------------


def test_serve_when_another_server_has_the_ports_and_auto_port_then_both_answer(
    server: LiveServer, tmp_path: Path, checkpoint: Path
) -> None:
    run_dir = tmp_path / "run"
    options = ("--model", "demo", "--checkpoint", str(checkpoint), "--run-dir", str(run_dir))
    command = (str(live_server.GPTOSS), "serve", "--detach", "--auto-port", "--port", str(server.port), *options)
    started = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    try:
        assert started.returncode == 0, started.stdout + started.stderr
        port = yaml.safe_load((run_dir / "config.yaml").read_text())["server"]["port"]
        assert port not in range(server.port, server.port + 4)
        assert f"http://127.0.0.1:{port}/v1" in started.stdout
        for url in (server.url, f"http://127.0.0.1:{port}"):
            body = ENDLESS | {"max_tokens": 4, "stream": False}
            assert httpx.post(f"{url}/v1/chat/completions", json=body, timeout=30.0).status_code == 200
    finally:
        stop = (str(live_server.GPTOSS), "stop", "--run-dir", str(run_dir))
        stopped = subprocess.run(stop, capture_output=True, text=True, timeout=60, check=False)
    assert stopped.returncode == 0, stopped.stdout + stopped.stderr
    assert answers(server)


def can_mount() -> bool:
    command = ("unshare", "--mount", "mount", "-t", "tmpfs", "-o", "size=64k", "none", "/mnt")
    tried = subprocess.run(command, capture_output=True, check=False)
    return tried.returncode == 0


def test_serve_when_the_disk_is_full_then_it_goes_on_answering_and_ends_in_order(
    tmp_path: Path, checkpoint: Path
) -> None:
    if not can_mount():
        pytest.skip("this machine does not let us mount a small disk")
    run_dir = tmp_path / "run"
    run_dir.mkdir()
    # a disk of its own for logs, state and kept answers, seen by the server alone and gone with it
    mount = f'mount -t tmpfs -o size=2m none "{run_dir}" && exec "$@"'
    wrapper = ("unshare", "--mount", "sh", "-c", mount, "sh")
    with running(run_dir, checkpoint, {}, wrapper) as server:
        disk = Path(f"/proc/{server.process.pid}/root{run_dir}")
        fill(disk / "ballast")
        for number in range(20):
            body = ENDLESS | {"max_tokens": 4 + number, "stream": number % 2 == 0}
            assert httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=30.0).status_code == 200
        unkept = httpx.post(f"{server.url}/v1/responses", json=RESPONSE, timeout=60.0)
        assert unkept.status_code == 200
        assert unkept.json()["store"] is False
        assert httpx.post(f"{server.url}/v1/chat/completions", json={}, timeout=30.0).status_code == 400
        assert health(server).status_code == 200
        assert os.statvfs(disk).f_bavail == 0


def fill(ballast: Path) -> None:
    """Write until not a byte more fits."""
    with ballast.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            return
