"""POST /v1/responses with tools of type mcp that fail."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from gptoss_adapter.errors import ServiceUnavailableError, TooManyRequestsError
from support.fake_model_server import FakeModelServer, answer
from support.mcp_server import DOCS, Seen, call_of, calling
from support.responses_api import MODEL, RESPONSES, refusal, stream
from support.tool_fixtures import mcp_fixtures

url_and_server, seen = mcp_fixtures()


@pytest.mark.parametrize("label", ["down", "other"])
def test_listing_when_it_fails_then_424_in_openais_words_and_the_server_is_healthy(
    client: httpx.Client, label: str
) -> None:
    error = refusal(client, 424, tools=[{**DOCS, "server_label": label}])
    assert error["message"].startswith(f"Error retrieving tool list from MCP server: '{label}'.")
    assert (error["type"], error["param"], error["code"]) == ("external_connector_error", "tools", "http_error")
    assert client.get("/health").status_code == 200


@pytest.mark.parametrize("background", [False, True])
def test_listing_when_it_fails_in_a_stream_then_the_events_tell_of_it(client: httpx.Client, background: bool) -> None:
    events = stream(client, tools=[DOCS, {**DOCS, "server_label": "down"}], background=background)
    about = [event["type"].removeprefix("response.") for event in events if event.get("output_index") == 1]
    assert about == ["output_item.added", "mcp_list_tools.in_progress", "mcp_list_tools.failed", "output_item.done"]
    failed = events[-1]["response"]
    assert (events[-1]["type"], failed["status"]) == ("response.failed", "failed")
    assert failed["error"]["message"] == failed["output"][1]["error"]
    assert failed["output"][1]["tools"] == []


@pytest.mark.parametrize(
    ("tool", "arguments", "error", "told"),
    [
        ("fail", {}, "mcp_tool_execution_error", "The tool failed: Error executing tool fail: no such shelf"),
        ("search", '{"query"', "mcp_protocol_error", "This call failed: The arguments are no JSON object."),
        ("search", "[1]", "mcp_protocol_error", "This call failed: The arguments are no JSON object."),
        ("wait", {"seconds": 30}, "http_error", "This call failed: The MCP server did not answer within 1 s."),
    ],
)
def test_call_when_it_fails_then_the_item_says_so_and_the_model_is_told(
    client: httpx.Client, server: FakeModelServer, tool: str, arguments: object, error: str, told: str
) -> None:
    server.scripts = [answer(calling(tool, arguments))]
    events = stream(client, tools=[DOCS])
    response = events[-1]["response"]
    call = call_of(response)
    assert (response["status"], call["status"], call["error"]["type"], call["output"]) == (
        "completed",
        "failed",
        error,
        None,
    )
    assert "response.mcp_call.failed" in [event["type"] for event in events]
    assert server.chats[1].messages[-1].content == told


@pytest.mark.parametrize(
    ("script", "status"),
    [([TooManyRequestsError("Later.")], 429), ([ServiceUnavailableError("Gone.")], 503), ([ValueError("odd")], 500)],
)
def test_answer_when_it_fails_after_a_tool_was_run_then_clients_are_told_not_to_try_again_by_themselves(
    client: httpx.Client, server: FakeModelServer, seen: Seen, script: list[Any], status: int
) -> None:
    body = {"model": MODEL, "input": "Hi", "tools": [DOCS]}
    server.script = script
    assert "x-should-retry" not in client.post(RESPONSES, json=body).headers
    server.scripts = [answer(calling("delete", {"name": "x"}))]
    response = client.post(RESPONSES, json=body)
    assert (response.status_code, response.headers["x-should-retry"]) == (status, "false")
    assert seen.calls == [("delete", "x")]
