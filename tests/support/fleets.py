"""A fleet of replicas that can be ended and begun: gRPC servers that speak Triton's protocol stand for them."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack, asynccontextmanager

from gptoss_adapter.fleet import Fleet
from gptoss_adapter.fleet_addresses import ReplicaNames
from gptoss_adapter.inference import GenerationStep, PromptIds
from gptoss_backend.contract import ChatMessage, ChatRequest, Role, SamplingParams
from support.fake_triton import DEMO, FINISHED, PROMPT, STARTED, FakeTriton, serving

WHOLE = [GenerationStep([], STARTED), GenerationStep([7, 8]), GenerationStep([200002], FINISHED)]
"""The answer of a replica that is as it should be."""


class Names(ReplicaNames):
    """Stand for what the test says."""

    def __init__(self, addresses: list[str]) -> None:
        super().__init__(())
        self.addresses = addresses

    async def look_up(self) -> tuple[str, ...]:
        return tuple(self.addresses)


class Servers:
    """Replicas that can be ended and begun one by one, and the names they have."""

    def __init__(self) -> None:
        self.names = Names([])
        self._running: dict[str, AsyncExitStack] = {}
        self.tritons: dict[str, FakeTriton] = {}

    async def begin(self, triton: FakeTriton | None = None) -> str:
        """Begin one more and return its address, which is among the names then."""
        stack, triton = AsyncExitStack(), triton or FakeTriton()
        address = f"127.0.0.1:{await stack.enter_async_context(serving(triton))}"
        self._running[address], self.tritons[address] = stack, triton
        self.names.addresses.append(address)
        return address

    async def end(self, address: str) -> None:
        """End one; its name stays."""
        await self._running.pop(address).aclose()

    async def end_all(self) -> None:
        """End those that run."""
        for address in list(self._running):
            await self.end(address)

    def asked(self, model: str) -> Counter[str]:
        """Return how many requests each replica got."""
        tritons = self.tritons.items()
        return Counter({one: sum(r.model_name == model for r in triton.requests) for one, triton in tritons})


@asynccontextmanager
async def fleet_of(*tritons: FakeTriton) -> AsyncIterator[tuple[Servers, Fleet]]:
    """Begin these replicas, and open a fleet of them."""
    servers = Servers()
    for triton in tritons:
        await servers.begin(triton)
    fleet = await Fleet.open(servers.names, [DEMO])
    try:
        yield servers, fleet
    finally:
        await fleet.close()
        await servers.end_all()


def run(test: Callable[[Servers, Fleet], Awaitable[None]], *tritons: FakeTriton) -> None:
    """Run a test with a fleet of these replicas, in 15 s at most."""

    async def connect() -> None:
        async with asyncio.timeout(15), fleet_of(*tritons) as (servers, fleet):
            await test(servers, fleet)

    asyncio.run(connect())


async def answer_of(fleet: Fleet, prompt: PromptIds = PROMPT) -> list[GenerationStep]:
    """Return the steps of an answer."""
    stream = fleet.generate(DEMO, prompt, SamplingParams(), "req-1")
    try:
        return [step async for step in stream]
    finally:
        stream.cancel()


def prompt(number: int) -> PromptIds:
    """Return one prompt of many."""
    return PromptIds(number.to_bytes(4, "little"))


def chat(number: int) -> ChatRequest:
    """Return one chat of many."""
    return ChatRequest(messages=(ChatMessage(Role.USER, f"Hi for the {number}th time"),))
