"""POST /v1/messages: what is asked, what is answered, what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from gptoss_adapter.errors import InvalidRequestError
from gptoss_backend.contract import FinishReason, ReasoningEffort, Role, ToolCall, ToolChoiceMode
from support.fake_model_server import (
    CACHED_TOKENS,
    PROMPT_TOKENS,
    FakeModelServer,
    answer,
    token_ids,
)
from support.messages_api import COUNT, HI, MESSAGES, MODEL, WEATHER, ask, message_body, refusal, serving, stream
from support.responses_api import CALL

CALLED = {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Oslo"}}
RETURNED = {"type": "tool_result", "tool_use_id": "toolu_1", "content": "Snow"}


@pytest.fixture(scope="module")
def url_and_server() -> Iterator[tuple[str, FakeModelServer]]:
    server = FakeModelServer()
    with serving(server, max_messages=8) as url:
        yield url, server


# --- the whole answer -----------------------------------------------------------------------------------------------


def test_message_when_the_model_thinks_and_answers_then_both_are_blocks(client: httpx.Client) -> None:
    message = ask(client)
    assert message.pop("id").startswith("msg_")
    assert message == {
        "type": "message",
        "role": "assistant",
        "model": MODEL,
        "content": [
            {"type": "thinking", "thinking": "Easy.", "signature": "unsigned"},
            {"type": "text", "text": "Hello!"},
        ],
        "stop_reason": "end_turn",
        "stop_sequence": None,
        "usage": {
            "input_tokens": PROMPT_TOKENS - CACHED_TOKENS,
            "cache_creation_input_tokens": 0,
            "cache_read_input_tokens": CACHED_TOKENS,
            "output_tokens": 14,
            "output_tokens_details": {"thinking_tokens": 6},
            "service_tier": "standard",
        },
    }


def test_message_when_the_model_calls_then_it_stops_to_use_the_tool(
    client: httpx.Client, server: FakeModelServer
) -> None:
    server.script = answer(CALL)
    message = ask(client, tools=[WEATHER])
    thinking, call = message["content"]
    assert thinking["thinking"] == "Look it up."
    assert call.pop("id").startswith("toolu_")
    assert call == {"type": "tool_use", "name": "weather", "input": {"city": "Oslo"}}
    assert message["stop_reason"] == "tool_use"


def test_message_when_arguments_are_cut_then_what_is_whole_of_them_is_told(
    client: httpx.Client, server: FakeModelServer
) -> None:
    cut = CALL.removesuffix('"}<|call|>')
    server.script = answer(cut, reason=FinishReason.LENGTH)
    message = ask(client, tools=[WEATHER], max_tokens=len(token_ids(cut)))
    assert message["content"][-1]["input"] == {}
    assert message["stop_reason"] == "max_tokens"


def test_message_when_the_context_ends_before_max_tokens_then_it_says_so(
    client: httpx.Client, server: FakeModelServer
) -> None:
    server.script = answer("<|channel|>final<|message|>Hello", reason=FinishReason.LENGTH)
    assert ask(client, max_tokens=64)["stop_reason"] == "model_context_window_exceeded"


@pytest.mark.parametrize("reason", [FinishReason.STOP, FinishReason.LENGTH])
def test_message_when_no_tokens_are_asked_for_then_the_prompt_is_computed_and_nothing_is_told(
    client: httpx.Client, server: FakeModelServer, reason: FinishReason
) -> None:
    server.script = answer("<|channel|>", reason=reason)
    message = ask(client, max_tokens=0, stop_sequences=["x"])
    assert (message["content"], message["stop_reason"], message["stop_sequence"]) == ([], "max_tokens", None)
    assert (message["usage"]["output_tokens"], message["usage"]["cache_read_input_tokens"]) == (0, CACHED_TOKENS)
    assert server.samplings[-1].max_tokens == 1
    told = [event["type"] for event in stream(client, max_tokens=0) if event["type"] != "ping"]
    assert told == ["message_start", "message_delta", "message_stop"]


def test_message_when_a_stop_sequence_comes_then_it_is_named(client: httpx.Client, server: FakeModelServer) -> None:
    message = ask(client, stop_sequences=["xyz", "lo"])
    assert (message["stop_reason"], message["stop_sequence"]) == ("stop_sequence", "lo")
    assert message["content"][-1]["text"] == "Hel"
    assert server.streams[-1].cancelled


@pytest.mark.parametrize(
    ("thinking", "blocks"),
    [
        ({"type": "adaptive"}, ["thinking", "text"]),
        ({"type": "adaptive", "budget_tokens": 0}, ["thinking", "text"]),  # as Claude Code has sent it
        ({"type": "enabled", "budget_tokens": 2048, "display": "summarized"}, ["thinking", "text"]),
    ],
)
def test_message_when_thinking_is_configured_then_it_is_told(
    client: httpx.Client, thinking: dict[str, Any], blocks: list[str]
) -> None:
    assert [block["type"] for block in ask(client, thinking=thinking)["content"]] == blocks


def test_message_when_thinking_is_omitted_then_its_signature_brings_it_back(
    client: httpx.Client, server: FakeModelServer
) -> None:
    server.scripts = [answer(CALL)]
    omitted = {"thinking": {"type": "adaptive", "display": "omitted"}, "tools": [WEATHER]}
    message = ask(client, **omitted)
    assert message["content"][0]["thinking"] == ""
    result = {"type": "tool_result", "tool_use_id": message["content"][1]["id"], "content": "Snow"}
    turn = {"role": "assistant", "content": message["content"]}
    ask(client, messages=[*HI, turn, {"role": "user", "content": [result]}], **omitted)
    assert server.chats[-1].messages[1].reasoning == "Look it up."
    message["content"][0]["signature"] = "omitted:?"
    told = refusal(client, messages=[*HI, turn, {"role": "user", "content": [result]}])
    assert told == "'messages[1].content[0].signature' is not as this server gave it."


# --- what the model is asked ----------------------------------------------------------------------------------------


def test_message_when_it_holds_a_whole_conversation_then_the_model_sees_each_part(
    client: httpx.Client, server: FakeModelServer
) -> None:
    cached = {"cache_control": {"type": "ephemeral", "ttl": "1h"}}
    ask(
        client,
        system=[
            {"type": "text", "text": "x-anthropic-billing-header: cc_version=2; cch=1f;"},
            {"type": "text", "text": "Be brief.\n", **cached},
            {"type": "text", "text": "Be kind."},
        ],
        messages=[
            {
                "role": "user",
                "content": [{"type": "text", "text": "Hi. "}, {"type": "text", "text": "Weather?", **cached}],
            },
            {
                "role": "assistant",
                "content": [
                    {"type": "thinking", "thinking": "Look it up.", "signature": "c2ln"},
                    {"type": "redacted_thinking", "data": "…"},
                    {"type": "text", "text": "A moment.", "citations": None},
                    {**CALLED, "caller": {"type": "direct"}},
                ],
            },
            {
                "role": "user",
                "content": [
                    {**RETURNED, "content": [{"type": "text", "text": "Closed"}], "is_error": True},
                    {"type": "text", "text": "And?"},
                ],
            },
            {"role": "system", "content": "Be quick."},
        ],
        tools=[
            {**WEATHER, "strict": True, "eager_input_streaming": True, "input_examples": [{"city": "Rome"}], **cached}
        ],
    )
    chat = server.chats[-1]
    system, question, calling, result, more, late = chat.messages
    assert (system.role, system.content) == (Role.SYSTEM, "Be brief.\nBe kind.")
    assert (question.role, question.content) == (Role.USER, "Hi. Weather?")
    assert (calling.reasoning, calling.content) == ("Look it up.", "A moment.")
    assert calling.tool_calls == (ToolCall("toolu_1", "weather", '{"city":"Oslo"}'),)
    assert (result.role, result.tool_call_id, result.content) == (Role.TOOL, "toolu_1", "Error: Closed")
    assert (more.role, more.content) == (Role.USER, "And?")
    assert (late.role, late.content) == (Role.SYSTEM, "Be quick.")
    assert chat.tools[0].description == 'Tell the weather.\nExample: {"city":"Rome"}'
    assert chat.tools[0].parameters == WEATHER["input_schema"]
    assert chat.date == "2026-11-23"


def test_message_when_instructions_are_its_first_message_then_they_are_instructions(
    client: httpx.Client, server: FakeModelServer
) -> None:
    first = {"role": "system", "content": "Be kind."}
    ask(client, system="x-anthropic-billing-header: cch=1f;\nBe brief.", messages=[first, *HI])
    assert [(one.role, one.content) for one in server.chats[-1].messages] == [
        (Role.SYSTEM, "Be brief."),
        (Role.SYSTEM, "Be kind."),
        (Role.USER, "Hi"),
    ]


@pytest.mark.parametrize(
    ("choice", "mode", "name", "parallel"),
    [
        ({"type": "auto"}, ToolChoiceMode.AUTO, None, True),
        ({"type": "any", "disable_parallel_tool_use": True}, ToolChoiceMode.REQUIRED, None, False),
        ({"type": "tool", "name": "weather"}, ToolChoiceMode.REQUIRED, "weather", True),
        ({"type": "none"}, ToolChoiceMode.NONE, None, True),
    ],
)
def test_message_when_tools_are_to_be_chosen_from_then_the_choice_is_ours(
    client: httpx.Client,
    server: FakeModelServer,
    choice: dict[str, Any],
    mode: ToolChoiceMode,
    name: str | None,
    parallel: bool,
) -> None:
    ask(client, tools=[WEATHER], tool_choice=choice)
    chat = server.chats[-1]
    assert (chat.tool_choice.mode, chat.tool_choice.name, chat.parallel_tool_calls) == (mode, name, parallel)


@pytest.mark.parametrize(
    ("fields", "effort"),
    [
        ({"thinking": {"type": "disabled"}}, "none"),
        ({"thinking": {"type": "disabled"}, "output_config": {"effort": "high"}}, "none"),
        ({"thinking": {"type": "enabled", "budget_tokens": 4000}}, "low"),
        ({"thinking": {"type": "enabled", "budget_tokens": 10000}}, "medium"),
        ({"thinking": {"type": "enabled", "budget_tokens": 31999}}, "high"),
        ({"output_config": {"effort": "low"}}, "low"),
        ({"output_config": {"effort": "max"}, "thinking": {"type": "enabled", "budget_tokens": 1024}}, "high"),
    ],
)
def test_message_when_it_says_how_much_to_think_then_that_is_an_effort(
    client: httpx.Client, server: FakeModelServer, fields: dict[str, Any], effort: str
) -> None:
    ask(client, **fields)
    assert server.chats[-1].reasoning_effort is ReasoningEffort(effort)


def test_message_when_it_names_a_format_then_the_answer_is_held_to_it(
    client: httpx.Client, server: FakeModelServer
) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "integer"}}}
    ask(client, output_config={"format": {"type": "json_schema", "schema": schema}})
    assert server.chats[-1].response_format is not None
    assert server.chats[-1].response_format.schema == schema
    assert server.samplings[-1].structure is not None


def test_message_when_it_says_how_to_sample_then_it_is_sampled_so(
    client: httpx.Client, server: FakeModelServer
) -> None:
    ask(client, temperature=0.3, top_p=0.9, top_k=40, seed=7, max_tokens=5)
    sampling = server.samplings[-1]
    assert (sampling.temperature, sampling.top_p, sampling.top_k) == (0.3, 0.9, 40)
    assert (sampling.seed, sampling.max_tokens) == (7, 5)


def test_message_when_fields_ask_for_nothing_here_then_they_are_taken(client: httpx.Client) -> None:
    ask(
        client,
        metadata={"user_id": "user_1"},
        service_tier="auto",
        context_management={"edits": [{"type": "clear_thinking_20251015", "keep": "all"}]},
        diagnostics={"previous_message_id": None},
        cache_control={"type": "ephemeral"},
        speed="standard",
        mcp_servers=[],
    )


def test_message_when_the_profile_gives_fewer_tokens_then_those_are_all(server: FakeModelServer) -> None:
    sections = {"profiles": {"balanced": {"max_tokens": 20, "max_tokens_limit": 20}}, "profile": "balanced"}
    with serving(server, sections) as url, httpx.Client(base_url=url) as client:
        response = client.post(MESSAGES, json=message_body(model="gpt-oss-demo", max_tokens=32000))
    assert response.status_code == 200, response.text
    assert response.headers["x-gptoss-profile"] == "balanced"
    assert server.samplings[-1].max_tokens == 20


# --- refusals -------------------------------------------------------------------------------------------------------

PICTURE = {"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": ""}}


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        ({"messages": [{"role": "user", "content": [PICTURE]}]}, "'messages[0].content[0]'"),
        (
            {
                "messages": [
                    *HI,
                    {"role": "assistant", "content": [CALLED]},
                    {"role": "user", "content": [{**RETURNED, "content": [{"type": "tool_reference"}]}]},
                ]
            },
            "'messages[2].content[0].content[0]'",
        ),
        ({"tools": [{"type": "web_search_20250305", "name": "web_search", "max_uses": 8}]}, "'tools[0].type'"),
        ({"tools": [{**WEATHER, "defer_loading": True}]}, "'tools[0].defer_loading'"),
        ({"tools": [{**WEATHER, "name": "a b"}]}, "'tools[0].name'"),
        ({"tool_choice": {"type": "any"}}, "tool_choice"),
        ({"tools": [WEATHER], "tool_choice": {"type": "tool", "name": "time"}}, "tool_choice"),
        (
            {"context_management": {"edits": [{"type": "clear_tool_uses_20250919"}]}},
            "'context_management.edits[0].type'",
        ),
        ({"container": "container_1"}, "'container'"),
        ({"mcp_servers": [{"type": "url"}]}, "'mcp_servers'"),
        ({"speed": "fast"}, "'speed'"),
        ({"stop": ["a"]}, "'stop'"),
        ({"n": 2}, "'n'"),
        ({"max_tokens": None}, "'max_tokens'"),
        ({"max_tokens": -1}, "'max_tokens'"),
        ({"max_tokens": 0, "min_tokens": 2}, "'min_tokens'"),
        ({"temperature": 1.5}, "'temperature'"),
        ({"messages": []}, "'messages'"),
        ({"messages": HI * 9}, "conversation has 9 messages"),
        ({"output_config": {"task_budget": {"type": "tokens", "total": 9}}}, "'output_config.task_budget'"),
        ({"colour": "red"}, "'colour'"),
    ],
)
def test_message_when_it_asks_for_what_is_not_done_then_the_refusal_names_it(
    client: httpx.Client, fields: dict[str, Any], named: str
) -> None:
    assert named in refusal(client, **fields)


def test_message_when_it_has_a_picture_then_one_sentence_says_what_is_taken(client: httpx.Client) -> None:
    question = {"role": "user", "content": [{"type": "text", "text": "What is it?"}, PICTURE]}
    assert refusal(client, messages=[question]) == (
        "Invalid value for 'messages[0].content[1]': this model takes text only, but this part is of type 'image'; "
        "send parts of type 'text' or 'tool_result'."
    )
    told = refusal(client, system=[PICTURE])
    assert told.endswith("but this part is of type 'image'; send parts of type 'text'.")


@pytest.mark.parametrize(
    ("messages", "sentence"),
    [
        ([*HI, {"role": "user", "content": [RETURNED]}], "messages: No tool call found"),
        ([*HI, {"role": "assistant", "content": [CALLED]}, *HI], "messages: No tool output found"),
    ],
)
def test_message_when_calls_and_results_do_not_match_then_it_is_refused(
    client: httpx.Client, messages: list[dict[str, Any]], sentence: str
) -> None:
    told = refusal(client, messages=messages)
    assert told.startswith(sentence)
    assert "toolu_1" in told


def test_message_when_the_prompt_cannot_be_made_then_the_refusal_names_fields_of_this_api(
    client: httpx.Client, server: FakeModelServer
) -> None:
    server.preprocess_error = InvalidRequestError("messages[3]: it is odd.", param="messages[3]")
    assert refusal(client) == "messages: it is odd."
    assert refusal(client, path=COUNT, max_tokens=None).startswith("Unknown parameter: 'max_tokens'")


def test_message_when_a_tool_is_called_that_nobody_offered_then_the_model_writes_on(
    client: httpx.Client, server: FakeModelServer
) -> None:
    server.scripts = [answer("<|channel|>commentary to=browser.search code<|message|>{}<|call|>")]
    message = ask(client)
    assert [block["type"] for block in message["content"]][-1] == "text"
    assert message["content"][-1]["text"] == "Hello!"
    assert message["stop_reason"] == "end_turn"
