"""Processes of a running server are killed: nobody hangs, and it answers again without a hand.

Kills only what its own server started.
"""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import pytest

from gptoss_client.run_state import Phase
from support import live_server
from support.live_server import LiveServer, wait_until
from support.victims import Stream, adapter, answers, generation_stub, num_deaths_of, state_of, tritonserver

NUM_STREAMS = 20
NOTICED_WITHIN_S = 4.0
TOLD_WITHIN_S = 8.0
ANSWERS_AGAIN_WITHIN_S = 60.0  # 6 on a quiet machine; beside two busy loops 34


@pytest.fixture(scope="module")
def victim(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Iterator[LiveServer]:
    server = live_server.start(tmp_path_factory.mktemp("run"), checkpoint)
    yield server
    status, output = live_server.stop(server)
    assert status == 0, output


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
def test_kill_when_20_streams_are_running_then_all_end_and_the_server_answers_again(
    victim: LiveServer, find: Callable[[LiveServer], int], record_property: Callable[[str, object], None]
) -> None:
    num_deaths = num_deaths_of(victim)
    streams = [Stream(victim) for _ in range(NUM_STREAMS)]
    for stream in streams:
        wait_until(lambda stream=stream: stream.num_lines > 5, timeout_s=30.0)  # type: ignore[misc]
    before = {record.name: record.pid for record in state_of(victim).processes}

    killed_at = kill(find(victim))
    noticed_s = seconds_to_notice(victim, killed_at, num_deaths)
    told_s = max(stream.join() for stream in streams) - killed_at
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
    for stream in streams:
        assert (stream.failure is not None) if find is adapter else ('"error"' in stream.last_line), stream.last_line


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
