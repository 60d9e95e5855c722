"""What is told of several tritonservers that are one model server: status, metrics, figures, health."""

from __future__ import annotations

import asyncio

import httpx

from gptoss_adapter.app import create_app
from gptoss_adapter.fleet import Fleet
from gptoss_adapter.fleet_metrics import FleetCollector, FleetPage
from gptoss_adapter.metrics import Metrics
from gptoss_adapter.stats_triton import TritonFigures
from gptoss_backend.settings_sources import load_settings
from support.fake_triton import DEMO, FakeTriton, serving
from support.fleets import Names, Servers, answer_of, run
from support.live_app import live
from support.triton_page import triton_with


def test_status_when_one_of_two_serves_then_the_fleet_is_ready_and_each_is_told_of() -> None:
    async def test(servers: Servers, fleet: Fleet) -> None:
        first, second = servers.names.addresses
        await servers.end(first)
        await fleet.refresh()
        status = await fleet.status()
        assert status.ready
        assert [(one.address, one.ready) for one in status.replicas] == [(first, False), (second, True)]
        servers.tritons[second].unready = {"gpt_oss_demo"}
        await fleet.refresh()
        assert (await fleet.status()).missing_models == ("gpt_oss_demo",)
        await servers.end(second)
        await fleet.refresh()
        assert (await fleet.status()).missing_models == ("preprocess", "gpt_oss_demo")

    run(test, FakeTriton(), FakeTriton())


def test_status_when_the_watch_has_just_asked_then_nobody_is_asked_anew() -> None:
    async def test(servers: Servers, fleet: Fleet) -> None:
        (address,) = servers.names.addresses
        servers.tritons[address].is_silent = True
        status = await asyncio.wait_for(fleet.status(), 0.5)
        assert status.ready
        async with asyncio.timeout(10):  # the watch finds out by itself
            while (await fleet.status()).ready:
                await asyncio.sleep(0.05)

    run(test, FakeTriton())


def test_metrics_when_a_replica_is_gone_then_its_series_are_too() -> None:
    async def test(servers: Servers, fleet: Fleet) -> None:
        metrics = Metrics()
        metrics.register(FleetCollector(fleet))
        first, second = servers.names.addresses
        await answer_of(fleet)
        page = metrics.exposition().decode()
        shares = [f'gptoss_replica_requests_total{{replica="{one}"}}' for one in (first, second)]
        assert sorted(line.split()[-1] for line in page.splitlines() if line.startswith(tuple(shares))) == [
            "0.0",
            "1.0",
        ]
        assert f'gptoss_replica_ready{{replica="{first}"}} 1.0' in page
        servers.names.addresses.remove(first)
        await fleet.refresh()
        assert first not in metrics.exposition().decode()

    run(test, FakeTriton(), FakeTriton())


def test_metrics_when_there_is_one_triton_and_no_fleet_then_they_tell_at_once_whether_it_is_ready() -> None:
    async def test() -> None:
        triton = FakeTriton()
        async with serving(triton) as port:
            settings = load_settings({"model": "demo", "server": {"triton_grpc_port": port}}, environ={})
            app = create_app(settings)
            client = httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost")
            async with client, app.router.lifespan_context(app):

                async def told() -> list[str]:
                    page = (await client.get("/metrics")).text
                    return [line for line in page.splitlines() if line.startswith("gptoss_replica_")]

                ready = f'gptoss_replica_ready{{replica="127.0.0.1:{port}"}}'
                assert await told() == [f"{ready} 1.0"]
                triton.unready = {"gpt_oss_demo"}
                assert await told() == [f"{ready} 0.0"]
                triton.unready = set()
                assert await told() == [f"{ready} 1.0"]

    asyncio.run(asyncio.wait_for(test(), 15))


ENGINE = 'gptoss_engine_num_requests_running{model="gpt_oss_demo",instance="0"} 2\n'
CACHE = 'nv_cache_num_hits_per_model{model="preprocess",version="1"} 3\n'


def test_page_when_there_are_several_replicas_then_their_figures_are_told_together() -> None:
    async def figures(*ports: int) -> TritonFigures | str:
        fleet = await Fleet.open(Names([f"127.0.0.1:{port - 1}" for port in ports]), [DEMO])
        try:
            return await FleetPage(fleet).figures()
        finally:
            await fleet.close()

    with triton_with(ENGINE + CACHE) as (first, _), triton_with(ENGINE + CACHE) as (second, _):
        told = asyncio.run(figures(first, second, 1))
    assert isinstance(told, TritonFigures)
    assert [one.instance for one in told.engines] == [f"127.0.0.1:{port - 1}/0" for port in (first, second)]
    assert (told.cache_hits, told.cache_misses) == (6, None)
    assert len(told.pages) == 2
    assert "cannot be reached" in str(asyncio.run(figures(1)))
    assert asyncio.run(figures()) == "There is no replica of Triton."


def test_health_when_replicas_are_set_then_it_lists_them() -> None:
    settings = load_settings(
        {"model": "demo", "server": {"triton_replicas": ["127.0.0.1:1", "127.0.0.1:2"]}}, environ={}
    )
    with live(create_app(settings)) as url:
        health = httpx.get(f"{url}/health")
        metrics = httpx.get(f"{url}/metrics").text
    assert health.status_code == 503
    assert [one["address"] for one in health.json()["replicas"]] == ["127.0.0.1:1", "127.0.0.1:2"]
    assert health.json()["triton"] == {"live": False, "missing": ["tritonserver", "preprocess", "gpt_oss_demo"]}
    assert 'gptoss_replica_ready{replica="127.0.0.1:1"} 0.0' in metrics
