"""POST /v1/responses with tools of type mcp that are only run once somebody has approved of the call."""

from __future__ import annotations

from typing import Any

import httpx
import pytest

from gptoss_backend.contract import ChatMessage, FinishReason, Role, ToolCall
from support.conversations_api import created, items
from support.fake_model_server import FakeModelServer, answer
from support.mcp_server import ASKED, Seen, calling, kinds
from support.responses_api import WEATHER, refusal, respond, stream
from support.tool_fixtures import mcp_fixtures

url_and_server, seen = mcp_fixtures()


def asking(client: httpx.Client, server: FakeModelServer, **fields: object) -> dict[str, Any]:
    """Return a response that ends with a request for approval of a deletion."""
    server.scripts = [answer(calling("delete", {"name": "x"}, "Delete it."))]
    told = respond(client, tools=[ASKED], **fields)
    assert kinds(told["output"]) == ["mcp_list_tools", "reasoning", "mcp_approval_request"]
    return told


def approval(told: dict[str, Any], *, approve: bool = True, **fields: object) -> dict[str, Any]:
    request_id = told["output"][-1]["id"]
    return {"type": "mcp_approval_response", "approval_request_id": request_id, "approve": approve, **fields}


def test_call_when_nobody_has_approved_then_it_is_asked_for_and_not_run(
    client: httpx.Client, server: FakeModelServer, seen: Seen
) -> None:
    told = asking(client, server)
    request = told["output"][-1]
    assert request.pop("id").startswith("mcpr_")
    assert request == {
        "type": "mcp_approval_request",
        "server_label": "docs",
        "name": "delete",
        "arguments": '{"name": "x"}',
    }
    assert (told["status"], seen.calls) == ("completed", [])


def test_stream_when_approval_is_asked_for_then_the_request_comes_whole(
    client: httpx.Client, server: FakeModelServer
) -> None:
    server.scripts = [answer(calling("delete", {"name": "x"}))]
    events = stream(client, tools=[ASKED])
    about = [event for event in events if event.get("output_index") == 2]
    assert [event["type"] for event in about] == ["response.output_item.added", "response.output_item.done"]
    assert about[0]["item"] == about[1]["item"] == events[-1]["response"]["output"][2]


@pytest.mark.parametrize("kept", [True, False])
def test_call_when_it_is_approved_then_it_is_run_before_the_model_goes_on(
    client: httpx.Client, server: FakeModelServer, seen: Seen, kept: bool
) -> None:
    first = asking(client, server, store=kept)
    hi = {"role": "user", "content": "Hi"}
    given = [approval(first)] if kept else [hi, *first["output"], approval(first)]
    link = {"previous_response_id": first["id"]} if kept else {"store": False}
    second = respond(client, given, tools=[ASKED], **link)
    assert kinds(second["output"]) == ["mcp_call", "reasoning", "message"]
    call = second["output"][0]
    assert (call["approval_request_id"], call["output"]) == (first["output"][-1]["id"], "Deleted x.")
    assert server.chats[1].messages[1:] == (
        ChatMessage(Role.ASSISTANT, None, "Delete it.", (ToolCall(call["id"], "docs__delete", '{"name": "x"}'),)),
        ChatMessage(Role.TOOL, "Deleted x.", tool_call_id=call["id"]),
    )
    given = [hi] if kept else [*given, *second["output"], hi]
    respond(client, given, tools=[ASKED], **({"previous_response_id": second["id"]} if kept else link))
    assert seen.calls == [("delete", "x")]  # and not once more


@pytest.mark.parametrize(
    ("answers", "told"),
    [
        ([{"approve": False}], "This call was not run: it was refused."),
        ([{"approve": False, "reason": "Keep it."}], "This call was not run: it was refused. Keep it."),
        ([], "This call was not run: nobody has approved of it."),
    ],
)
def test_call_when_it_is_refused_or_passed_over_then_the_model_is_told(
    client: httpx.Client, server: FakeModelServer, seen: Seen, answers: list[dict[str, Any]], told: str
) -> None:
    first = asking(client, server)
    given = [*(approval(first, **one) for one in answers), {"role": "user", "content": "Hi"}]
    respond(client, given, tools=[ASKED], previous_response_id=first["id"])
    assert server.chats[1].messages[2].content == told
    assert seen.calls == []


def test_call_when_its_tool_is_gone_from_the_request_then_approving_it_is_a_400(
    client: httpx.Client, server: FakeModelServer, seen: Seen
) -> None:
    first = asking(client, server)
    for tools in ([], [WEATHER], [{**ASKED, "allowed_tools": ["search"]}]):
        error = refusal(client, input=[approval(first)], tools=tools, previous_response_id=first["id"])
        assert "not among the 'tools'" in error["message"]
    nothing = {"type": "mcp_approval_response", "approval_request_id": "mcpr_1", "approve": True}
    assert refusal(client, input=[nothing], tools=[ASKED])["message"].startswith("No approval request found")
    assert seen.calls == []


@pytest.mark.parametrize(
    ("asked", "is_asked"),
    [
        (None, True),
        ("always", True),
        ("never", False),
        ({"never": {"tool_names": ["search"]}}, False),
        ({"never": {"tool_names": ["delete"]}}, True),
        ({"never": {"read_only": True}}, False),
        ({"always": {"tool_names": ["delete"]}}, True),
        ({"always": {"tool_names": ["search"]}, "never": {"read_only": True}}, True),
    ],
)
def test_approval_when_filters_say_which_tools_need_it_then_those_neither_names_do(
    client: httpx.Client, server: FakeModelServer, asked: object, is_asked: bool
) -> None:
    server.scripts = [answer(calling("search"))]
    told = respond(client, tools=[{**ASKED, "require_approval": asked}])
    assert ("mcp_approval_request" in kinds(told["output"])) is is_asked


def test_approval_when_its_request_was_cut_then_nobody_is_asked(client: httpx.Client, server: FakeModelServer) -> None:
    server.scripts = [answer(calling("search").removesuffix('"x"}<|call|>'), reason=FinishReason.LENGTH)]
    assert kinds(respond(client, tools=[ASKED])["output"]) == ["mcp_list_tools", "reasoning"]


def test_call_when_it_is_approved_in_its_conversation_then_it_is_run_and_all_of_it_is_added(
    client: httpx.Client, server: FakeModelServer, seen: Seen
) -> None:
    conversation = created(client)
    told = asking(client, server, conversation=conversation)
    server.scripts = [answer("<|channel|>final<|message|>Done.<|return|>")]
    respond(client, [approval(told)], conversation=conversation, tools=[ASKED], max_tool_calls=1)
    assert [name for name, _ in seen.calls] == ["delete"]
    assert kinds(items(client, conversation)) == [
        *("message", "mcp_list_tools", "reasoning", "mcp_approval_request"),
        *("mcp_approval_response", "mcp_call", "message"),
    ]
    respond(client, "Thanks", conversation=conversation)
    assert [message.content for message in server.chats[-1].messages][-2:] == ["Done.", "Thanks"]
