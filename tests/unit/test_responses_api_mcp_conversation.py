"""POST /v1/responses with tools of type mcp, and what comes after their calls."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from support.fake_model_server import FakeModelServer, answer
from support.mcp_server import DOCS, Seen, call_of, calling, kinds
from support.responses_api import CALL, RESPONSES, WEATHER, respond
from support.tool_fixtures import mcp_fixtures

url_and_server, seen = mcp_fixtures()


NOTE = {"type": "custom", "name": "note"}
CALL_NOTE = "<|channel|>analysis<|message|>Note it.<|end|><|start|>assistant<|channel|>commentary to=functions.note"


@pytest.mark.parametrize("kept", [True, False])
def test_conversation_when_it_goes_on_then_the_model_sees_the_calls_and_no_list_is_told_again(
    client: httpx.Client, server: FakeModelServer, seen: Seen, kept: bool
) -> None:
    server.scripts = [answer(calling("search"))]
    first = respond(client, tools=[DOCS], store=kept)
    num_requests = seen.num_requests
    hi = {"role": "user", "content": "Hi"}
    if kept:
        told = respond(client, [hi], tools=[DOCS], previous_response_id=first["id"])
    else:
        told = respond(client, [hi, *first["output"], hi], tools=[DOCS], store=False)
    assert kinds(told["output"]) == ["reasoning", "message"]
    assert [message.role for message in server.chats[2].messages] == ["user", "assistant", "tool", "assistant", "user"]
    assert server.chats[2].messages[2].content == "Found: x"
    assert seen.num_requests - num_requests <= 1  # its session's end; the list is remembered
    if kept:
        items = client.get(f"{RESPONSES}/{told['id']}/input_items", params={"order": "asc"}).json()["data"]
        assert kinds(items)[:4] == ["message", "mcp_list_tools", "reasoning", "mcp_call"]


def test_conversation_when_it_goes_on_without_the_tool_then_the_model_sees_the_calls_all_the_same(
    client: httpx.Client, server: FakeModelServer
) -> None:
    server.scripts = [answer(calling("search"))]
    first = respond(client, tools=[DOCS])
    respond(client, previous_response_id=first["id"])
    assert server.chats[2].messages[1].tool_calls[0].name == "docs__search"
    assert server.chats[2].tools == ()


@pytest.mark.parametrize(
    ("tool", "called", "kind"),
    [
        (WEATHER, CALL, "function_call"),
        (NOTE, CALL_NOTE + ' <|constrain|>json<|message|>{"input":"x"}<|call|>', "custom_tool_call"),
    ],
)
def test_turn_when_it_calls_tools_of_both_sides_then_servers_are_run_and_the_response_ends_with_the_clients(
    client: httpx.Client, server: FakeModelServer, seen: Seen, tool: dict[str, Any], called: str, kind: str
) -> None:
    server.scripts = [answer(f"{calling('search')}<|start|>assistant{called}")]
    told = respond(client, tools=[DOCS, tool])
    assert kinds(told["output"])[1:] == ["reasoning", "mcp_call", "reasoning", kind]
    assert (told["status"], call_of(told)["output"], seen.calls) == ("completed", "Found: x", [("search", "x")])
    result = {"type": f"{kind}_output", "call_id": told["output"][-1]["call_id"], "output": "Snow"}
    respond(client, [result], tools=[DOCS, tool], previous_response_id=told["id"])
    assert [message.content for message in server.chats[1].messages] == ["Hi", None, "Found: x", None, "Snow"]
