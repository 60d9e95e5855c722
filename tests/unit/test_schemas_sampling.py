"""From OpenAI's request to the contract's sampling."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from gptoss_adapter.errors import InvalidRequestError
from gptoss_adapter.sampling_plan import copies_of
from gptoss_backend.contract import SamplingParams
from support.chat_schemas import sampling


def test_sampling_when_nothing_is_said_then_the_profile_and_openai_decide() -> None:
    assert sampling() == SamplingParams(max_tokens=256)


def test_sampling_when_all_is_said_then_all_is_passed_on() -> None:
    fields: dict[str, Any] = {"temperature": 0.5, "top_p": 0.9, "top_k": 40, "min_p": 0.1, "seed": -3}
    assert sampling(**fields, ignore_eos=True, max_tokens=5) == SamplingParams(**fields, ignore_eos=True, max_tokens=5)


def test_sampling_when_top_k_is_minus_one_then_there_is_no_limit() -> None:
    assert sampling(top_k=-1).top_k == 0


def test_sampling_when_top_p_is_zero_then_the_likeliest_token_is_left() -> None:
    assert 0.0 < sampling(top_p=0).top_p < 1e-5


def test_sampling_when_max_tokens_is_minus_one_then_none_are_named() -> None:
    assert sampling(max_tokens=-1) == sampling()
    assert sampling(max_tokens=-1, max_completion_tokens=7).max_tokens == 7


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
