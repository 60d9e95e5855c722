"""From OpenAI's completion request to prompts and sampling."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from gptoss_adapter.errors import InvalidRequestError
from gptoss_adapter.prompting import completion_sampling
from gptoss_adapter.schemas.completions import CompletionRequest
from gptoss_backend.contract import SamplingParams
from support.chat_schemas import PROFILE


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
