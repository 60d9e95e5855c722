"""What is dear and asked for often: how often it is made, and that it tells the truth."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from gptoss_adapter.app import create_app
from gptoss_adapter.inference import ModelServerStatus
from gptoss_adapter.metrics import Metrics
from gptoss_adapter.rationed import Rationed
from gptoss_backend.settings_sources import load_settings
from support.fake_model_server import FakeModelServer
from support.live_app import live

SPACING_S = 0.05


class Source:
    """What is true now, and how long that takes to find out."""

    def __init__(self) -> None:
        self.truth = 0
        self.num_made = 0
        self.num_at_once = 0
        self.fault: Exception | None = None

    async def make(self) -> int:
        self.num_made += 1
        self.num_at_once += 1
        assert self.num_at_once == 1
        found = self.truth
        await asyncio.sleep(0.01)
        self.num_at_once -= 1
        if self.fault is not None:
            raise self.fault
        return found


def run(test: Callable[[Source, Callable[[], Awaitable[int]]], Awaitable[None]]) -> None:
    async def with_timeout() -> None:
        source, rationed = Source(), Rationed[int](SPACING_S)
        async with asyncio.timeout(10):
            await test(source, lambda: rationed.get(source.make))

    asyncio.run(with_timeout())


def test_rationed_when_many_ask_at_once_then_it_is_made_once_for_all() -> None:
    async def test(source: Source, ask: Callable[[], Awaitable[int]]) -> None:
        assert await asyncio.gather(*(ask() for _ in range(50))) == [0] * 50
        assert source.num_made == 1

    run(test)


def test_rationed_when_asked_amid_the_making_then_the_answer_tells_of_what_came_meanwhile() -> None:
    async def test(source: Source, ask: Callable[[], Awaitable[int]]) -> None:
        before = asyncio.ensure_future(ask())
        await asyncio.sleep(0.005)
        source.truth = 1
        assert await asyncio.gather(ask(), ask()) == [1, 1]
        assert await before == 0
        assert source.num_made == 2

    run(test)


def test_rationed_when_asked_over_and_over_then_there_is_a_pause_between_two() -> None:
    async def test(source: Source, ask: Callable[[], Awaitable[int]]) -> None:
        begun = time.monotonic()
        for number in range(4):
            source.truth = number
            assert await ask() == number
        assert time.monotonic() - begun >= 3 * SPACING_S

    run(test)


def test_rationed_when_an_asker_leaves_or_the_making_fails_then_the_others_and_the_next_have_theirs() -> None:
    async def test(source: Source, ask: Callable[[], Awaitable[int]]) -> None:
        leaving, staying = asyncio.ensure_future(ask()), asyncio.ensure_future(ask())
        await asyncio.sleep(0.005)
        leaving.cancel()
        assert await staying == 0
        source.fault = ValueError("odd")
        with pytest.raises(ValueError, match="odd"):
            await ask()
        source.fault = None
        assert await ask() == 0

    run(test)


# --- over HTTP ------------------------------------------------------------------------------------------------------


class AskedServer(FakeModelServer):
    """Counts how often it was asked how it does."""

    def __init__(self) -> None:
        super().__init__()
        self.num_asked = 0

    async def status(self) -> ModelServerStatus:
        self.num_asked += 1
        return await super().status()


def test_health_when_many_ask_at_once_then_triton_is_asked_for_all_and_the_next_is_told_what_is_new() -> None:
    server = AskedServer()
    settings = load_settings({"model": "demo", "server": {"triton_metrics_port": 9}}, environ={})
    with live(create_app(settings, model_server=server)) as url, ThreadPoolExecutor(16) as askers:
        answers = list(askers.map(lambda path: httpx.get(f"{url}{path}"), ["/health", "/health/ready", "/ping"] * 16))
        assert {answer.status_code for answer in answers} == {200}
        assert server.num_asked <= len(answers) / 4
        server.status_now = ModelServerStatus(True, "2.51.0", ("gpt_oss_demo",))
        assert httpx.get(f"{url}/health").status_code == 503


def test_metrics_when_many_ask_at_once_then_the_page_is_made_for_all_and_the_next_has_what_is_new(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[bytes] = []
    exposition = Metrics.exposition
    monkeypatch.setattr(Metrics, "exposition", lambda metrics: made.append(exposition(metrics)) or made[-1])
    settings = load_settings({"model": "demo"}, environ={})
    with live(create_app(settings, model_server=FakeModelServer())) as url, ThreadPoolExecutor(16) as askers:
        pages = list(askers.map(lambda _: httpx.get(f"{url}/metrics"), range(48)))
        assert {page.status_code for page in pages} == {200}
        assert len(made) <= len(pages) / 4
        httpx.get(f"{url}/nowhere")
        assert 'route="unmatched"' in httpx.get(f"{url}/metrics").text
