"""Processes of a running server are killed: nobody hangs, and it answers again without a hand.

Kills only what its own server started.
"""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import psutil
import pytest

from gptoss_client.run_state import Phase, RunDirectory, RunState
from support import live_server
from support.live_server import LiveServer, wait_until

CHAT = {"model": "gpt-oss-demo", "messages": [{"role": "user", "content": "count"}], "ignore_eos": True}
ENDLESS = CHAT | {"max_tokens": 50_000, "stream": True}
NOTICED_WITHIN_S = 2.0
TOLD_WITHIN_S = 5.0
ANSWERS_AGAIN_WITHIN_S = 20.0


@pytest.fixture(scope="module")
def victim(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Iterator[LiveServer]:
    server = live_server.start(tmp_path_factory.mktemp("run"), checkpoint)
    yield server
    status, output = live_server.stop(server)
    assert status == 0, output


class Stream:
    """A client that reads a long answer in a thread of its own until it ends, however it ends."""

    def __init__(self, server: LiveServer) -> None:
        self.lines: list[str] = []
        self.failure: httpx.HTTPError | None = None
        self.ended_at = 0.0
        self._url = f"{server.url}/v1/chat/completions"
        self._thread = threading.Thread(target=self._read, name="client")
        self._thread.start()
        wait_until(lambda: len(self.lines) > 20)

    def join(self) -> float:
        """Wait until the answer has ended and return when."""
        self._thread.join(timeout=30.0)
        assert not self._thread.is_alive(), "the client still waits"
        return self.ended_at

    def _read(self) -> None:
        try:
            with httpx.stream("POST", self._url, json=ENDLESS, timeout=60.0) as answer:
                self.lines.extend(line for line in answer.iter_lines() if line)
        except httpx.HTTPError as failure:
            self.failure = failure
        self.ended_at = time.monotonic()


def state_of(server: LiveServer) -> RunState:
    state = RunDirectory(server.run_dir).read_state()
    assert state is not None
    return state


def num_deaths_of(server: LiveServer) -> int:
    return sum(death.count for death in state_of(server).deaths)


def pid_of(server: LiveServer, name: str) -> int:
    return next(record.pid for record in state_of(server).processes if record.name == name)


def tritonserver(server: LiveServer) -> int:
    return pid_of(server, "tritonserver")


def generation_stub(server: LiveServer) -> int:
    children = psutil.Process(tritonserver(server)).children()
    return next(child.pid for child in children if any("gpt_oss_demo" in word for word in child.cmdline()))


def adapter(server: LiveServer) -> int:
    return pid_of(server, "adapter")


def answers(server: LiveServer) -> bool:
    try:
        body = CHAT | {"max_tokens": 4}
        return httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=10.0).status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False


def kill(pid: int) -> float:
    """Kill a process and return when."""
    os.kill(pid, signal.SIGKILL)
    return time.monotonic()


def seconds_to_notice(server: LiveServer, killed_at: float, num_deaths: int) -> float:
    def noticed() -> bool:
        return num_deaths_of(server) > num_deaths

    wait_until(noticed, timeout_s=30.0, period_s=0.005)
    return time.monotonic() - killed_at


@pytest.mark.parametrize("find", [generation_stub, tritonserver, adapter])
def test_kill_when_a_stream_is_running_then_it_ends_and_the_server_answers_again(
    victim: LiveServer, find: Callable[[LiveServer], int], record_property: Callable[[str, object], None]
) -> None:
    num_deaths = num_deaths_of(victim)
    stream = Stream(victim)
    before = {record.name: record.pid for record in state_of(victim).processes}

    killed_at = kill(find(victim))
    noticed_s = seconds_to_notice(victim, killed_at, num_deaths)
    told_s = stream.join() - killed_at
    while not answers(victim):
        assert time.monotonic() - killed_at < ANSWERS_AGAIN_WITHIN_S, "it did not recover"
        time.sleep(0.1)
    answered_s = time.monotonic() - killed_at
    record_property("seconds", f"noticed {noticed_s:.2f}, told {told_s:.2f}, answered again {answered_s:.2f}")

    wait_until(lambda: state_of(victim).phase is Phase.READY)
    after = {record.name: record.pid for record in state_of(victim).processes}
    changed = {name for name in before if before[name] != after[name]}
    assert changed == ({"adapter"} if find is adapter else {"tritonserver"})
    assert noticed_s < NOTICED_WITHIN_S
    assert told_s < TOLD_WITHIN_S
    # an adapter that is gone cannot tell anything: its client sees the connection end
    assert (stream.failure is not None) if find is adapter else ('"error"' in stream.lines[-1]), stream.lines[-2:]


def test_kill_when_the_stub_is_gone_then_health_says_so_and_its_shared_memory_is_not_left(victim: LiveServer) -> None:
    regions = sorted(Path("/dev/shm").glob(f"{state_of(victim).shm_prefix}*"))
    inodes = {region.stat().st_ino for region in regions}
    assert regions
    num_deaths = num_deaths_of(victim)

    seconds_to_notice(victim, kill(generation_stub(victim)), num_deaths)
    wait_until(lambda: httpx.get(f"{victim.url}/health", timeout=10.0).status_code == httpx.codes.SERVICE_UNAVAILABLE)
    wait_until(lambda: state_of(victim).phase is Phase.READY, timeout_s=30.0)

    left = sorted(Path("/dev/shm").glob(f"{state_of(victim).shm_prefix}*"))
    assert len(left) == len(regions)
    assert not inodes & {region.stat().st_ino for region in left}
