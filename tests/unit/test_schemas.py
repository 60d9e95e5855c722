"""From OpenAI's request to the contract's documents."""

from __future__ import annotations

from datetime import date
from typing import Any

import pytest
from pydantic import ValidationError

from gptoss_adapter.errors import InvalidRequestError
from gptoss_adapter.prompting import chat_request, sampling_params
from gptoss_adapter.schemas.chat import ChatCompletionRequest
from gptoss_backend.contract import (
    CHAT_CODEC,
    ChatMessage,
    ChatRequest,
    FunctionTool,
    ReasoningEffort,
    Role,
    SamplingParams,
    ToolCall,
)
from gptoss_backend.settings import ProfileSettings
from support.live_app import chat_body

TODAY = date(2026, 11, 23)
PROFILE = ProfileSettings(model="demo", reasoning_effort=ReasoningEffort.HIGH, max_tokens=256)
WEATHER = {
    "type": "function",
    "function": {"name": "weather", "description": "Tells it", "parameters": {"type": "object"}},
}


def parse(**fields: object) -> ChatCompletionRequest:
    return ChatCompletionRequest.model_validate(chat_body(**fields))


def chat(**fields: object) -> ChatRequest:
    return chat_request(parse(**fields), PROFILE, TODAY)


def sampling(**fields: object) -> SamplingParams:
    return sampling_params(parse(**fields), PROFILE)


def message(**fields: object) -> ChatMessage:
    return chat(messages=[fields]).messages[0]


def test_chat_when_every_role_speaks_then_each_is_mapped() -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city":"Oslo"}'}}
    mapped = chat(
        messages=[
            {"role": "system", "content": "Be kind."},
            {"role": "developer", "content": "Be brief."},
            {"role": "user", "content": "Weather?"},
            {"role": "assistant", "content": None, "reasoning": "Ask.", "tool_calls": [call]},
            {"role": "tool", "tool_call_id": "call_1", "name": "weather", "content": "Snow"},
        ],
        tools=[WEATHER],
    )
    assert mapped == ChatRequest(
        messages=(
            ChatMessage(Role.SYSTEM, "Be kind."),
            ChatMessage(Role.DEVELOPER, "Be brief."),
            ChatMessage(Role.USER, "Weather?"),
            ChatMessage(
                Role.ASSISTANT,
                None,
                reasoning="Ask.",
                tool_calls=(ToolCall("call_1", "weather", '{"city":"Oslo"}'),),
            ),
            ChatMessage(Role.TOOL, "Snow", tool_call_id="call_1"),
        ),
        date="2026-11-23",
        tools=(FunctionTool("weather", "Tells it", {"type": "object"}),),
        reasoning_effort=ReasoningEffort.HIGH,
    )


def test_chat_when_only_sampling_differs_then_the_document_is_the_same() -> None:
    plain = CHAT_CODEC.encode(chat())
    assert CHAT_CODEC.encode(chat(temperature=0, seed=4, max_tokens=9, stream=True, user="u")) == plain
    assert CHAT_CODEC.encode(chat(reasoning_effort="low")) != plain


def test_message_when_content_is_text_parts_then_they_become_lines() -> None:
    parts = [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}]
    assert message(role="user", content=parts).content == "one\ntwo"


def test_message_when_reasoning_comes_under_its_other_name_then_it_is_reasoning() -> None:
    assert message(role="assistant", content="", reasoning_content="Hm.").reasoning == "Hm."
    assert message(role="assistant", content="", reasoning="", reasoning_content="Hm.").reasoning == ""


def test_message_when_it_is_an_answer_of_ours_sent_back_then_it_is_taken() -> None:
    sent_back = message(role="assistant", content="Hi", refusal=None, reasoning="Hm.", annotations=[], audio=None)
    assert sent_back == ChatMessage(Role.ASSISTANT, "Hi", reasoning="Hm.")


@pytest.mark.parametrize(("choice", "num_tools"), [(None, 1), ("auto", 1), ("none", 0)])
def test_chat_when_tools_are_chosen_or_not_then_the_prompt_shows_or_hides_them(
    choice: str | None, num_tools: int
) -> None:
    assert len(chat(tools=[WEATHER], tool_choice=choice).tools) == num_tools


def test_sampling_when_nothing_is_said_then_the_profile_and_openai_decide() -> None:
    assert sampling() == SamplingParams(max_tokens=256)


def test_sampling_when_all_is_said_then_all_is_passed_on() -> None:
    fields: dict[str, Any] = {"temperature": 0.5, "top_p": 0.9, "top_k": 40, "min_p": 0.1, "seed": -3}
    assert sampling(**fields, ignore_eos=True, max_tokens=5) == SamplingParams(**fields, ignore_eos=True, max_tokens=5)


def test_sampling_when_top_k_is_minus_one_then_there_is_no_limit() -> None:
    assert sampling(top_k=-1).top_k == 0


@pytest.mark.parametrize("fields", [{"max_completion_tokens": 5}, {"max_tokens": 5, "max_completion_tokens": 5}])
def test_sampling_when_max_tokens_comes_under_its_new_name_then_it_counts(fields: dict[str, int]) -> None:
    assert sampling(**fields).max_tokens == 5


def test_sampling_when_both_max_tokens_differ_then_neither_wins() -> None:
    with pytest.raises(InvalidRequestError, match="max_completion_tokens") as refused:
        sampling(max_tokens=5, max_completion_tokens=6)
    assert refused.value.param == "max_tokens"


NEUTRAL: dict[str, list[object]] = {
    "n": [1],
    "stop": [[]],
    "store": [False],
    "logprobs": [False],
    "top_logprobs": [0],
    "logit_bias": [{}],
    "presence_penalty": [0, 0.0],
    "frequency_penalty": [0, 0.0],
    "repetition_penalty": [1, 1.0],
    "response_format": [{"type": "text"}],
    "parallel_tool_calls": [True],
    "modalities": [["text"]],
    "verbosity": ["medium"],
    "function_call": ["none"],
    "functions": [[]],
    "audio": [],
    "prediction": [],
    "web_search_options": [],
    "min_tokens": [0],
    "include_reasoning": [True],
}
NOT_NEUTRAL: dict[str, list[object]] = {
    "n": [2, 0, True, "1"],
    "stop": ["x", ["x"]],
    "store": [True],
    "logprobs": [True],
    "top_logprobs": [5, False],
    "logit_bias": [{"5": 1}],
    "presence_penalty": [0.1, False],
    "frequency_penalty": [-2],
    "repetition_penalty": [1.1],
    "response_format": [{"type": "json_object"}],
    "parallel_tool_calls": [False],
    "modalities": [["text", "audio"]],
    "verbosity": ["low"],
    "function_call": ["auto"],
    "functions": [[{"name": "f"}]],
    "audio": [{}],
    "prediction": [{"type": "content", "content": ""}],
    "web_search_options": [{}],
    "min_tokens": [1],
    "include_reasoning": [False],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name in NEUTRAL for value in [None, *NEUTRAL[name]]])
def test_field_when_not_honoured_and_neutral_then_it_is_taken(name: str, value: object) -> None:
    assert chat(**{name: value}) == chat()


@pytest.mark.parametrize(("name", "value"), [(name, value) for name in NOT_NEUTRAL for value in NOT_NEUTRAL[name]])
def test_field_when_not_honoured_and_not_neutral_then_it_is_refused(name: str, value: object) -> None:
    with pytest.raises(ValidationError) as refused:
        parse(**{name: value})
    assert [error["loc"] for error in refused.value.errors()] == [(name,)]


@pytest.mark.parametrize(
    "fields",
    [
        {"max_tokens": "5"},
        {"max_tokens": 5.5},
        {"max_tokens": True},
        {"temperature": "1"},
        {"stream": 1},
        {"seed": 2**63},
        {"model": 3},
        {"metadata": {"a": 1}},
        {"tools": [{"type": "function", "function": {"name": ""}}]},
        {"tools": [{"type": "function", "function": {"name": "f", "strict": True}}]},
        {"tools": [{"type": "web_search"}]},
        {"stream_options": {"include_obfuscation": True}},
        {"messages": [{"role": "user", "content": "Hi", "name": "Ann"}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]}]},
        {"messages": [{"role": "tool", "content": "no id"}]},
        {"messages": [{"role": "assistant", "content": None, "refusal": "no"}]},
    ],
)
def test_request_when_a_field_is_malformed_then_it_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        parse(**fields)
