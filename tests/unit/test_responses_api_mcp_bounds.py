"""POST /v1/responses with tools of type mcp, and what bounds an answer in several turns."""

from __future__ import annotations

from pathlib import Path

import httpx

from gptoss_adapter.errors import ContextLengthExceededError
from gptoss_backend.contract import FinishReason
from support.fake_model_server import FakeModelServer, answer, token_ids
from support.mcp_server import DOCS, Seen, call_of, calling, mcp_server
from support.responses_api import WEATHER, refusal, respond, serving
from support.tool_fixtures import mcp_fixtures

url_and_server, seen = mcp_fixtures()


def test_max_tool_calls_when_reached_then_no_more_are_run_and_the_model_answers_without(
    client: httpx.Client, server: FakeModelServer, seen: Seen
) -> None:
    server.scripts = [answer(calling("search")), answer(calling("search", {"query": "y"}))]
    told = respond(client, tools=[DOCS, WEATHER], max_tool_calls=1)
    first, second = (item for item in told["output"] if item["type"] == "mcp_call")
    assert (first["status"], second["status"], second["error"]["code"]) == ("completed", "failed", -32000)
    assert seen.calls == [("search", "x")]
    assert [len(chat.tools) for chat in server.chats] == [7, 7, 1]
    assert "no more than 1" in str(server.chats[2].messages[-1].content)
    assert told["output"][-1]["type"] == "message"
    assert told["max_tool_calls"] == 1


def test_max_output_tokens_when_given_then_it_holds_over_all_turns(
    client: httpx.Client, server: FakeModelServer
) -> None:
    num = len(token_ids(calling("search")))
    server.scripts = [answer(calling("search"))]
    respond(client, tools=[DOCS], max_output_tokens=num + 40)
    assert [sampling.max_tokens for sampling in server.samplings] == [num + 40, 40]


def test_max_output_tokens_when_spent_then_a_call_is_not_run_and_the_response_is_incomplete(
    client: httpx.Client, server: FakeModelServer, seen: Seen
) -> None:
    num = len(token_ids(calling("search")))
    server.scripts = [answer(calling("search"))]
    told = respond(client, tools=[DOCS], max_output_tokens=num)
    assert (told["status"], told["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert (call_of(told)["status"], seen.calls) == ("incomplete", [])
    respond(client, tools=[DOCS], previous_response_id=told["id"])
    assert all(not message.tool_calls for message in server.chats[1].messages)


def test_call_when_it_is_cut_then_it_is_not_run(client: httpx.Client, server: FakeModelServer, seen: Seen) -> None:
    server.scripts = [answer(calling("search").removesuffix('"x"}<|call|>'), reason=FinishReason.LENGTH)]
    told = respond(client, tools=[DOCS])
    assert (told["status"], call_of(told)["status"], seen.calls) == ("incomplete", "incomplete", [])


def test_time_when_the_profile_bounds_it_then_a_tool_is_cut_off_with_504(
    tmp_path: Path, server: FakeModelServer, seen: Seen
) -> None:
    server.scripts = [answer(calling("wait", {"seconds": 5}))]
    profiles = {"balanced": {"model": "20b", "request_timeout_s": 0.4}}
    with (
        mcp_server(seen) as mcp_url,
        serving(tmp_path / "r.sqlite", server, mcp_servers={"docs": mcp_url}, profiles=profiles) as url,
        httpx.Client(base_url=url) as client,
    ):
        error = refusal(client, 504, tools=[DOCS])
        assert (error["code"], seen.calls) == ("deadline_exceeded", [("wait", 5)])
        server.scripts = [answer(calling("search"))]
        respond(client, tools=[DOCS])
    first, second = (sampling.timeout_s for sampling in server.samplings[1:])
    assert first is not None
    assert second is not None
    assert 0 < second < first <= 0.4


def test_context_when_a_result_leaves_no_room_then_the_response_is_incomplete_and_tells_the_call(
    client: httpx.Client, server: FakeModelServer
) -> None:
    server.scripts = [answer(calling("search")), [ContextLengthExceededError("Too long.")]]
    told = respond(client, tools=[DOCS])
    assert (told["status"], told["incomplete_details"]) == ("incomplete", {"reason": "max_output_tokens"})
    assert call_of(told)["output"] == "Found: x"
