"""From OpenAI's request to the contract's documents."""

from __future__ import annotations

from dataclasses import replace
from datetime import date
from typing import Any

import pytest
from pydantic import ValidationError

from gptoss_adapter.errors import InvalidRequestError
from gptoss_adapter.prompting import chat_request, completion_sampling, sampling_params
from gptoss_adapter.sampling_plan import copies_of
from gptoss_adapter.schemas.chat import ChatCompletionRequest
from gptoss_adapter.schemas.completions import CompletionRequest
from gptoss_backend.contract import (
    CHAT_CODEC,
    ChatMessage,
    ChatRequest,
    FunctionTool,
    ReasoningEffort,
    ResponseFormat,
    Role,
    SamplingParams,
    ToolCall,
    ToolChoice,
    ToolChoiceMode,
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


@pytest.mark.parametrize("role", ["system", "developer", "user", "assistant"])
def test_message_when_its_speaker_has_a_name_then_nobody_reads_it(role: str) -> None:
    assert message(role=role, content="Hi", name="planner") == message(role=role, content="Hi", name=None)


def test_message_when_other_libraries_send_an_answer_back_with_their_own_fields_then_nobody_reads_them() -> None:
    call = {"id": "call_1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
    theirs = {"provider_specific_fields": {"refusal": None, "reasoning": "Hm."}}
    sent_back = message(
        role="assistant",
        content="Hi",
        refusal="",
        reasoning="Hm.",
        reasoning_details=[{"type": "reasoning.text", "text": "Hm."}],
        thinking_blocks=[{"type": "thinking", "thinking": "Hm.", "signature": "x"}],
        tool_calls=[{**call, "function": {**call["function"], **theirs}, **theirs}],  # type: ignore[dict-item]
        **theirs,
    )
    assert sent_back == message(role="assistant", content="Hi", reasoning="Hm.", tool_calls=[call])


def test_cache_control_when_said_of_text_or_a_tool_then_nobody_reads_it() -> None:
    hint = {"cache_control": {"type": "ephemeral"}}
    theirs = {"prompt_cache_breakpoint": {"mode": "explicit"}}
    parts = [{"type": "text", "text": "Hi"}]
    tools = [{**WEATHER, **hint}, {"type": "function", "function": {"name": "clock", **hint}}]
    marked = chat(messages=[{"role": "user", "content": [{**parts[0], **hint, **theirs}]}], tools=tools)
    assert marked == chat(messages=[{"role": "user", "content": parts}], tools=[WEATHER, CLOCK])


@pytest.mark.parametrize(
    "fields",
    [
        {"content": [{"type": "refusal", "refusal": "I cannot."}]},
        {"content": None, "refusal": "I cannot.", "annotations": [{"type": "url_citation"}]},
        {"content": "", "refusal": "I cannot."},
    ],
)
def test_message_when_it_is_a_refusal_then_that_is_what_the_assistant_said(fields: dict[str, object]) -> None:
    assert message(role="assistant", **fields) == ChatMessage(Role.ASSISTANT, "I cannot.")


def test_message_when_it_has_text_and_a_refusal_then_both_were_said() -> None:
    parts = [{"type": "text", "text": "Well."}, {"type": "refusal", "refusal": "I cannot."}]
    assert message(role="assistant", content=parts).content == "Well.\nI cannot."
    assert message(role="assistant", content="Well.", refusal="I cannot.").content == "Well.\nI cannot."


@pytest.mark.parametrize(("verbosity", "wish"), [("low", "Keep your answers brief."), ("high", "Answer in detail.")])
def test_verbosity_when_it_is_not_medium_then_it_is_a_line_behind_all_instructions(verbosity: str, wish: str) -> None:
    asked = chat(verbosity=verbosity)
    assert asked == replace(chat(), messages=(*chat().messages, ChatMessage(Role.DEVELOPER, wish)))
    assert chat(verbosity="medium") == chat()


@pytest.mark.parametrize(
    ("asked", "effort"), [("minimal", "low"), ("low", "low"), ("medium", "medium"), ("xhigh", "high"), ("max", "high")]
)
def test_effort_when_it_is_beyond_what_there_is_then_it_is_the_nearest(asked: str, effort: str) -> None:
    assert chat(reasoning_effort=asked).reasoning_effort == effort
    assert chat(chat_template_kwargs={"reasoning_effort": asked}, reasoning_effort=effort).reasoning_effort == effort


def test_effort_when_it_is_none_then_the_refusal_says_why() -> None:
    with pytest.raises(ValidationError, match="these models always reason; the least there is is 'low'"):
        parse(reasoning_effort="none")


def test_effort_when_the_template_is_told_then_it_is_as_good_as_the_field() -> None:
    told = {"reasoning_effort": "low"}
    assert chat(chat_template_kwargs=told) == chat(reasoning_effort="low")
    assert chat(chat_template_kwargs=told, reasoning_effort="low") == chat(reasoning_effort="low")
    assert chat(chat_template_kwargs={}) == chat()
    with pytest.raises(InvalidRequestError, match="'reasoning_effort' \\(high\\) differ") as refused:
        chat(chat_template_kwargs=told, reasoning_effort="high")
    assert refused.value.param == "chat_template_kwargs.reasoning_effort"


def test_sampling_when_nothing_is_said_then_the_profile_and_openai_decide() -> None:
    assert sampling() == SamplingParams(max_tokens=256)


def test_sampling_when_all_is_said_then_all_is_passed_on() -> None:
    fields: dict[str, Any] = {"temperature": 0.5, "top_p": 0.9, "top_k": 40, "min_p": 0.1, "seed": -3}
    assert sampling(**fields, ignore_eos=True, max_tokens=5) == SamplingParams(**fields, ignore_eos=True, max_tokens=5)


def test_sampling_when_top_k_is_minus_one_then_there_is_no_limit() -> None:
    assert sampling(top_k=-1).top_k == 0


def test_sampling_when_the_seed_is_minus_one_then_there_is_none() -> None:
    assert sampling(seed=-1).seed is None
    assert sampling(seed=-2).seed == -2


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
    "store": [False, True],
    "logprobs": [False],
    "top_logprobs": [0],
    "logit_bias": [{}],
    "presence_penalty": [0, 0.0],
    "frequency_penalty": [0, 0.0],
    "repetition_penalty": [1, 1.0],
    "response_format": [{"type": "text"}],
    "parallel_tool_calls": [True],
    "tool_choice": ["auto"],
    "modalities": [["text"]],
    "verbosity": ["medium"],
    "service_tier": ["auto", "flex"],
    "metadata": [{"a": "b"}],
    "user": ["me"],
    "safety_identifier": ["me"],
    "prompt_cache_key": ["me"],
    "prompt_cache_options": [{"mode": "implicit"}],
    "function_call": ["none"],
    "functions": [[]],
    "audio": [],
    "prediction": [],
    "web_search_options": [],
    "moderation": [],
    "min_tokens": [0],
    "stop_token_ids": [[]],
    "priority": [0],
    "include_reasoning": [True, False],
    "chat_template_kwargs": [{}, {"reasoning_effort": None}],
    "skip_special_tokens": [True],
    "use_beam_search": [False],
    "length_penalty": [1, 1.0],
    "add_generation_prompt": [True],
    "echo": [False],
    "continue_final_message": [False],
    "spaces_between_special_tokens": [True],
    "add_special_tokens": [False, True],
}
REFUSED: dict[str, list[object]] = {
    "n": [0, 129, True, "1"],
    "stop": ["", ["x", ""], ["a", "b", "c", "d", "e"], 5, ["x", 5], "x" * 1025],
    "store": ["yes"],
    "logprobs": [1],
    "top_logprobs": [21, -1, False],
    "logit_bias": [{"x": 1}, {"5": 101}, {"-1": 1}, {"05": 1}, {"5": True}, []],
    "presence_penalty": [2.1, False],
    "frequency_penalty": [-2.1],
    "repetition_penalty": [0, -1],
    "response_format": [{"type": "xml"}, {"type": "json_schema"}, "json_object"],
    "parallel_tool_calls": ["no"],
    "tool_choice": ["maybe", {"type": "custom", "name": "x"}, {"type": "function"}, 5],
    "reasoning_effort": ["none", "extreme", 5],
    "modalities": [["text", "audio"]],
    "verbosity": ["terse", 1],
    "skip_special_tokens": [False, 1],
    "include_stop_str_in_output": [1, "yes"],
    "use_beam_search": [True],
    "length_penalty": [0.5],
    "add_generation_prompt": [False],
    "echo": [True],
    "continue_final_message": [True],
    "spaces_between_special_tokens": [False],
    "add_special_tokens": ["no"],
    "service_tier": ["gold"],
    "function_call": ["auto"],
    "functions": [[{"name": "f"}]],
    "audio": [{}],
    "prediction": [{"type": "content", "content": ""}],
    "web_search_options": [{}],
    "moderation": [{"model": "m"}],
    "min_tokens": [-1],
    "stop_token_ids": [[-1], ["1"]],
    "priority": [1001],
    "include_reasoning": ["no"],
    "metadata": [{"a": 1}],
    "chat_template_kwargs": [{"enable_thinking": False}, {"reasoning_effort": "none"}, []],
}


@pytest.mark.parametrize(("name", "value"), [(name, value) for name in NEUTRAL for value in [None, *NEUTRAL[name]]])
def test_field_when_it_asks_for_nothing_or_is_a_label_then_nothing_changes(name: str, value: object) -> None:
    assert chat(**{name: value}) == chat()
    assert sampling(**{name: value}) == sampling()


@pytest.mark.parametrize(("name", "value"), [(name, value) for name in REFUSED for value in REFUSED[name]])
def test_field_when_it_cannot_be_honoured_then_it_is_refused_by_name(name: str, value: object) -> None:
    with pytest.raises(ValidationError) as refused:
        parse(**{name: value})
    assert {error["loc"][0] for error in refused.value.errors()} == {name}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"logprobs": True}, {"logprobs": 0}),
        ({"logprobs": True, "top_logprobs": 5}, {"logprobs": 5}),
        ({"logit_bias": {"5": -100, "200002": 1.5}}, {"logit_bias": {5: -100.0, 200002: 1.5}}),
        ({"presence_penalty": 1, "frequency_penalty": -1}, {"presence_penalty": 1.0, "frequency_penalty": -1.0}),
        ({"repetition_penalty": 1.3}, {"repetition_penalty": 1.3}),
        ({"min_tokens": 4, "stop_token_ids": [7, 8]}, {"min_tokens": 4, "stop_token_ids": (7, 8)}),
        ({"priority": -5}, {"priority": -5}),
    ],
)
def test_sampling_when_a_field_is_said_then_it_is_passed_on(fields: dict[str, Any], expected: dict[str, Any]) -> None:
    assert sampling(**fields) == replace(sampling(), **expected)


@pytest.mark.parametrize(
    ("fields", "param"),
    [
        ({"top_logprobs": 3}, "top_logprobs"),
        ({"min_tokens": 9, "max_tokens": 8}, "min_tokens"),
        ({"min_tokens": 257}, "min_tokens"),
    ],
)
def test_sampling_when_fields_are_at_odds_then_one_is_named(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        sampling(**fields)
    assert refused.value.param == param


def test_copies_when_seeded_then_each_has_a_seed_of_its_own() -> None:
    assert [one.seed for one in copies_of(SamplingParams(seed=7), 3)] == [7, 8, 9]
    assert [one.seed for one in copies_of(SamplingParams(seed=2**63 - 1), 2)] == [2**63 - 1, -(2**63)]
    assert copies_of(SamplingParams(), 2) == [SamplingParams(), SamplingParams()]


# --- tools and formats ----------------------------------------------------------------------------------------------

NAMED = {"type": "function", "function": {"name": "weather"}}
CLOCK = {"type": "function", "function": {"name": "clock"}}


@pytest.mark.parametrize(
    ("choice", "expected"),
    [
        (None, ToolChoice()),
        ("auto", ToolChoice()),
        ("none", ToolChoice(ToolChoiceMode.NONE)),
        ("required", ToolChoice(ToolChoiceMode.REQUIRED)),
        (NAMED, ToolChoice(ToolChoiceMode.REQUIRED, "weather")),
    ],
)
def test_tool_choice_when_said_then_the_contract_says_it(choice: object, expected: ToolChoice) -> None:
    mapped = chat(tools=[WEATHER, CLOCK], tool_choice=choice)
    assert mapped.tool_choice == expected
    assert [tool.name for tool in mapped.tools] == ["weather", "clock"]


@pytest.mark.parametrize("mode", ["auto", "required"])
def test_tool_choice_when_it_allows_some_then_the_model_is_told_of_these(mode: str) -> None:
    allowed = {"type": "allowed_tools", "allowed_tools": {"mode": mode, "tools": [CLOCK]}}
    mapped = chat(tools=[WEATHER, CLOCK], tool_choice=allowed)
    assert mapped.tool_choice == ToolChoice(ToolChoiceMode(mode))
    assert [tool.name for tool in mapped.tools] == ["clock"]


@pytest.mark.parametrize(
    ("choice", "param"),
    [
        (CLOCK, "tool_choice.function.name"),
        (
            {"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": [NAMED, CLOCK]}},
            "tool_choice.allowed_tools.tools[1].function.name",
        ),
    ],
)
def test_tool_choice_when_it_names_no_tool_of_the_request_then_it_is_refused(choice: object, param: str) -> None:
    with pytest.raises(InvalidRequestError, match="clock") as refused:
        chat(tools=[WEATHER], tool_choice=choice)
    assert refused.value.param == param


def test_tool_choice_when_required_without_tools_then_it_is_refused() -> None:
    with pytest.raises(InvalidRequestError) as refused:
        chat(tool_choice="required")
    assert refused.value.param == "tool_choice"


def test_tools_when_one_call_at_a_time_or_a_strict_one_is_asked_for_then_it_is_passed_on() -> None:
    strict = {"type": "function", "function": {"name": "f", "strict": True}}
    mapped = chat(tools=[strict, CLOCK], parallel_tool_calls=False)
    assert not mapped.parallel_tool_calls
    assert [tool.strict for tool in mapped.tools] == [True, False]


SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}}


@pytest.mark.parametrize(
    ("asked", "expected"),
    [
        ({"type": "text"}, None),
        ({"type": "json_object"}, ResponseFormat()),
        ({"type": "json_schema", "json_schema": {"name": "x"}}, ResponseFormat(None, "x")),
        (
            {
                "type": "json_schema",
                "json_schema": {"name": "x", "description": "d", "schema": SCHEMA, "strict": False},
            },
            ResponseFormat(SCHEMA, "x", "d", strict=False),
        ),
    ],
)
def test_response_format_when_asked_for_then_the_contract_says_it(
    asked: object, expected: ResponseFormat | None
) -> None:
    assert chat(response_format=asked).response_format == expected


# --- completions ----------------------------------------------------------------------------------------------------


def completion(**fields: object) -> CompletionRequest:
    return CompletionRequest.model_validate({"model": "gpt-oss-demo", "prompt": "Hi", **fields})


@pytest.mark.parametrize(
    ("prompt", "prompts"),
    [
        ("one", ["one"]),
        (["one", "two"], ["one", "two"]),
        ([1, 2], [[1, 2]]),
        ([[1], [2, 3]], [[1], [2, 3]]),
    ],
)
def test_prompt_when_it_comes_in_one_of_four_shapes_then_it_is_a_list(prompt: object, prompts: object) -> None:
    assert completion(prompt=prompt).prompts == prompts


@pytest.mark.parametrize("prompt", ["", [], [""], [[]], ["a", 5], [5, "a"], [[5], "a"], [-1], [2**31], 5, None, [True]])
def test_prompt_when_it_is_empty_or_mixed_then_it_is_refused(prompt: object) -> None:
    with pytest.raises(ValidationError) as refused:
        completion(prompt=prompt)
    assert refused.value.errors()[0]["loc"][0] == "prompt"


def test_completion_when_nothing_is_said_then_openai_decides() -> None:
    assert completion_sampling(completion(), PROFILE) == SamplingParams(max_tokens=16)
    assert completion_sampling(completion(max_tokens=5, logprobs=2), PROFILE) == SamplingParams(
        max_tokens=5, logprobs=2
    )


@pytest.mark.parametrize(
    ("fields", "param"),
    [({"best_of": 2}, "best_of"), ({"n": 2, "best_of": 1}, "best_of"), ({"max_tokens": 0}, "max_tokens")],
)
def test_completion_when_fields_are_at_odds_then_one_is_named(fields: dict[str, Any], param: str) -> None:
    with pytest.raises(InvalidRequestError) as refused:
        completion_sampling(completion(**fields), PROFILE)
    assert refused.value.param == param


def test_completion_when_it_has_sixteen_stop_strings_then_they_are_taken_and_no_more() -> None:
    stop = [str(number) for number in range(16)]
    assert completion(stop=stop).stop_strings == stop
    with pytest.raises(ValidationError, match="at most 16 items"):
        completion(stop=[*stop, "one more"])


def test_completion_when_best_of_is_n_then_it_asks_for_nothing() -> None:
    assert completion_sampling(completion(n=2, best_of=2), PROFILE) == completion_sampling(completion(n=2), PROFILE)


# --- malformed ------------------------------------------------------------------------------------------------------


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
        {"tools": [{"type": "function", "function": {"name": "f", "strict": "yes"}}]},
        {"tools": [{"type": "web_search"}]},
        {"stream_options": {"include_obfuscation": True}},
        {"messages": [{"role": "user", "content": "Hi", "name": 5}]},
        {"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": {"url": "data:"}}]}]},
        {"messages": [{"role": "tool", "content": "no id"}]},
        {"messages": [{"role": "user", "content": [{"type": "refusal", "refusal": "No."}]}]},
    ],
)
def test_request_when_a_field_is_malformed_then_it_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        parse(**fields)
