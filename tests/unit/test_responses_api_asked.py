"""POST /v1/responses: what is asked of the model."""

from __future__ import annotations

import base64
from typing import Any

import httpx
import pytest

from gptoss_backend.contract import (
    ChatMessage,
    FunctionTool,
    ReasoningEffort,
    ResponseFormat,
    Role,
    ToolCall,
    ToolChoice,
    ToolChoiceMode,
)
from gptoss_backend.harmony.prompt import render_prompt
from gptoss_backend.harmony.vocabulary import encoding
from support.fake_model_server import FakeModelServer
from support.responses_api import WEATHER, keeping_adapter, listed, refusal, respond, stream

url_and_server = keeping_adapter()


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
    assert chat.response_format == ResponseFormat({"type": "object"}, "fact", strict=True, where="text.format.schema")
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
    assert (sampling.max_tokens, sampling.temperature, sampling.top_p, sampling.seed) == (2048, 1.0, 1.0, None)  # demo


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
    assert server.chats[0].messages == (ChatMessage(Role.SYSTEM, "Rhyme."), ChatMessage(Role.USER, "Hi"))
    assert server.chats[0].notes == (wish,)


@pytest.mark.parametrize(
    ("asked", "effort"), [("none", "none"), ("minimal", "low"), ("xhigh", "high"), ("max", "high")]
)
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


def test_part_when_it_is_called_as_in_a_chat_then_the_sentence_says_how_it_is_here(client: httpx.Client) -> None:
    message = {"role": "user", "content": [{"type": "text", "text": "Hi"}]}
    assert refusal(client, 400, input=[message])["message"] == (
        "Invalid value for 'input[0].content[0]': a part of text is called 'input_text' here, not 'text'."
    )


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
    assert server.chats[0].response_format == ResponseFormat(where="text.format")
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
FOREIGN = "gAAAAABo-another-server-s"


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
        ({"encrypted_content": FOREIGN}, None),
        ({"encrypted_content": FOREIGN, "summary": [{"type": "summary_text", "text": "Short."}]}, "Short."),
        ({"encrypted_content": FOREIGN, "content": [{"type": "reasoning_text", "text": "Open."}]}, "Open."),
    ],
)
def test_reasoning_when_a_client_carried_it_then_the_model_sees_it_before_the_call(
    client: httpx.Client, server: FakeModelServer, fields: dict[str, Any], seen: str | None
) -> None:
    call = {"type": "function_call", "call_id": "call_1", "name": "weather", "arguments": "{}"}
    result = {"type": "function_call_output", "call_id": "call_1", "output": "Snow"}
    respond(client, [{"role": "user", "content": "Hi"}, {"type": "reasoning", "summary": [], **fields}, call, result])
    assert server.chats[0].messages[1].reasoning == seen


def test_thread_when_another_model_began_it_then_it_is_gone_on_with_and_told_as_it_was_sent(
    client: httpx.Client, server: FakeModelServer
) -> None:
    foreign = {"type": "reasoning", "id": "rs_1", "summary": [], "content": None, "encrypted_content": FOREIGN}
    said = {"role": "assistant", "content": [{"type": "output_text", "text": "Hello."}], "phase": "final_answer"}
    first = respond(client, [{"role": "user", "content": "Hi"}, foreign, said, {"role": "user", "content": "More"}])
    prompt = encoding().decode(render_prompt(server.chats[0]))
    assert prompt.endswith(
        "user<|message|>Hi<|end|><|start|>assistant<|channel|>final<|message|>Hello.<|end|>"
        "<|start|>user<|message|>More<|end|><|start|>assistant"
    )
    kept = listed(client, first["id"], order="asc")["data"][1]
    assert kept == {**foreign, "status": "completed"}
