"""Items → messages: what makes one message, which calls and outputs match."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import TypeAdapter

from gptoss_adapter.errors import InvalidRequestError
from gptoss_adapter.responses.conversation import chat_messages
from gptoss_adapter.schemas.response_items import Item
from gptoss_backend.contract import ChatMessage, ChatRequest, Role, ToolCall
from gptoss_backend.harmony.prompt import render_prompt
from gptoss_backend.harmony.vocabulary import encoding

ITEMS: TypeAdapter[list[Item]] = TypeAdapter(list[Item])


def messages_of(*items: dict[str, Any]) -> tuple[ChatMessage, ...]:
    return chat_messages(ITEMS.validate_python(list(items)))


def user(text: str) -> dict[str, Any]:
    return {"role": "user", "content": text}


def said(text: str) -> dict[str, Any]:
    return {"role": "assistant", "content": [{"type": "output_text", "text": text}]}


def thought(text: str) -> dict[str, Any]:
    return {"type": "reasoning", "summary": [], "content": [{"type": "reasoning_text", "text": text}]}


def call(call_id: str, **fields: object) -> dict[str, Any]:
    return {"type": "function_call", "call_id": call_id, "name": "f", "arguments": f'"{call_id}"', **fields}


def output(call_id: str) -> dict[str, Any]:
    return {"type": "function_call_output", "call_id": call_id, "output": f"of {call_id}"}


def assistant(content: str | None, reasoning: str | None, *calls: str) -> ChatMessage:
    return ChatMessage(Role.ASSISTANT, content, reasoning, tuple(ToolCall(one, "f", f'"{one}"') for one in calls))


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
            [assistant("I look.", "t1\n\nt2", "a"), result("a")],
        ),
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
            [ChatMessage(Role.USER, "a\nb")],
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
    assert "<|channel|>commentary<|message|>I look.<|end|>" in prompt
    assert "<|channel|>analysis<|message|>t1\n\nt2<|end|>" in prompt


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
