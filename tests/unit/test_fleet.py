"""Several tritonservers as one model server: where requests go, whoever comes, goes or does not get on."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import grpc
import pytest
from tritonclient.grpc import service_pb2 as pb

from gptoss_adapter import stats_triton, triton_client
from gptoss_adapter.errors import ApiError, PromptTimeoutError, ServiceUnavailableError, TooManyRequestsError
from gptoss_adapter.fleet import Fleet
from gptoss_adapter.stats_triton import TritonPage
from gptoss_backend import heartbeat
from gptoss_backend.contract import GenerationErrorCode, SamplingParams, Started, encode_error
from gptoss_backend.heartbeat import HEARTBEAT, STALLED
from support.fake_triton import CHAT_REQUEST, DEMO, PROMPT, STARTED, Context, FakeTriton, Requests, Responses, response
from support.fleets import WHOLE, Servers, answer_of, chat, prompt, run
from support.triton_page import triton_with

LOST = (grpc.StatusCode.UNAVAILABLE, "Socket closed")

# --- where requests go ----------------------------------------------------------------------------------------------


def test_preprocess_when_a_chat_is_repeated_then_by_the_replica_that_has_it_in_its_cache() -> None:
    async def test(servers: Servers, fleet: Fleet) -> None:
        for _ in range(10):
            assert await fleet.preprocess(CHAT_REQUEST, "req-1") == PROMPT
        assert sorted(servers.asked("preprocess").values()) == [0, 0, 10]
        for number in range(90):
            await fleet.preprocess(chat(number), "req-1")
        assert min(servers.asked("preprocess").values()) >= 12, "a third is to be expected"

    run(test, FakeTriton(), FakeTriton(), FakeTriton())


def test_preprocess_when_a_replica_loses_it_then_another_renders_it() -> None:
    async def test(servers: Servers, fleet: Fleet) -> None:
        breaking, other = servers.names.addresses
        servers.tritons[breaking].error = LOST
        for number in range(20):
            await fleet.refresh()
            assert await fleet.preprocess(chat(number), "req-1") == PROMPT
        assert servers.asked("preprocess")[other] == 20
        assert servers.asked("preprocess")[breaking] > 0

    run(test, FakeTriton(), FakeTriton())


def test_preprocess_when_it_takes_too_long_then_no_replica_is_lost_and_none_renders_it_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(triton_client, "PREPROCESS_TIMEOUT_S", 0.2)

    async def test(servers: Servers, fleet: Fleet) -> None:
        for triton in servers.tritons.values():
            triton.renders_late = True
        with pytest.raises(PromptTimeoutError) as refused:
            await fleet.preprocess(CHAT_REQUEST, "req-1")
        assert (refused.value.status, refused.value.headers["Retry-After"]) == (503, "5")
        assert sum(servers.asked("preprocess").values()) == 1
        assert all(replica.renders for replica in fleet.replicas)

    run(test, FakeTriton(), FakeTriton())


def test_generate_when_a_conversation_comes_back_then_it_goes_to_the_same_replica() -> None:
    async def test(servers: Servers, fleet: Fleet) -> None:
        for _ in range(8):
            assert await answer_of(fleet) == WHOLE
        assert sorted(servers.asked("gpt_oss_demo").values()) == [0, 0, 8]
        for number in range(120):
            await answer_of(fleet, prompt(number))
        assert min(servers.asked("gpt_oss_demo").values()) >= 20

    run(test, FakeTriton(), FakeTriton(), FakeTriton())


def test_generate_when_one_conversation_is_asked_many_times_at_once_then_others_help() -> None:
    async def test(servers: Servers, fleet: Fleet) -> None:
        for triton in servers.tritons.values():
            triton.hang = True
        streams = [fleet.generate(DEMO, PROMPT, SamplingParams(), "req-1") for _ in range(30)]
        assert max(one.num_in_flight for one in fleet.replicas) <= 1.25 * 10 + 2
        assert sum(one.num_in_flight for one in fleet.replicas) == 30
        for stream in streams:
            stream.cancel()
            stream.cancel()
        assert [one.num_in_flight for one in fleet.replicas] == [0, 0, 0]

    run(test, FakeTriton(), FakeTriton(), FakeTriton())


def test_generate_when_a_replica_lacks_the_model_then_it_goes_elsewhere() -> None:
    async def test(servers: Servers, fleet: Fleet) -> None:
        lacking, serving_it = servers.names.addresses
        servers.tritons[lacking].unready = {"gpt_oss_demo"}
        await fleet.refresh()
        for number in range(10):
            await answer_of(fleet, prompt(number))
        assert servers.asked("gpt_oss_demo") == Counter({serving_it: 10, lacking: 0})

    run(test, FakeTriton(), FakeTriton())


# --- replicas that come and go --------------------------------------------------------------------------------------


class Breaking(FakeTriton):
    """Loses each generation after `self.responses`."""

    async def ModelStreamInfer(self, requests: Requests, context: Context) -> Responses:  # noqa: N802
        async for one in super().ModelStreamInfer(requests, context):
            yield one
        await context.abort(*LOST)


class Ending(FakeTriton):
    """Tells of each generation that its engine is at an end, as a stub does."""

    async def ModelStreamInfer(self, requests: Requests, context: Context) -> Responses:  # noqa: N802
        async for request in requests:
            self.requests.append(request)
            error = encode_error(GenerationErrorCode.SHUTTING_DOWN, "the engine has stopped")
            yield pb.ModelStreamInferResponse(error_message=error)


def breaking_after(*steps: tuple[list[int], Started | None]) -> FakeTriton:
    triton = Breaking()
    triton.responses = [response(token_ids, event) for token_ids, event in steps]
    return triton


@pytest.mark.parametrize("breaking", ["lost", "lost once begun", "its engine ended"])
def test_stream_when_its_replica_is_lost_before_the_first_token_then_another_answers(breaking: str) -> None:
    async def test(servers: Servers, fleet: Fleet) -> None:
        for number in range(30):
            await fleet.refresh()
            answer = await answer_of(fleet, prompt(number))
            assert [step.token_ids for step in answer if step.token_ids] == [[7, 8], [200002]]
            assert sum(isinstance(step.event, Started) for step in answer) == 1
        assert servers.asked("gpt_oss_demo")[servers.names.addresses[0]] > 0, "the breaking one was tried"
        assert [one.num_in_flight for one in fleet.replicas] == [0, 0]

    begun: list[tuple[list[int], Started | None]] = [([], STARTED)] if breaking == "lost once begun" else []
    run(test, Ending() if breaking == "its engine ended" else breaking_after(*begun), FakeTriton())


def test_stream_when_its_replica_is_lost_after_the_first_token_then_the_client_is_told() -> None:
    async def test(servers: Servers, fleet: Fleet) -> None:
        with pytest.raises(ServiceUnavailableError):
            await answer_of(fleet)
        assert sum(servers.asked("gpt_oss_demo").values()) == 1

    tritons = [breaking_after(([], STARTED), ([7], None)) for _ in range(2)]
    run(test, *tritons)


def test_stream_when_both_replicas_lose_it_then_there_is_no_third_attempt() -> None:
    async def test(servers: Servers, fleet: Fleet) -> None:
        with pytest.raises(ServiceUnavailableError):
            await answer_of(fleet)
        assert sum(servers.asked("gpt_oss_demo").values()) == 2
        assert [one.num_in_flight for one in fleet.replicas] == [0, 0, 0]

    run(test, breaking_after(), breaking_after(), breaking_after())


def test_stream_when_the_replica_refuses_then_it_is_not_tried_again() -> None:
    async def test(servers: Servers, fleet: Fleet) -> None:
        full = (grpc.StatusCode.UNAVAILABLE, encode_error(GenerationErrorCode.QUEUE_FULL, "512 wait"))
        for triton in servers.tritons.values():
            triton.responses, triton.error = [], full
        with pytest.raises(TooManyRequestsError):
            await answer_of(fleet)
        assert sum(servers.asked("gpt_oss_demo").values()) == 1

    run(test, FakeTriton(), FakeTriton())


def test_fleet_when_a_replica_ends_then_no_request_fails() -> None:
    async def test(servers: Servers, fleet: Fleet) -> None:
        gone, left = servers.names.addresses
        await fleet.preprocess(CHAT_REQUEST, "req-1")
        await servers.end(gone)
        for number in range(20):
            await fleet.preprocess(CHAT_REQUEST, "req-1")
            assert await answer_of(fleet, prompt(number)) == WHOLE
        assert servers.asked("gpt_oss_demo")[left] == 20

    run(test, FakeTriton(), FakeTriton())


def test_fleet_when_a_replica_is_added_to_the_names_then_it_gets_its_share() -> None:
    async def test(servers: Servers, fleet: Fleet) -> None:
        added = await servers.begin()
        async with asyncio.timeout(5):  # by itself
            while fleet.replicas[-1].address != added or not fleet.replicas[-1].status.ready:
                await asyncio.sleep(0.05)
        for number in range(120):
            await fleet.preprocess(chat(number), "req-1")
            await answer_of(fleet, prompt(number))
        assert servers.asked("gpt_oss_demo")[added] >= 20, "a third is to be expected"
        assert servers.asked("preprocess")[added] >= 20

    run(test, FakeTriton(), FakeTriton())


def test_fleet_when_a_replica_leaves_the_names_then_its_streams_run_on_and_it_gets_no_more() -> None:
    async def test(servers: Servers, fleet: Fleet) -> None:
        (leaving,) = servers.names.addresses
        servers.tritons[leaving].hang = True
        stream = fleet.generate(DEMO, PROMPT, SamplingParams(), "req-1")
        assert await anext(stream) == WHOLE[0]
        await servers.begin()
        servers.names.addresses.remove(leaving)
        await fleet.refresh()
        await answer_of(fleet)
        assert servers.asked("gpt_oss_demo")[leaving] == 1
        assert [await anext(stream) for _ in range(2)] == WHOLE[1:]
        assert not servers.tritons[leaving].stream_ended.is_set()
        stream.cancel()
        await asyncio.wait_for(servers.tritons[leaving].stream_ended.wait(), 2)

    run(test, FakeTriton())


def test_fleet_when_a_replica_leaves_while_it_is_asked_how_it_does_then_the_others_are_told_of() -> None:
    async def test(servers: Servers, fleet: Fleet) -> None:
        leaving, staying = servers.names.addresses
        servers.tritons[leaving].is_silent = True
        asking = asyncio.create_task(fleet.refresh())
        await asyncio.sleep(0.1)
        servers.names.addresses.remove(leaving)
        await fleet.refresh()
        await asyncio.wait_for(asking, 1)  # long before the silence ends
        status = await fleet.status()
        assert [(one.address, one.live) for one in status.replicas] == [(staying, True)]

    run(test, FakeTriton(), FakeTriton())


def test_fleet_when_the_names_stand_for_nobody_then_it_says_so() -> None:
    async def test(servers: Servers, fleet: Fleet) -> None:
        with pytest.raises(ApiError, match="No model server"):
            await fleet.preprocess(CHAT_REQUEST, "req-1")
        with pytest.raises(ApiError, match="No model server"):
            fleet.generate(DEMO, PROMPT, SamplingParams(), "req-1")
        status = await fleet.status()
        assert (status.live, status.ready, status.replicas) == (False, False, ())

    run(test)


# --- replicas that live and do not get on ---------------------------------------------------------------------------


@asynccontextmanager
async def fleet_of_two(first_page: str, second_page: str) -> AsyncIterator[tuple[Servers, Fleet]]:
    """Two replicas that have these metrics pages; each knows the way to its own."""
    servers = Servers()
    for _ in range(2):
        await servers.begin()
    with triton_with(first_page) as (first, _), triton_with(second_page) as (second, _):
        fleet = await Fleet.open(servers.names, [DEMO])
        for replica, port in zip(fleet.replicas, (first, second), strict=True):
            await replica.page.close()
            replica.page = TritonPage(f"http://127.0.0.1:{port}/metrics")
        await fleet.refresh()
        try:
            yield servers, fleet
        finally:
            await fleet.close()
            await servers.end_all()


@pytest.fixture
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A page that is there is waited for, however busy this machine is."""
    monkeypatch.setattr(stats_triton, "TIMEOUT_S", 30.0)


def in_one_step_for(seconds: float) -> str:
    return f'{STALLED}{{model="gpt_oss_demo",instance="gpt_oss_demo_0_0"}} {seconds}\n'


@pytest.mark.usefixtures("patient")
def test_fleet_when_an_engine_is_in_one_step_for_long_then_others_get_the_requests_and_it_is_named() -> None:
    async def test() -> None:
        async with fleet_of_two(in_one_step_for(16.0), in_one_step_for(14.0)) as (servers, fleet):
            stalled, fine = servers.names.addresses
            for number in range(20):
                await fleet.preprocess(chat(number), "req-1")
                assert await answer_of(fleet, prompt(number)) == WHOLE
            assert servers.asked("gpt_oss_demo") == {stalled: 0, fine: 20}
            assert servers.asked("preprocess") == {stalled: 0, fine: 20}
            first, second = (await fleet.status()).replicas
            assert (first.ready, second.ready) == (True, True), "Triton says so"
            assert (first.stuck, second.stuck) == (("gpt_oss_demo_0_0 has been in one step for 16 s",), ())

    asyncio.run(test())


@pytest.mark.usefixtures("patient")
def test_fleet_when_no_replica_gets_on_then_all_are_still_asked() -> None:
    async def test() -> None:
        async with fleet_of_two(in_one_step_for(16.0), in_one_step_for(90.0)) as (servers, fleet):
            for number in range(40):
                await answer_of(fleet, prompt(number))
            assert min(servers.asked("gpt_oss_demo").values()) > 0

    asyncio.run(test())


@pytest.mark.usefixtures("patient")
def test_fleet_when_a_stub_falls_silent_then_others_get_the_requests_and_it_is_named(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(heartbeat, "SILENT_AFTER_S", 0.2)
    silent_page = f'{HEARTBEAT}{{instance="preprocess_0_1",model="preprocess"}} 5\n'

    async def test() -> None:
        async with fleet_of_two(silent_page, "") as (servers, fleet):
            assert not any(replica.stuck for replica in fleet.replicas), "one look tells of no silence"
            await asyncio.sleep(0.3)
            await fleet.refresh()
            for number in range(20):
                await fleet.preprocess(chat(number), "req-1")
            assert servers.asked("preprocess")[servers.names.addresses[0]] == 0
            assert "preprocess_0_1 has given no sign of life" in (await fleet.status()).replicas[0].stuck[0]

    asyncio.run(test())
