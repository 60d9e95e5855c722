"""Items → messages: what makes one message, which calls and outputs match."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from gptoss_adapter.errors import InvalidRequestError
from gptoss_adapter.responses.conversation import chat_messages
from gptoss_adapter.responses.server_tools.mcp_conversation import approved_calls
from gptoss_adapter.schemas.response_items import Item
from gptoss_backend.contract import ChatMessage, ChatRequest, Phase, Role, ToolCall
from gptoss_backend.harmony.prompt import render_prompt
from gptoss_backend.harmony.vocabulary import encoding

ITEMS: TypeAdapter[list[Item]] = TypeAdapter(list[Item])


def messages_of(*items: dict[str, Any]) -> tuple[ChatMessage, ...]:
    return chat_messages(ITEMS.validate_python(list(items)))


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def said(text: str, phase: Phase | None = None) -> dict[str, Any]:
    return {"role": "assistant", "content": [{"type": "output_text", "text": text}], "phase": phase}


def thought(text: str) -> dict[str, Any]:
    return {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": text}]}


def call(call_id: str, **fields: object) -> dict[str, Any]:
    return {"type": "function_call", "call_id": call_id, "name": "f", "arguments": f'"{call_id}"', **fields}


def output(call_id: str) -> dict[str, Any]:
    return {"type": "function_call_output", "call_id": call_id, "output": f"of {call_id}"}


def assistant(content: str | None, reasoning: str | None, *calls: str, phase: Phase | None = None) -> ChatMessage:
    made = tuple(ToolCall(one, "f", f'"{one}"') for one in calls)
    return ChatMessage(Role.ASSISTANT, content, reasoning, made, phase=phase)


def result(call_id: str) -> ChatMessage:
    return ChatMessage(Role.TOOL, f"of {call_id}", tool_call_id=call_id)


@pytest.mark.parametrize(
    ("items", "messages"),
    [
        ([thought("t"), said("s")], [assistant("s", "t")]),
        ([said("one"), said("two")], [assistant("one", None), assistant("two", None)]),
        (
            [thought("t1"), said("one"), thought("t2"), said("two")],
            [assistant("one", "t1"), assistant("two", "t2")],
        ),
        ([thought("t"), call("a"), output("a")], [assistant(None, "t", "a"), result("a")]),
        (
            [call("a"), call("b"), output("b"), output("a")],
            [assistant(None, None, "a", "b"), result("b"), result("a")],
        ),
        (
            [thought("t1"), said("I look."), thought("t2"), call("a"), output("a")],
            [assistant("I look.", "t1", phase="commentary"), assistant(None, "t2", "a"), result("a")],
        ),
        (
            [said("I look."), thought("t"), call("a"), call("b"), output("a"), output("b")],
            [
                assistant("I look.", None, phase="commentary"),
                assistant(None, "t", "a", "b"),
                result("a"),
                result("b"),
            ],
        ),
        (
            [
                *(thought("t1"), thought("t2"), said("I look."), call("a"), said("so", "final_answer"), call("b")),
                *(output("a"), output("b")),
            ],
            [
                assistant(None, "t1"),
                assistant("I look.", "t2", "a", phase="commentary"),
                assistant("so", None, "b", phase="final_answer"),
                result("a"),
                result("b"),
            ],
        ),
        ([said("on my way", "commentary")], [assistant("on my way", None, phase="commentary")]),
        (
            [call("a"), said("done"), output("a")],
            [assistant(None, None, "a"), assistant("done", None), result("a")],
        ),
        (
            [thought("t1"), call("a"), output("a"), thought("t2"), call("b"), output("b"), said("s")],
            [assistant(None, "t1", "a"), result("a"), assistant(None, "t2", "b"), result("b"), assistant("s", None)],
        ),
        ([thought("t")], [assistant(None, "t")]),
        ([call("a", status="incomplete"), user("u")], [ChatMessage(Role.USER, "u")]),
        ([call("a", status="incomplete"), output("a")], [assistant(None, None, "a"), result("a")]),
        (
            [{"type": "reasoning", "summary": [{"type": "summary_text", "text": "in short"}]}],
            [assistant(None, "in short")],
        ),
        (
            [{"role": "user", "content": [{"type": "input_text", "text": t} for t in "ab"]}],
            [ChatMessage(Role.USER, "ab")],
        ),
    ],
)
def test_items_when_made_messages_then_each_turn_is_as_a_chat_would_have_it(
    items: list[dict[str, Any]], messages: list[ChatMessage]
) -> None:
    assert messages_of(*items) == tuple(messages)


def test_preamble_when_a_call_follows_then_it_is_commentary_and_its_reasoning_is_seen_again() -> None:
    messages = messages_of(user("u"), thought("t1"), said("I look."), thought("t2"), call("a"), output("a"))
    prompt = encoding().decode(render_prompt(ChatRequest(messages)))
    said_so_far = ["analysis<|message|>t1", "commentary<|message|>I look.", "analysis<|message|>t2"]
    assert "".join(f"<|start|>assistant<|channel|>{one}<|end|>" for one in said_so_far) in prompt


@pytest.mark.parametrize(
    ("items", "named"),
    [
        ([output("a")], "call_id a"),
        ([output("a"), call("a")], "call_id a"),
        ([call("a"), call("b"), output("a")], "function call b"),
        ([call("a", name="no name"), output("a")], "no name"),
    ],
)
def test_items_when_calls_and_outputs_do_not_match_then_the_error_names_the_one(
    items: list[dict[str, Any]], named: str
) -> None:
    with pytest.raises(InvalidRequestError, match=named) as refusal:
        messages_of(*items)
    assert refusal.value.param == "input"


ANY_ITEM = st.one_of(
    st.builds(user, st.text()),
    st.builds(said, st.text()),
    st.builds(thought, st.text()),
    st.builds(call, st.sampled_from("abc")),
    st.builds(output, st.sampled_from("abc")),
)


@given(st.lists(ANY_ITEM, max_size=12))
def test_items_when_they_come_in_any_order_then_they_are_refused_or_rendered_and_no_text_is_lost(
    items: list[dict[str, Any]],
) -> None:
    try:
        messages = messages_of(*items)
    except InvalidRequestError:
        return
    if messages:
        render_prompt(ChatRequest(messages))
    told = "".join(message.content or "" for message in messages)
    thoughts = "".join(message.reasoning or "" for message in messages)
    for item in items:
        if item.get("type") == "reasoning":
            assert item["content"][0]["text"] in thoughts
        elif item.get("role"):
            content = item["content"]
            assert (content if isinstance(content, str) else content[0]["text"]) in told
    assert sum(len(message.tool_calls) for message in messages) == sum(
        item.get("type") == "function_call" for item in items
    )


def mcp_call(item_id: str, request_id: str | None, status: str, **came: object) -> dict[str, Any]:
    about = {"server_label": "docs", "name": "f", "arguments": "{", "approval_request_id": request_id}
    return {"type": "mcp_call", "id": item_id, "status": status, **about, **came}


def asked(item_id: str) -> dict[str, Any]:
    return {"type": "mcp_approval_request", "id": item_id, "server_label": "docs", "name": "f", "arguments": "{}"}


def answered(request_id: str, approve: bool) -> dict[str, Any]:
    return {"type": "mcp_approval_response", "approval_request_id": request_id, "approve": approve}


IDS = st.sampled_from("pq")
CAME = st.sampled_from(
    [
        {},
        {"output": "Found."},
        {"error": {"type": "http_error", "code": 504, "message": "Late."}},
        {"error": {"type": "mcp_tool_execution_error", "content": [{"type": "text", "text": "No."}]}},
        {"error": {"type": "mcp_tool_execution_error", "content": None}},
    ]
)
ANY_MCP_ITEM = st.one_of(
    ANY_ITEM,
    st.builds(
        lambda item_id, request_id, status, came: mcp_call(item_id, request_id, status, **came),
        st.sampled_from("xyz"),
        st.one_of(st.none(), IDS),
        st.sampled_from(["completed", "failed", "incomplete", "in_progress", "calling"]),
        CAME,
    ),
    st.builds(asked, IDS),
    st.builds(answered, IDS, st.booleans()),
    st.just({"type": "mcp_list_tools", "id": "l", "server_label": "docs", "tools": []}),
)


@given(st.lists(ANY_MCP_ITEM, max_size=12))
def test_items_when_servers_have_run_some_then_they_are_refused_or_each_call_has_one_result(
    items: list[dict[str, Any]],
) -> None:
    read = ITEMS.validate_python(items)
    try:
        messages = chat_messages(read)
        pending = {request.id for request in approved_calls(read)}
    except InvalidRequestError:
        return
    if messages:
        render_prompt(ChatRequest(messages))
    calls = [call for message in messages for call in message.tool_calls if call.name == "docs__f"]
    results = [message for message in messages if message.tool_call_id in {call.id for call in calls}]
    assert len(calls) == len(results)
    assert all(message.content for message in results)
    assert pending.isdisjoint(call.id for call in calls)
    assert pending.isdisjoint(
        item["approval_request_id"]
        for item in items
        if item.get("type") == "mcp_call" and item["status"] != "incomplete"
    )


@pytest.mark.parametrize(
    ("came", "told"),
    [
        ({"output": "Found."}, "Found."),
        ({}, "What came of this call is not known."),
        ({"error": {"type": "http_error", "code": 504, "message": "Late."}}, "This call failed: Late."),
        ({"error": {"type": "mcp_tool_execution_error", "content": {"odd": 1}}}, "The tool failed: {'odd': 1}"),
    ],
)
def test_mcp_call_when_it_is_sent_back_then_the_model_sees_a_call_and_its_result(
    came: dict[str, Any], told: str
) -> None:
    messages = messages_of(user("u"), thought("t"), mcp_call("x", None, "completed", **came), user("v"))
    assert messages[1:3] == (
        ChatMessage(Role.ASSISTANT, None, "t", (ToolCall("x", "docs__f", "{"),)),
        ChatMessage(Role.TOOL, told, tool_call_id="x"),
    )


def test_mcp_call_when_its_name_is_none_then_the_error_names_it() -> None:
    with pytest.raises(InvalidRequestError, match="no name"):
        messages_of(mcp_call("x", None, "completed", name="no name"))


def test_mcp_call_when_the_response_ended_before_it_was_run_then_its_approval_still_stands() -> None:
    left = mcp_call("x", "p", "incomplete")
    items = ITEMS.validate_python([user("u"), asked("p"), answered("p", True), left])
    assert [request.id for request in approved_calls(items)] == ["p"]
    assert [message.role for message in chat_messages(items)] == [Role.USER]
