"""POST /v1/responses with tools of type mcp, streamed or cut off."""

from __future__ import annotations

import logging

import httpx
import openai
import pytest

from gptoss_adapter.logs import RequestIdFilter, TextFormatter
from support.fake_model_server import FOREVER, HELLO, FakeModelServer, answer
from support.live_app import wait_until
from support.mcp_server import DOCS, Seen, call_of, calling
from support.responses_api import MODEL, RESPONSES, respond, stream
from support.tool_fixtures import mcp_fixtures

url_and_server, seen = mcp_fixtures()


def test_stream_when_the_model_calls_a_tool_then_all_events_come_in_openais_order(
    client: httpx.Client, server: FakeModelServer
) -> None:
    server.scripts = [answer(calling("search"), tokens_a_step=1000)]
    events = stream(client, tools=[DOCS])
    names = [event["type"].removeprefix("response.") for event in events]
    assert names[:6] == [
        "created",
        "in_progress",
        "output_item.added",
        "mcp_list_tools.in_progress",
        "mcp_list_tools.completed",
        "output_item.done",
    ]
    about_call = [event for event in events if event.get("output_index") == 2]
    assert [event["type"].removeprefix("response.") for event in about_call] == [
        "output_item.added",
        "mcp_call.in_progress",
        "mcp_call_arguments.delta",
        "mcp_call_arguments.done",
        "mcp_call.completed",
        "output_item.done",
    ]
    added, *_, arguments, _, done = about_call
    assert (added["item"]["status"], added["item"]["arguments"], added["item"]["output"]) == ("in_progress", "", None)
    assert arguments["arguments"] == '{"query": "x"}'
    assert done["item"] == events[-1]["response"]["output"][2]
    items = [event["item"] for event in events if event["type"] == "response.output_item.done"]
    assert items == events[-1]["response"]["output"]
    assert names[-1] == "completed"


def test_stream_when_openais_client_reads_it_then_it_gathers_the_same_response(
    url_and_server: tuple[str, FakeModelServer], server: FakeModelServer
) -> None:
    server.scripts = [answer(calling("search"))]
    with (
        openai.OpenAI(base_url=f"{url_and_server[0]}/v1", api_key="none") as official,
        official.responses.stream(
            model=MODEL, input="Hi", tools=[{"type": "mcp", "server_label": "docs", "require_approval": "never"}]
        ) as events,
    ):
        told = [event.type for event in events]
        response = events.get_final_response()
    assert "response.mcp_call.completed" in told
    assert response.output_text == "Hello!"
    [call] = [item for item in response.output if item.type == "mcp_call"]
    assert (call.output, call.error) == ("Found: x", None)


# --- those who leave --------------------------------------------------------------------------------------------------


def test_stream_when_its_client_leaves_while_a_tool_runs_then_the_call_is_cancelled_and_the_log_says_so(
    client: httpx.Client, server: FakeModelServer, seen: Seen, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "gptoss_adapter.edge")
    caplog.handler.addFilter(RequestIdFilter())
    server.scripts = [answer(calling("wait", {"seconds": 0.9}))]
    body = {"model": MODEL, "input": "Hi", "tools": [DOCS], "stream": True}
    with client.stream("POST", RESPONSES, json=body) as response:
        lines = response.iter_lines()
        next(line for line in lines if "mcp_call_arguments.done" in line)
        wait_until(lambda: bool(seen.calls))
    wait_until(lambda: seen.cancelled == ["wait"], 1.0)
    assert len(server.chats) == 1
    wait_until(lambda: "/v1/responses 200" in caplog.text)
    [line] = [TextFormatter().format(one) for one in caplog.records if one.name == "gptoss_adapter.edge"]
    assert {"mcp_calls=1", "outcome=cancelled"} <= set(line.split())


def test_whole_answer_when_its_client_leaves_while_a_tool_runs_then_the_call_is_cancelled(
    client: httpx.Client, server: FakeModelServer, seen: Seen
) -> None:
    server.scripts = [answer(calling("wait", {"seconds": 0.9}))]
    with pytest.raises(httpx.ReadTimeout):
        client.post(RESPONSES, json={"model": MODEL, "input": "Hi", "tools": [DOCS]}, timeout=0.4)
    wait_until(lambda: seen.cancelled == ["wait"], 1.0)


def test_background_when_it_is_cancelled_while_a_tool_runs_then_the_call_is_too_and_its_item_says_so(
    client: httpx.Client, server: FakeModelServer, seen: Seen
) -> None:
    server.scripts = [answer(calling("wait", {"seconds": 0.9}))]
    told = respond(client, tools=[DOCS], background=True)
    wait_until(lambda: bool(seen.calls))
    cancelled = client.post(f"{RESPONSES}/{told['id']}/cancel").json()
    assert cancelled["status"] == "cancelled"
    assert (call_of(cancelled)["status"], call_of(cancelled)["error"]["code"]) == ("failed", -32000)
    wait_until(lambda: seen.cancelled == ["wait"], 1.0)


def test_client_when_it_leaves_amid_a_later_turn_then_the_generation_is_cancelled(
    client: httpx.Client, server: FakeModelServer
) -> None:
    server.scripts = [answer(calling("search")), [*HELLO[:5], FOREVER]]
    body = {"model": MODEL, "input": "Hi", "tools": [DOCS], "stream": True}
    with client.stream("POST", RESPONSES, json=body) as response:
        lines = response.iter_lines()
        next(line for line in lines if "mcp_call.completed" in line)
        wait_until(lambda: len(server.streams) == 2)
    wait_until(lambda: server.streams[1].abandoned, 1.0)
