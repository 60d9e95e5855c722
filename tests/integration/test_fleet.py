"""One adapter over two real tritonservers, as `gptoss serve` starts them where there are several cards.

pytest -s shows the figures that the documentation quotes.
"""

from __future__ import annotations

import asyncio
import json
import os
import random
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator, Mapping
from dataclasses import dataclass
from itertools import count
from pathlib import Path

import httpx
import pytest

from gptoss_adapter import fleet
from gptoss_adapter.fleet import Fleet
from gptoss_adapter.fleet_addresses import ReplicaNames
from gptoss_adapter.fleet_affinity import ALWAYS_ALLOWED, MAX_OVER_MEAN
from gptoss_backend.contract import ChatMessage, ChatRequest, Finished, Role, SamplingParams
from gptoss_backend.model_names import MODELS_BY_SHORT
from gptoss_client.run_state import Phase
from support import live_server
from support.live_server import GPTOSS, LiveServer, wait_until
from support.victims import generation_stub, num_deaths_of, state_of

DEMO = MODELS_BY_SHORT["demo"]
ENDLESS = {"max_tokens": 4000, "ignore_eos": True, "temperature": 0}
NAMES = ("tritonserver", "tritonserver-1")
ANSWERED_WITHIN_S = 10.0
TOLD_WITHIN_S = 1.0
PASSED_OVER_WITHIN_S = 8.0
BACK_WITHIN_S = 60.0


@pytest.fixture(scope="module")
def replicas(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Iterator[LiveServer]:
    """A server of two, on a thread each."""
    environment = {"GPTOSS_ENGINE__KV_CACHE_BYTES": str(64 * 1024 * 1024)}
    run_dir = tmp_path_factory.mktemp("fleet")
    server = live_server.start(run_dir, checkpoint, environment=environment, num_replicas=2)
    shm_prefix = state_of(server).shm_prefix
    # which the adapter learns with the next of its questions
    wait_until(lambda: all(is_taken_up(server, address) for address in addresses_of(server)))
    yield server
    status, output = live_server.stop(server)
    assert status == 0, output
    assert output.endswith("stopping adapter\nstopping tritonserver-1\nstopping tritonserver\n")
    assert not list(Path("/dev/shm").glob(f"{shm_prefix}*"))


def addresses_of(server: LiveServer) -> list[str]:
    return [f"127.0.0.1:{server.port + 1}", f"127.0.0.1:{server.port + 4}"]


def is_taken_up(server: LiveServer, address: str) -> bool:
    return server.metric("gptoss_replica_ready", replica=address) == 1.0


def body(number: int, **more: object) -> dict[str, object]:
    return {"model": DEMO.openai, "messages": [{"role": "user", "content": f"conversation {number}"}], **more}


def client_of(server: LiveServer) -> httpx.AsyncClient:
    limits = httpx.Limits(max_connections=None)
    return httpx.AsyncClient(base_url=server.url, timeout=60.0, trust_env=False, limits=limits)


def rendered_by_each(server: LiveServer) -> list[float]:
    name = "nv_inference_request_success"
    return [server.triton_metric(name, of_replica=number, model="preprocess") for number in range(2)]


async def chunks(client: httpx.AsyncClient, number: int) -> AsyncIterator[dict[str, object]]:
    """Yield what a stream without an end says, an error too."""
    async with client.stream("POST", "/v1/chat/completions", json=body(number, stream=True, **ENDLESS)) as answer:
        async for line in answer.aiter_lines():
            if line.startswith("data: {"):
                yield json.loads(line.removeprefix("data: "))


def test_fleet_when_it_is_loaded_then_no_replica_has_more_than_its_bound(replicas: LiveServer) -> None:
    num_requests = 40
    before = rendered_by_each(replicas)

    async def load() -> list[httpx.Response]:
        async with client_of(replicas) as client:
            asked = [
                client.post("/v1/chat/completions", json=body(number, max_tokens=48, ignore_eos=True))
                for number in range(num_requests)
            ]
            return await asyncio.gather(*asked)

    assert [answer.status_code for answer in asyncio.run(load())] == [200] * num_requests
    bound = MAX_OVER_MEAN * num_requests / 2 + ALWAYS_ALLOWED
    submitted = [replicas.metric("gptoss_replica_requests_total", replica=one) for one in addresses_of(replicas)]
    prompts = [after - earlier for after, earlier in zip(rendered_by_each(replicas), before, strict=True)]
    print(f"generations {submitted}, prompts {prompts}")
    assert sum(submitted) == sum(prompts) == num_requests
    assert max(submitted) <= bound
    assert min(prompts) >= 6, "each chat where its hash says"


def test_conversations_when_they_go_on_then_they_find_their_prefix_far_more_often_than_in_turn(
    replicas: LiveServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_affinity = asyncio.run(go_on(replicas, "affinity"))
    turns = count()

    def in_turn(conversation: bytes, in_flight: Mapping[str, int]) -> str:
        return sorted(in_flight)[next(turns) % len(in_flight)]

    monkeypatch.setattr(fleet, "choose", in_turn)
    by_turns = asyncio.run(go_on(replicas, "turns"))
    print(f"by affinity {by_affinity}, in turn {by_turns}")
    assert by_affinity.refound > 0.9
    assert by_turns.refound < 0.8


@dataclass
class Found:
    """Tokens of the prompts of conversations that go on."""

    prompt: int = 0
    cached: int = 0
    said_before: int = 0
    cached_of_later_turns: int = 0

    @property
    def refound(self) -> float:
        """What a later turn finds cached, as a share of the conversation's prompt before it."""
        return self.cached_of_later_turns / self.said_before

    def __str__(self) -> str:
        return f"{self.cached / self.prompt:.1%} of all prompt tokens, {self.refound:.1%} of what was said before"


async def go_on(server: LiveServer, name: str, num_conversations: int = 12, num_turns: int = 4) -> Found:
    """Let conversations take their turns in a random order, one at a time."""
    words = random.Random(name)  # the same order, and other words, for each name
    order = random.Random(7)
    talks: list[list[ChatMessage]] = [[] for _ in range(num_conversations)]
    before = [0] * num_conversations
    found = Found()
    replicas = await Fleet.open(ReplicaNames(addresses_of(server)), [DEMO])
    try:
        for _ in range(num_turns):
            for one in order.sample(range(num_conversations), num_conversations):
                talks[one].append(ChatMessage(Role.USER, said(words)))
                finished = await answer(replicas, talks[one])
                talks[one].append(ChatMessage(Role.ASSISTANT, said(words)))
                found.prompt += finished.prompt_tokens
                found.cached += finished.cached_tokens
                found.said_before += before[one]
                found.cached_of_later_turns += finished.cached_tokens if before[one] else 0
                before[one] = finished.prompt_tokens
    finally:
        await replicas.close()
    return found


def said(words: random.Random) -> str:
    return " ".join(str(words.randrange(1000)) for _ in range(40))


async def answer(replicas: Fleet, talk: list[ChatMessage]) -> Finished:
    prompt = await replicas.preprocess(ChatRequest(messages=tuple(talk)), "fleet")
    stream = replicas.generate(DEMO, prompt, SamplingParams(max_tokens=2), "fleet")
    events = [step.event async for step in stream]
    (finished,) = (event for event in events if isinstance(event, Finished))
    return finished


def test_fleet_when_a_stub_stands_still_then_the_other_replica_has_all_that_is_new_and_health_names_it(
    replicas: LiveServer,
) -> None:
    fine, still = addresses_of(replicas)
    stub = generation_stub(replicas, NAMES[1])
    os.kill(stub, signal.SIGSTOP)
    try:
        seconds = wait_until(lambda: bool(stuck_of(replicas)[still]), timeout_s=PASSED_OVER_WITHIN_S)
        print(f"passed over after {seconds:.1f} s")
        [reason] = stuck_of(replicas)[still]
        before = replicas.metric("gptoss_replica_requests_total", replica=fine)
        for number in range(20):
            asked = httpx.post(f"{replicas.url}/v1/chat/completions", json=body(number, max_tokens=2), timeout=5.0)
            assert asked.status_code == 200
    finally:
        os.kill(stub, signal.SIGCONT)
    assert reason.startswith("gpt_oss_demo_0_0 has given no sign of life")
    assert replicas.metric("gptoss_replica_requests_total", replica=fine) == before + 20
    wait_until(lambda: not stuck_of(replicas)[still])


def stuck_of(server: LiveServer) -> dict[str, list[str]]:
    health = httpx.get(f"{server.url}/health", trust_env=False, timeout=10.0)
    assert health.status_code == 200
    return {one["address"]: one["stuck"] for one in health.json()["replicas"]}


def test_fleet_when_a_stub_is_killed_then_only_its_streams_fail_and_its_tritonserver_comes_back(
    replicas: LiveServer,
) -> None:
    before = {record.name: record.pid for record in state_of(replicas).processes}
    left, killed = addresses_of(replicas)
    failed, num_at_killed = asyncio.run(kill_under_load(replicas, killed))
    assert failed == num_at_killed > 0

    health = httpx.get(f"{replicas.url}/health", trust_env=False, timeout=10.0)
    assert health.status_code == 200
    assert {one["address"]: one["ready"] for one in health.json()["replicas"]} == {left: True, killed: False}
    status = gptoss(replicas, "status")
    assert status.returncode == 0
    assert "degraded, 1 of 2 replicas are ready" in status.stdout
    assert "started again once: tritonserver-1 " in status.stdout  # it is found dead, or to lack its stub

    seconds = wait_until(lambda: state_of(replicas).phase is Phase.READY, timeout_s=BACK_WITHIN_S)
    print(f"back after {seconds:.1f} s")
    after = {record.name: record.pid for record in state_of(replicas).processes}
    assert {name for name in before if before[name] != after[name]} == {"tritonserver-1"}
    wait_until(lambda: is_taken_up(replicas, killed))
    assert ": ready, up" in gptoss(replicas, "status").stdout


async def kill_under_load(server: LiveServer, killed: str, num_streams: int = 16) -> tuple[int, int]:
    """Kill the second replica's stub under streams; return how many of them failed, and how many it had.

    Those that did not fail have said more since. Requests that come right after are answered, and soon.
    """
    async with client_of(server) as client:
        streams = [chunks(client, number) for number in range(num_streams)]
        await asyncio.gather(*(anext(stream) for stream in streams))
        num_at_killed = int(server.metric("gptoss_replica_in_flight", replica=killed))
        assert 0 < num_at_killed < num_streams
        os.kill(generation_stub(server, NAMES[1]), signal.SIGKILL)
        is_told = asyncio.Event()
        readers = [asyncio.create_task(goes_on(stream, is_told)) for stream in streams]
        after = [client.post("/v1/chat/completions", json=body(number, max_tokens=2)) for number in range(50, 70)]
        async with asyncio.timeout(ANSWERED_WITHIN_S):
            assert {one.status_code for one in await asyncio.gather(*after)} == {200}
        while not num_deaths_of(server):
            await asyncio.sleep(0.05)
        await asyncio.sleep(TOLD_WITHIN_S)
        is_told.set()
        outcomes = await asyncio.gather(*readers)
        return outcomes.count(False), num_at_killed


async def goes_on(stream: AsyncIterator[dict[str, object]], is_told: asyncio.Event) -> bool:
    """Read on: True where more comes after all have been told that their replica died, False where an error comes."""
    async for chunk in stream:
        if "error" in chunk:
            return False
        if is_told.is_set():
            return True
    raise AssertionError("the stream ended without an error")


def test_reload_when_there_are_two_then_one_after_the_other_has_a_new_engine(replicas: LiveServer) -> None:
    wait_until(lambda: state_of(replicas).phase is Phase.READY, timeout_s=BACK_WITHIN_S)
    before = [generation_stub(replicas, name) for name in NAMES]
    told = gptoss(replicas, "reload")
    assert told.returncode == 0, told.stderr
    assert f"{DEMO.openai}: tritonserver has it, 1 of 2\n{DEMO.openai}: tritonserver-1 has it, 2 of 2\n" in told.stdout

    def changed() -> bool:
        stubs = [generation_stub(replicas, name) for name in NAMES]
        return all(stub != earlier for stub, earlier in zip(stubs, before, strict=True))

    wait_until(changed)
    answer = httpx.post(f"{replicas.url}/v1/chat/completions", json=body(0, max_tokens=2), timeout=20.0)
    assert answer.status_code == 200


def gptoss(server: LiveServer, command: str) -> subprocess.CompletedProcess[str]:
    arguments = (str(GPTOSS), command, "--run-dir", str(server.run_dir))
    return subprocess.run(arguments, capture_output=True, text=True, timeout=120, check=False)
