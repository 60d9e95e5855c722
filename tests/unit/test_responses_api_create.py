"""POST /v1/responses, whole answers: what is asked of the model, what is told."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from gptoss_adapter.errors import (
    ContextLengthExceededError,
    InvalidRequestError,
    ServiceUnavailableError,
    TooManyRequestsError,
    refusal_of,
)
from gptoss_adapter.responses.naming import naming_fields_of_this_api
from gptoss_backend.contract import (
    ChatMessage,
    FinishReason,
    FunctionTool,
    ReasoningEffort,
    ResponseFormat,
    Role,
    ToolCall,
    ToolChoice,
    ToolChoiceMode,
)
from support.fake_model_server import CACHED_TOKENS, HELLO, PROMPT_TOKENS, FakeModelServer, answer, token_ids
from support.responses_api import CALL, MODEL, RESPONSES, WEATHER, refusal, respond, serving, stream


@pytest.fixture(scope="module")
def url_and_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, FakeModelServer]]:
    server = FakeModelServer()
    with serving(tmp_path_factory.mktemp("store") / "responses.sqlite", server) as url:
        yield url, server


@pytest.fixture
def server(url_and_server: tuple[str, FakeModelServer]) -> FakeModelServer:
    server = url_and_server[1]
    server.forget()
    return server


@pytest.fixture
def client(url_and_server: tuple[str, FakeModelServer], server: FakeModelServer) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=url_and_server[0], timeout=10) as client:
        yield client


# --- what is told ---------------------------------------------------------------------------------------------------


def test_response_when_whole_then_it_holds_the_output_the_usage_and_what_was_asked(client: httpx.Client) -> None:
    told = respond(client, "Hi", instructions="Be brief.", metadata={"a": "b"}, user="me", temperature=0.5)
    reasoning, message = told["output"]
    for item, prefix in ((told, "resp_"), (reasoning, "rs_"), (message, "msg_")):
        assert item.pop("id").startswith(prefix)
    assert reasoning == {
        "type": "reasoning",
        "status": "completed",
        "summary": [],
        "content": [{"type": "reasoning_text", "text": "Easy."}],
    }
    assert message == {
        "type": "message",
        "status": "completed",
        "role": "assistant",
        "content": [{"type": "output_text", "text": "Hello!", "annotations": [], "logprobs": []}],
    }
    num_tokens = len(HELLO) - 1
    assert told["usage"] == {
        "input_tokens": PROMPT_TOKENS,
        "input_tokens_details": {
            "cached_tokens": CACHED_TOKENS,
            "cache_write_tokens": PROMPT_TOKENS - CACHED_TOKENS,
        },
        "output_tokens": num_tokens,
        "output_tokens_details": {"reasoning_tokens": len(token_ids("<|channel|>analysis<|message|>Easy.<|end|>"))},
        "total_tokens": PROMPT_TOKENS + num_tokens,
    }
    assert told["completed_at"] >= told["created_at"]
    expected = {
        "object": "response",
        "status": "completed",
        "error": None,
        "incomplete_details": None,
        "model": MODEL,
        "instructions": "Be brief.",
        "metadata": {"a": "b"},
        "user": "me",
        "temperature": 0.5,
        "top_p": 1.0,
        "max_output_tokens": None,
        "previous_response_id": None,
        "tools": [],
        "tool_choice": "auto",
        "parallel_tool_calls": True,
        "text": {"format": {"type": "text"}, "verbosity": "medium"},
        "reasoning": {"effort": "medium", "summary": None},
        "truncation": "disabled",
        "background": False,
        "store": True,
        "service_tier": "default",
        "top_logprobs": 0,
    }
    assert {name: told[name] for name in expected} == expected


def test_response_when_the_model_calls_functions_then_each_call_is_an_item(
    client: httpx.Client, server: FakeModelServer
) -> None:
    server.script = answer(
        CALL + CALL.replace("Look it up.", "Again.").replace("Oslo", "Rome").join(("<|start|>assistant", ""))
    )
    told = respond(client, tools=[WEATHER])
    assert [item["type"] for item in told["output"]] == ["reasoning", "function_call"] * 2
    first, second = told["output"][1], told["output"][3]
    assert (first["name"], first["arguments"], first["status"]) == ("weather", '{"city":"Oslo"}', "completed")
    assert second["arguments"] == '{"city":"Rome"}'
    assert first["call_id"].startswith("call_")
    assert first["id"].startswith("fc_")
    assert first["call_id"] != second["call_id"]
    assert told["output"][2]["content"] == [{"type": "reasoning_text", "text": "Again."}]  # no empty line before it
    assert told["tools"] == [WEATHER]
    assert told["status"] == "completed"


@pytest.mark.parametrize(
    ("harmony", "kinds"),
    [
        ("<|channel|>analysis<|message|>So many", ["reasoning"]),
        (
            "<|channel|>analysis<|message|>Easy.<|end|><|start|>assistant<|channel|>final<|message|>Hel",
            ["reasoning", "message"],
        ),
        (CALL.removesuffix('lo"}<|call|>'), ["reasoning", "function_call"]),
    ],
    ids=["reasoning", "message", "call"],
)
def test_response_when_the_budget_is_spent_then_it_and_its_last_item_are_incomplete(
    client: httpx.Client, server: FakeModelServer, harmony: str, kinds: list[str]
) -> None:
    server.script = answer(harmony, reason=FinishReason.LENGTH)
    told = respond(client, max_output_tokens=5, tools=[WEATHER])
    assert told["status"] == "incomplete"
    assert told["incomplete_details"] == {"reason": "max_output_tokens"}
    assert told["completed_at"] is None
    assert [item["type"] for item in told["output"]] == kinds
    assert [item["status"] for item in told["output"]] == ["completed"] * (len(kinds) - 1) + ["incomplete"]
    assert told["usage"]["output_tokens"] == len(token_ids(harmony))


def test_response_when_a_stop_token_falls_inside_a_call_then_the_call_is_incomplete(
    client: httpx.Client, server: FakeModelServer
) -> None:
    server.script = answer(CALL.removesuffix('lo"}<|call|>'))
    told = respond(client, tools=[WEATHER])
    assert [(item["type"], item["status"]) for item in told["output"]][-1] == ("function_call", "incomplete")


def test_response_when_a_stop_string_comes_then_the_text_ends_before_it(client: httpx.Client) -> None:
    told = respond(client, stop="llo")
    assert told["output"][1]["content"][0]["text"] == "He"
    assert told["status"] == "completed"


def test_response_when_the_model_says_nothing_then_there_are_no_items(
    client: httpx.Client, server: FakeModelServer
) -> None:
    server.script = answer("<|return|>")
    told = respond(client)
    assert (told["status"], told["output"]) == ("completed", [])


# --- what is asked of the model -------------------------------------------------------------------------------------


def test_request_when_it_sets_everything_then_the_model_server_is_asked_for_it(
    client: httpx.Client, server: FakeModelServer
) -> None:
    respond(
        client,
        "Hi",
        instructions="Be brief.",
        tools=[WEATHER],
        tool_choice="required",
        parallel_tool_calls=False,
        text={"format": {"type": "json_schema", "name": "fact", "schema": {"type": "object"}, "strict": True}},
        reasoning={"effort": "high", "summary": "auto"},
        max_output_tokens=50,
        temperature=0.25,
        top_p=0.5,
        top_k=7,
        min_p=0.1,
        presence_penalty=1.0,
        frequency_penalty=0.5,
        repetition_penalty=1.1,
        min_tokens=2,
        seed=5,
        priority=-3,
        logit_bias={"7": -1},
        stop_token_ids=[9],
        n=1,
        profile="balanced",
    )
    [chat], [sampling] = server.chats, server.samplings
    assert chat.messages == (ChatMessage(Role.SYSTEM, "Be brief."), ChatMessage(Role.USER, "Hi"))
    assert chat.tools == (FunctionTool("weather", "Tell the weather.", WEATHER["parameters"], strict=True),)  # type: ignore[arg-type]
    assert chat.tool_choice == ToolChoice(ToolChoiceMode.REQUIRED)
    assert chat.parallel_tool_calls is False
    assert chat.response_format == ResponseFormat({"type": "object"}, "fact", strict=True)
    assert chat.reasoning_effort is ReasoningEffort.HIGH
    assert chat.date == "2026-11-23"
    asked = {name: getattr(sampling, name) for name in ("max_tokens", "temperature", "top_p", "top_k", "min_p", "seed")}
    assert asked == {"max_tokens": 50, "temperature": 0.25, "top_p": 0.5, "top_k": 7, "min_p": 0.1, "seed": 5}
    assert (sampling.presence_penalty, sampling.frequency_penalty, sampling.repetition_penalty) == (1.0, 0.5, 1.1)
    assert (sampling.min_tokens, sampling.priority, sampling.logprobs) == (2, -3, None)
    assert (sampling.logit_bias, sampling.stop_token_ids) == ({7: -1.0}, (9,))


def test_request_when_it_sets_nothing_then_the_profile_and_openais_defaults_hold(
    client: httpx.Client, server: FakeModelServer
) -> None:
    respond(client)
    [chat], [sampling] = server.chats, server.samplings
    assert chat.tool_choice == ToolChoice()
    assert chat.response_format is None
    assert chat.reasoning_effort is ReasoningEffort.MEDIUM
    assert (sampling.max_tokens, sampling.temperature, sampling.top_p, sampling.seed) == (None, 1.0, 1.0, None)


@pytest.mark.parametrize(
    ("choice", "asked", "offered"),
    [
        ("none", ToolChoice(ToolChoiceMode.NONE), None),
        ("auto", ToolChoice(), None),
        ({"type": "function", "name": "time"}, ToolChoice(ToolChoiceMode.REQUIRED, "time"), None),
        (
            {"type": "allowed_tools", "mode": "required", "tools": [{"type": "function", "name": "time"}]},
            ToolChoice(ToolChoiceMode.REQUIRED),
            ["time"],
        ),
    ],
)
def test_request_when_it_chooses_tools_then_the_choice_is_passed_on_and_told(
    client: httpx.Client, server: FakeModelServer, choice: object, asked: ToolChoice, offered: list[str] | None
) -> None:
    told = respond(client, tools=[WEATHER, {**WEATHER, "name": "time"}], tool_choice=choice)
    assert server.chats[0].tool_choice == asked
    if offered is not None:
        assert [tool.name for tool in server.chats[0].tools] == offered
    assert told["tool_choice"] == choice


@pytest.mark.parametrize(
    ("fields", "num"),
    [
        ({"include": ["message.output_text.logprobs"]}, 0),
        ({"include": ["message.output_text.logprobs"], "top_logprobs": 3}, 3),
        ({"top_logprobs": 2}, 2),
        ({"top_logprobs": 0}, None),
        ({"include": ["reasoning.encrypted_content"]}, None),
    ],
)
def test_request_when_it_asks_for_logprobs_then_the_model_server_is_asked_for_as_many(
    client: httpx.Client, server: FakeModelServer, fields: dict[str, Any], num: int | None
) -> None:
    told = respond(client, **fields)
    assert server.samplings[0].logprobs == num
    assert told["top_logprobs"] == fields.get("top_logprobs", 0)


@pytest.mark.parametrize("name", ["summary", "generate_summary"])
@pytest.mark.parametrize("summary", ["auto", "concise", "detailed"])
def test_request_when_it_asks_for_a_summary_then_the_reasoning_is_told_as_its_own_summary_too(
    client: httpx.Client, name: str, summary: str
) -> None:
    told = respond(client, reasoning={name: summary})
    assert told["output"][0]["content"] == [{"type": "reasoning_text", "text": "Easy."}]
    assert told["output"][0]["summary"] == [{"type": "summary_text", "text": "Easy."}]
    assert told["reasoning"] == {"effort": "medium", "summary": summary}


def test_reasoning_when_it_is_sent_back_with_its_summary_then_the_model_sees_it_once(
    client: httpx.Client, server: FakeModelServer
) -> None:
    told = respond(client, reasoning={"summary": "auto"})
    hi = {"role": "user", "content": "Hi"}
    by_content = told["output"]
    by_summary = [{**by_content[0], "content": None}, by_content[1]]
    for output in (by_content, by_summary):
        respond(client, [hi, *output, hi])
    assert [chat.messages[1].reasoning for chat in server.chats[1:]] == ["Easy.", "Easy."]


@pytest.mark.parametrize("strict", [True, False, None])
def test_tool_when_it_says_nothing_of_strict_then_it_is_taken_and_told_as_not_strict(
    client: httpx.Client, server: FakeModelServer, strict: bool | None
) -> None:
    told = respond(client, tools=[{**WEATHER, "strict": strict}])
    assert (server.chats[0].tools[0].strict, told["tools"][0]["strict"]) == (bool(strict), bool(strict))


def test_items_when_clients_add_names_and_hints_then_nobody_reads_them(
    client: httpx.Client, server: FakeModelServer
) -> None:
    hint = {"cache_control": {"type": "ephemeral"}}
    part = {"type": "input_text", "text": "Hi", "prompt_cache_breakpoint": {"mode": "explicit"}, **hint}
    respond(client, [{"role": "user", "name": "Ann", "content": [part]}], tools=[{**WEATHER, **hint}])
    assert server.chats[0].messages == (ChatMessage(Role.USER, "Hi"),)


def test_items_when_one_is_a_refusal_then_it_is_what_the_assistant_said(
    client: httpx.Client, server: FakeModelServer
) -> None:
    refused = {"role": "assistant", "content": [{"type": "refusal", "refusal": "I cannot."}]}
    first = respond(client, [{"role": "user", "content": "Do."}, refused, {"role": "user", "content": "Why?"}])
    respond(client, previous_response_id=first["id"])
    for chat in server.chats:
        assert chat.messages[1] == ChatMessage(Role.ASSISTANT, "I cannot.")


@pytest.mark.parametrize(("verbosity", "wish"), [("low", "Keep your answers brief."), ("high", "Answer in detail.")])
def test_request_when_it_asks_for_verbosity_then_the_model_is_told_and_the_response_tells(
    client: httpx.Client, server: FakeModelServer, verbosity: str, wish: str
) -> None:
    told = respond(client, instructions="Rhyme.", text={"verbosity": verbosity})
    assert told["text"]["verbosity"] == verbosity
    assert server.chats[0].messages == (
        ChatMessage(Role.SYSTEM, "Rhyme."),
        ChatMessage(Role.USER, "Hi"),
        ChatMessage(Role.DEVELOPER, wish),
    )


@pytest.mark.parametrize(("asked", "effort"), [("minimal", "low"), ("xhigh", "high"), ("max", "high")])
def test_request_when_its_effort_is_beyond_what_there_is_then_the_nearest_is_taken_and_told(
    client: httpx.Client, server: FakeModelServer, asked: str, effort: str
) -> None:
    told = respond(client, reasoning={"effort": asked})
    assert (server.chats[0].reasoning_effort, told["reasoning"]["effort"]) == (effort, effort)


def test_response_when_the_request_says_something_of_caches_then_it_is_told_again(client: httpx.Client) -> None:
    said = {"prompt_cache_key": "k", "prompt_cache_retention": "24h"}
    told = respond(client, **said)
    assert {name: told[name] for name in said} == said
    assert told["prompt_cache_options"] is None


def test_part_when_it_is_a_picture_then_the_sentence_says_that_only_text_is_taken(client: httpx.Client) -> None:
    picture = {"type": "input_image", "image_url": "data:image/png;base64,", "detail": "low"}
    error = refusal(client, input=[{"role": "user", "content": [{"type": "input_text", "text": "See?"}, picture]}])
    assert error["message"] == (
        "Invalid value for 'input[0].content[1]': this model takes text only, but this part is of type 'input_image'; "
        "send parts of type 'input_text' or 'output_text' or 'refusal'."
    )


def test_request_when_the_format_is_json_then_any_object_is_asked_for(
    client: httpx.Client, server: FakeModelServer
) -> None:
    told = respond(client, text={"format": {"type": "json_object"}, "verbosity": "medium"})
    assert server.chats[0].response_format == ResponseFormat()
    assert told["text"] == {"format": {"type": "json_object"}, "verbosity": "medium"}


def test_items_when_they_tell_of_a_call_then_the_model_sees_its_reasoning_and_the_result(
    client: httpx.Client, server: FakeModelServer
) -> None:
    items = [
        {"role": "developer", "content": [{"type": "input_text", "text": "Help."}]},
        {"role": "user", "content": "Weather?"},
        {"type": "reasoning", "id": "rs_1", "summary": [], "content": [{"type": "reasoning_text", "text": "Hm."}]},
        {"type": "function_call", "call_id": "call_1", "name": "weather", "arguments": "{}"},
        {"type": "function_call_output", "call_id": "call_1", "output": [{"type": "input_text", "text": "Snow"}]},
    ]
    respond(client, items)
    assert server.chats[0].messages == (
        ChatMessage(Role.DEVELOPER, "Help."),
        ChatMessage(Role.USER, "Weather?"),
        ChatMessage(Role.ASSISTANT, None, "Hm.", (ToolCall("call_1", "weather", "{}"),)),
        ChatMessage(Role.TOOL, "Snow", tool_call_id="call_1"),
    )


CARRIED = "gptoss-reasoning-1.SG0gw6nwn6e1Lg=="


@pytest.mark.parametrize("streamed", [False, True])
def test_reasoning_when_it_is_to_be_carried_then_the_ended_item_holds_its_text_encoded(
    client: httpx.Client, server: FakeModelServer, streamed: bool
) -> None:
    include = ["reasoning.encrypted_content"]
    if streamed:
        events = stream(client, include=include)
        items = [event["item"] for event in events if event["type"].startswith("response.output_item")]
        added, done = (item for item in items if item["type"] == "reasoning")
        assert "encrypted_content" not in added
        told = events[-1]["response"]["output"][0]
        assert done == told
    else:
        told = respond(client, include=include)["output"][0]
    assert told["content"] == [{"type": "reasoning_text", "text": "Easy."}]
    version, encoded = told["encrypted_content"].split(".")
    assert version == "gptoss-reasoning-1"
    assert base64.b64decode(encoded).decode() == "Easy."


@pytest.mark.parametrize(
    ("fields", "seen"),
    [
        ({"encrypted_content": CARRIED}, "Hm é🧵."),
        ({"encrypted_content": CARRIED, "content": []}, "Hm é🧵."),
        ({"encrypted_content": CARRIED, "summary": [{"type": "summary_text", "text": "Short."}]}, "Hm é🧵."),
        ({"encrypted_content": CARRIED, "content": [{"type": "reasoning_text", "text": "Open."}]}, "Open."),
        ({"encrypted_content": "", "content": [{"type": "reasoning_text", "text": "Open."}]}, "Open."),
        ({"encrypted_content": "", "summary": [{"type": "summary_text", "text": "Short."}]}, "Short."),
        ({"encrypted_content": None}, None),
    ],
)
def test_reasoning_when_a_client_carried_it_then_the_model_sees_it_before_the_call(
    client: httpx.Client, server: FakeModelServer, fields: dict[str, Any], seen: str | None
) -> None:
    call = {"type": "function_call", "call_id": "call_1", "name": "weather", "arguments": "{}"}
    result = {"type": "function_call_output", "call_id": "call_1", "output": "Snow"}
    respond(client, [{"role": "user", "content": "Hi"}, {"type": "reasoning", "summary": [], **fields}, call, result])
    assert server.chats[0].messages[1].reasoning == seen


# --- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"background": True, "store": False}, "background", "invalid_value"),
        ({"background": "yes"}, "background", "invalid_type"),
        ({"conversation": "conv_1"}, "conversation", "unsupported_parameter"),
        ({"prompt": {"id": "pmpt_1"}}, "prompt", "unsupported_parameter"),
        ({"truncation": "always"}, "truncation", "invalid_value"),
        ({"context_management": [{"type": "compaction"}]}, "context_management", "unsupported_parameter"),
        ({"text": {"verbosity": "terse"}}, "text.verbosity", "invalid_value"),
        ({"reasoning": {"effort": "none"}}, "reasoning.effort", "unsupported_parameter"),
        ({"tools": [{**WEATHER, "async": True}]}, "tools[0].async", "unsupported_parameter"),
        ({"reasoning": {"summary": "none"}}, "reasoning.summary", "invalid_value"),
        ({"reasoning": {"effort": "extreme"}}, "reasoning.effort", "invalid_value"),
        ({"surprise": 1}, "surprise", "unknown_parameter"),
        ({"messages": []}, "messages", "unknown_parameter"),
        ({"include": ["everything"]}, "include[0]", "invalid_value"),
        ({"top_logprobs": 21}, "top_logprobs", "invalid_value"),
        ({"temperature": 3}, "temperature", "invalid_value"),
        ({"temperature": "hot"}, "temperature", "invalid_type"),
        ({"max_output_tokens": 0}, "max_output_tokens", "invalid_value"),
        ({"max_tokens": 5}, "max_tokens", "unsupported_parameter"),
        ({"n": 2}, "n", "unsupported_parameter"),
        ({"min_tokens": 9, "max_output_tokens": 8}, "min_tokens", "invalid_value"),
        ({"model": "gpt-oss", "profile": "quality_first"}, "profile", "invalid_value"),
        ({"stop": ["a"] * 5}, "stop", "invalid_value"),
        ({"stream_options": {}}, "stream_options", "invalid_value"),
        (
            {"stream_options": {"continuous_usage_stats": True}},
            "stream_options.continuous_usage_stats",
            "unsupported_parameter",
        ),
        ({"metadata": {"a": "b" * 513}}, "metadata.a", "invalid_value"),
        ({"metadata": {str(i): "" for i in range(17)}}, "metadata", "invalid_value"),
        ({"tools": [{"type": "file_search", "vector_store_ids": []}]}, "tools[0]", "invalid_value"),
        ({"tools": [{"type": "function", "function": {"name": "f"}}]}, "tools[0].name", "missing_required_parameter"),
        ({"tools": [{"type": "web_search"}], "tool_choice": "required"}, "tool_choice", "invalid_value"),
        (
            {"tools": [{"type": "web_search"}], "tool_choice": {"type": "web_search"}},
            "tool_choice",
            "invalid_value",
        ),
        (
            {"tools": [{"type": "namespace", "name": "n", "tools": [{"type": "custom", "name": "f"}]}]},
            "tools[0].tools[0].type",
            "invalid_value",
        ),
        (
            {"tools": [WEATHER, {"type": "namespace", "name": "n" * 100, "tools": [{**WEATHER, "name": "f" * 30}]}]},
            "tools[1].tools[0].name",
            "invalid_value",
        ),
        (
            {
                "tools": [
                    {**WEATHER, "name": "n__f"},
                    {"type": "namespace", "name": "n", "tools": [{**WEATHER, "name": "f"}]},
                ]
            },
            "tools[1].tools[0].name",
            "invalid_value",
        ),
        (
            {"input": [{"type": "function_call_output", "call_id": "c", "output": [{"type": "input_image"}]}]},
            "input[0].output[0]",
            "invalid_value",
        ),
        ({"tools": [{**WEATHER, "name": "no name"}]}, "tools[0].name", "invalid_value"),
        ({"input": [0] * 500_000}, "input[0]", "invalid_value"),
        ({"metadata": {str(number): 0 for number in range(100_000)}}, "metadata", "invalid_value"),
        ({"logit_bias": {f"x{number}": 0 for number in range(100_000)}}, "logit_bias", "invalid_value"),
        ({"tools": [{**WEATHER, "defer_loading": True}]}, "tools[0].defer_loading", "unsupported_parameter"),
        ({"tool_choice": "required"}, "tool_choice", "invalid_value"),
        ({"tools": [WEATHER], "tool_choice": {"type": "function", "name": "time"}}, "tool_choice", "invalid_value"),
        ({"tool_choice": {"type": "web_search_preview"}}, "tool_choice", "invalid_value"),
        (
            {"text": {"format": {"type": "json_schema", "name": "a b", "schema": {}}}},
            "text.format.name",
            "invalid_value",
        ),
        ({"input": 5}, "input", "invalid_type"),
        ({"input": None}, "input", "missing_required_parameter"),
        ({"input": []}, "input", "invalid_value"),
        ({"input": [{"type": "computer_call_output"}]}, "input[0]", "invalid_value"),
        ({"input": [{"role": "user"}]}, "input[0].content", "missing_required_parameter"),
        ({"input": [{"role": "robot", "content": ""}]}, "input[0].role", "invalid_value"),
        (
            {"input": [{"role": "user", "content": [{"type": "input_image", "image_url": "x"}]}]},
            "input[0].content[0]",
            "invalid_value",
        ),
        (
            {"input": [{"type": "reasoning", "summary": [], "encrypted_content": "x"}]},
            "input[0].encrypted_content",
            "unsupported_parameter",
        ),
        (
            {"input": [{"type": "reasoning", "summary": [], "encrypted_content": "gptoss-reasoning-1.SG0"}]},
            "input[0].encrypted_content",
            "unsupported_parameter",
        ),
        (
            {"input": [{"type": "reasoning", "summary": [], "encrypted_content": "gptoss-reasoning-1./w=="}]},
            "input[0].encrypted_content",
            "unsupported_parameter",
        ),
        ({"input": [{"type": "function_call_output", "call_id": "c", "output": ""}]}, "input", "invalid_value"),
        (
            {"input": [{"type": "function_call", "call_id": "c", "name": "weather", "arguments": ""}]},
            "input",
            "invalid_value",
        ),
        (
            {"input": [{"type": "function_call", "call_id": "c", "name": "no name", "arguments": ""}]},
            "input",
            "invalid_value",
        ),
        ({"previous_response_id": "resp_0"}, "previous_response_id", "previous_response_not_found"),
    ],
)
def test_request_when_a_field_cannot_be_honoured_then_400_names_it(
    client: httpx.Client, server: FakeModelServer, fields: dict[str, Any], param: str, code: str
) -> None:
    for streamed in (False, True):
        error = refusal(client, **({"stream": True} if streamed and "stream_options" not in fields else {}), **fields)
        assert (error["param"], error["code"], error["type"]) == (param, code, "invalid_request_error")
        assert error["message"].endswith((".", " more faults)"))
    assert server.chats == []


@pytest.mark.parametrize(
    ("chats", "ours"),
    [
        ("tools[0].function.parameters", "tools[0].parameters"),
        ("tools[12].function.name", "tools[12].name"),
        ("messages[3].content", "input"),
        ("response_format.json_schema.schema", "text.format"),
        ("tools[0].functions", "tools[0].functions"),
    ],
)
def test_refusal_when_it_names_a_field_of_a_chat_then_ours_is_named(chats: str, ours: str) -> None:
    with pytest.raises(InvalidRequestError) as caught, naming_fields_of_this_api():
        raise refusal_of(f"{chats}: it is odd")
    assert (caught.value.param, caught.value.message) == (ours, f"{ours}: it is odd.")


def test_request_when_it_refers_to_an_item_that_is_not_kept_then_404(client: httpx.Client) -> None:
    error = refusal(client, 404, input=[{"type": "item_reference", "id": "msg_0"}])
    assert (error["param"], error["code"]) == ("input", "item_not_found")
    assert "msg_0" in error["message"]


def test_request_when_it_names_another_model_then_404(client: httpx.Client) -> None:
    assert refusal(client, 404, model="gpt-4o")["code"] == "model_not_found"


def test_conversation_when_it_has_too_many_items_then_400(client: httpx.Client) -> None:
    error = refusal(client, input=[{"role": "user", "content": ""}] * 2049)
    assert (error["param"], error["code"]) == ("input", "invalid_value")


@pytest.mark.parametrize("streamed", [False, True])
@pytest.mark.parametrize(
    ("error", "status", "param", "message"),
    [
        (ContextLengthExceededError("Too long."), 400, "input", "Too long."),
        (TooManyRequestsError("Later."), 429, None, "Later."),
        (ServiceUnavailableError("Gone."), 503, None, "Gone."),
        (
            InvalidRequestError("response_format.schema: No.", param="response_format.schema"),
            400,
            "text.format",
            "text.format: No.",
        ),
    ],
)
def test_request_when_it_fails_before_the_first_response_then_plain_json_names_the_field_that_was_sent(
    client: httpx.Client,
    server: FakeModelServer,
    streamed: bool,
    error: Exception,
    status: int,
    param: str | None,
    message: str,
) -> None:
    server.script = [error]
    response = client.post(RESPONSES, json={"model": MODEL, "input": "Hi", "stream": streamed})
    assert response.status_code == status
    assert response.headers["content-type"] == "application/json"
    assert response.json()["error"]["param"] == param
    assert response.json()["error"]["message"] == message


def test_response_when_a_tool_is_called_that_nobody_offered_then_the_model_writes_on(
    client: httpx.Client, server: FakeModelServer
) -> None:
    server.scripts = [answer("<|channel|>commentary to=browser.search code<|message|>{}<|call|>")]
    response = respond(client)
    assert [item["type"] for item in response["output"]] == ["reasoning", "message"]
    assert response["output"][1]["content"][0]["text"] == "Hello!"
    assert response["usage"]["input_tokens"] == 2 * PROMPT_TOKENS
