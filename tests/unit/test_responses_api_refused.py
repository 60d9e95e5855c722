"""POST /v1/responses: what is refused, and why."""

from __future__ import annotations

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
from support.fake_model_server import FakeModelServer
from support.responses_api import MODEL, RESPONSES, WEATHER, keeping_adapter, refusal

url_and_server = keeping_adapter()


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"background": True, "store": False}, "background", "invalid_value"),
        ({"background": "yes"}, "background", "invalid_type"),
        ({"conversation": ["conv_1"]}, "conversation", "invalid_type"),
        ({"conversation": {"name": "mine"}}, "conversation.id", "missing_required_parameter"),
        (
            {"conversation": "conv_1", "previous_response_id": "resp_1"},
            "conversation",
            "mutually_exclusive_parameters",
        ),
        ({"prompt": {"id": "pmpt_1"}}, "prompt", "unsupported_parameter"),
        ({"truncation": "always"}, "truncation", "invalid_value"),
        ({"context_management": [{"type": "compaction"}]}, "context_management", "unsupported_parameter"),
        ({"text": {"verbosity": "terse"}}, "text.verbosity", "invalid_value"),
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
        ({"stop": ["a"] * 17}, "stop", "invalid_value"),
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
            {"tools": [{"type": "namespace", "name": "n", "tools": [{"type": "web_search"}]}]},
            "tools[0].tools[0]",
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
            {"input": [{"type": "function_call_output", "call_id": "c", "output": [{"type": "input_audio"}]}]},
            "input[0].output[0]",
            "invalid_value",
        ),
        ({"tools": [{**WEATHER, "name": "no name"}]}, "tools[0].name", "invalid_value"),
        ({"input": [0] * 16_000}, "input[0]", "invalid_value"),
        ({"input": [0] * 500_000}, "input", "invalid_value"),
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
        (TooManyRequestsError("Later."), 429, None, "Later."),
        (ServiceUnavailableError("Gone."), 503, None, "Gone."),
        (
            InvalidRequestError("tools[0].function.strict: No.", param="tools[0].function.strict"),
            400,
            "tools[0].strict",
            "tools[0].strict: No.",
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


def test_request_when_its_prompt_is_too_long_then_400_with_openais_code_and_words(
    client: httpx.Client, server: FakeModelServer
) -> None:
    server.script = [ContextLengthExceededError("Too long.")]
    error = refusal(client)
    assert (error["param"], error["code"]) == ("input", "context_length_exceeded")
    assert error["message"] == "Your input exceeds the context window of this model. Too long."
