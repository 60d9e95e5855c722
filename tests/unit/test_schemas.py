"""The fields of a chat request: honoured, harmless or refused by name."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from support.chat_schemas import chat, parse, sampling

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
    "chat_template_kwargs": [{}, {"reasoning_effort": None, "enable_thinking": True}],
    "skip_special_tokens": [True],
    "use_beam_search": [False],
    "length_penalty": [1, 1.0],
    "add_generation_prompt": [True],
    "echo": [False],
    "continue_final_message": [False],
    "spaces_between_special_tokens": [True],
    "add_special_tokens": [False, True],
    "request_id": ["mine"],
    "return_tokens_as_token_ids": [False],
    "truncate_prompt_tokens": [],
    "kv_transfer_params": [{}],
    "mm_processor_kwargs": [{}],
    "vllm_xargs": [{}],
    "documents": [[]],
    "max_tokens": [-1],
    "reasoning": [{}, {"enabled": True, "exclude": True, "effort": None}],
    "separate_reasoning": [True],
    "stream_reasoning": [True],
    "cache_prompt": [True, False],
}
REFUSED: dict[str, list[object]] = {
    "n": [0, 129, True, "1"],
    "stop": ["", ["x", ""], ["a"] * 17, 5, ["x", 5], "x" * 1025],
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
    "reasoning_effort": ["extreme", 5],
    "modalities": [["text", "audio"]],
    "verbosity": ["terse", 1],
    "skip_special_tokens": [False, 1],
    "include_stop_str_in_output": [1, "yes"],
    "use_beam_search": [True],
    "length_penalty": [0.5],
    "echo": [True],
    "spaces_between_special_tokens": [False],
    "add_special_tokens": ["no"],
    "return_tokens_as_token_ids": [True],
    "truncate_prompt_tokens": [-1, 100],
    "kv_transfer_params": [{"do_remote_decode": True}],
    "mm_processor_kwargs": [{"num_crops": 4}],
    "vllm_xargs": [{"a": 1}],
    "documents": [[{"text": "A fact."}]],
    "max_tokens": [0, -2, -1.0],
    "top_p": [-0.1, 1.1],
    "reasoning": [{"enabled": "no"}, {"max_tokens": 2000}, {"exclude": "yes"}, "high"],
    "separate_reasoning": [False],
    "stream_reasoning": [False],
    "cache_prompt": ["yes"],
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
    "chat_template_kwargs": [{"enable_thinking": "no"}, {"reasoning_effort": "extreme"}, []],
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
