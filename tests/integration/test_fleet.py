"""One adapter over real tritonservers on hosts of their own: network namespaces of this machine.

pytest -s shows the figures that the documentation quotes.
"""

from __future__ import annotations

import asyncio
import json
import random
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
from support.live_server import metric_in, wait_until
from support.triton_hosts import Host, TritonHosts, triton_hosts

DEMO = MODELS_BY_SHORT["demo"]
ENDLESS = {"max_tokens": 4000, "ignore_eos": True, "temperature": 0}


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory, checkpoint: Path) -> Iterator[TritonHosts]:
    """Three hosts; tritonservers on the first two."""
    with triton_hosts(tmp_path_factory.mktemp("fleet"), checkpoint, num_replicas=3) as made:
        first, second, _ = made.replicas
        made.begin(first, second)
        made.name(first, second)
        made.begin_adapter()
        yield made


def body(number: int, **more: object) -> dict[str, object]:
    return {"model": DEMO.openai, "messages": [{"role": "user", "content": f"conversation {number}"}], **more}


def adapter_metric(hosts: TritonHosts, name: str, host: Host) -> float:
    page = httpx.get(f"{hosts.url}/metrics", trust_env=False, timeout=10.0).text
    return metric_in(page, f"gptoss_replica_{name}", replica=host.grpc)


def client_of(hosts: TritonHosts) -> httpx.AsyncClient:
    limits = httpx.Limits(max_connections=None)
    return httpx.AsyncClient(base_url=hosts.url, timeout=60.0, trust_env=False, limits=limits)


async def chunks(client: httpx.AsyncClient, number: int) -> AsyncIterator[dict[str, object]]:
    """Yield what a stream without an end says, an error too."""
    async with client.stream("POST", "/v1/chat/completions", json=body(number, stream=True, **ENDLESS)) as answer:
        async for line in answer.aiter_lines():
            if line.startswith("data: {"):
                yield json.loads(line.removeprefix("data: "))


def test_fleet_when_it_is_loaded_then_no_replica_has_more_than_its_bound(hosts: TritonHosts) -> None:
    num_requests, replicas = 40, hosts.replicas[:2]
    rendered = {host.number: host.metric("nv_inference_request_success", model="preprocess") for host in replicas}

    async def load() -> list[httpx.Response]:
        async with client_of(hosts) as client:
            asked = [
                client.post("/v1/chat/completions", json=body(number, max_tokens=48, ignore_eos=True))
                for number in range(num_requests)
            ]
            return await asyncio.gather(*asked)

    assert [answer.status_code for answer in asyncio.run(load())] == [200] * num_requests
    bound = MAX_OVER_MEAN * num_requests / len(replicas) + ALWAYS_ALLOWED
    submitted = [adapter_metric(hosts, "requests_total", host) for host in replicas]
    prompts = [
        host.metric("nv_inference_request_success", model="preprocess") - rendered[host.number] for host in replicas
    ]
    print(f"generations {submitted}, prompts {prompts}")
    assert sum(submitted) == sum(prompts) == num_requests
    assert max(submitted) <= bound
    assert min(prompts) >= 6, "each chat where its hash says"


def test_conversations_when_they_go_on_then_they_find_their_prefix_far_more_often_than_in_turn(
    hosts: TritonHosts, monkeypatch: pytest.MonkeyPatch
) -> None:
    by_affinity = asyncio.run(go_on(hosts, "affinity"))
    turns = count()

    def in_turn(conversation: bytes, in_flight: Mapping[str, int]) -> str:
        return sorted(in_flight)[next(turns) % len(in_flight)]

    monkeypatch.setattr(fleet, "choose", in_turn)
    by_turns = asyncio.run(go_on(hosts, "turns"))
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


async def go_on(hosts: TritonHosts, name: str, num_conversations: int = 12, num_turns: int = 4) -> Found:
    """Let conversations take their turns in a random order, one at a time."""
    words = random.Random(name)  # the same order, and other words, for each name
    order = random.Random(7)
    talks: list[list[ChatMessage]] = [[] for _ in range(num_conversations)]
    before = [0] * num_conversations
    found = Found()
    replicas = await Fleet.open(ReplicaNames([host.grpc for host in hosts.replicas[:2]]), [DEMO])
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


def test_fleet_when_a_replica_is_killed_then_only_its_streams_fail_and_a_new_one_is_taken_up(
    hosts: TritonHosts,
) -> None:
    killed, left, new = hosts.replicas
    failed, num_at_killed = asyncio.run(kill_under_load(hosts, killed))
    assert failed == num_at_killed > 0
    health = httpx.get(f"{hosts.url}/health", trust_env=False, timeout=10.0)
    assert health.status_code == 200
    ready = {one["address"]: one["ready"] for one in health.json()["replicas"]}
    assert ready == {killed.grpc: False, left.grpc: True}

    hosts.begin(new)
    hosts.name(left, new)
    seconds = wait_until(lambda: adapter_metric(hosts, "ready", new) == 1.0, timeout_s=10.0)
    print(f"taken up {seconds:.1f} s after its name")
    answers = [
        httpx.post(f"{hosts.url}/v1/chat/completions", json=body(number, max_tokens=2), trust_env=False, timeout=60.0)
        for number in range(100, 130)
    ]
    assert {one.status_code for one in answers} == {200}
    assert adapter_metric(hosts, "requests_total", new) >= 5
    assert new.metric("nv_inference_request_success", model="preprocess") >= 5
    page = httpx.get(f"{hosts.url}/metrics", trust_env=False, timeout=10.0).text
    assert killed.grpc not in page, "a replica that is gone is told of no more"


async def kill_under_load(hosts: TritonHosts, killed: Host, num_streams: int = 16) -> tuple[int, int]:
    """Kill a replica under streams; return how many of them failed, and how many it had.

    Those that did not fail have said more since. Requests that come right after are answered.
    """
    async with client_of(hosts) as client:
        streams = [chunks(client, number) for number in range(num_streams)]
        await asyncio.gather(*(anext(stream) for stream in streams))
        num_at_killed = int(await asyncio.to_thread(adapter_metric, hosts, "in_flight", killed))
        assert 0 < num_at_killed < num_streams
        killed.kill()
        after = [client.post("/v1/chat/completions", json=body(number, max_tokens=2)) for number in range(50, 70)]
        assert {one.status_code for one in await asyncio.gather(*after)} == {200}
        outcomes = await asyncio.gather(*(goes_on(stream) for stream in streams))
        return outcomes.count(False), num_at_killed


async def goes_on(stream: AsyncIterator[dict[str, object]], num_chunks: int = 150) -> bool:
    """Read on: True after so many chunks more, False where an error comes."""
    async for number, chunk in aenumerate(stream):
        if "error" in chunk:
            return False
        if number == num_chunks:
            return True
    raise AssertionError("the stream ended without an error")


async def aenumerate(stream: AsyncIterator[dict[str, object]]) -> AsyncIterator[tuple[int, dict[str, object]]]:
    number = 0
    async for chunk in stream:
        yield number, chunk
        number += 1
