"""Answers held to a structure: whatever a model would like to say, what comes out is what was asked for."""

from __future__ import annotations

import json

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from gptoss_backend.contract import STOP_TOKENS, OutputStructure, ResponseFormat, ToolChoice, ToolChoiceMode
from gptoss_backend.harmony.vocabulary import CALL, END, RETURN, VOCAB_SIZE
from gptoss_backend.structure.answer import AnswerMask
from support.answer_masks import allowed, read, tokens
from support.structures import AUTO, JSON_ANSWER, NO_CALLS, NOW, PERSON, REQUIRED, WEATHER


def babble(structure: OutputStructure, seed: int, num_tokens: int = 1000) -> tuple[list[int], bool]:
    """Answer as a model of random weights, but one that ends its texts and strings; returns whether it has finished."""
    random = np.random.default_rng(seed)
    liking = np.zeros(VOCAB_SIZE)
    liking[[END, RETURN, CALL]] = 12.0
    liking[tokens('"')] = 8.0
    mask, ids = AnswerMask(structure), list[int]()
    while len(ids) < num_tokens:
        logits = liking + random.gumbel(size=VOCAB_SIZE)
        may_come = allowed(mask)
        if may_come is not None:
            logits[~may_come] = -np.inf
        ids.append(int(logits.argmax()))
        mask.accept(ids[-1])
        if ids[-1] in STOP_TOKENS or mask.is_finished:
            return ids, True
    return ids, False


def check_person(text: str) -> None:
    person = json.loads(text)
    assert list(person) == ["name", "age", "kind"]
    assert len(person["name"]) <= 12
    assert 0 <= person["age"] <= 150
    assert person["kind"] in ("a", "b")


def check_call(name: str, arguments: str) -> None:
    read_arguments = json.loads(arguments)
    if name == "now":
        assert read_arguments == {}
    else:
        assert name == "get_weather"
        assert len(read_arguments["city"]) <= 12
        assert read_arguments.keys() <= {"city", "unit"}
        assert read_arguments.get("unit") in (None, "c", "f")


@settings(max_examples=10, deadline=None)
@given(st.integers(min_value=0, max_value=2**32))
def test_answer_when_a_schema_is_demanded_then_any_model_gives_its_json(seed: int) -> None:
    ids, is_finished = babble(JSON_ANSWER, seed)
    assert is_finished
    content, calls = read(JSON_ANSWER, ids)
    check_person(content)
    assert calls == []


@settings(max_examples=10, deadline=None)
@given(st.integers(min_value=0, max_value=2**32), st.booleans())
def test_answer_when_a_call_is_required_then_any_model_calls_a_known_function(seed: int, parallel: bool) -> None:
    structure = OutputStructure(None, (WEATHER, NOW), REQUIRED, parallel)
    ids, is_finished = babble(structure, seed)
    _, calls = read(structure, ids)
    assert calls
    assert parallel or (len(calls) == 1 and ids[-1] == CALL)
    for name, arguments in calls if is_finished else calls[:-1]:
        check_call(name, arguments)


@settings(max_examples=10, deadline=None)
@given(st.integers(min_value=0, max_value=2**32))
def test_answer_when_a_function_is_named_then_any_model_calls_it(seed: int) -> None:
    structure = OutputStructure(None, (WEATHER, NOW), ToolChoice(ToolChoiceMode.REQUIRED, "now"), False)
    ids, is_finished = babble(structure, seed)
    assert is_finished
    ((name, arguments),) = read(structure, ids)[1]
    assert name == "now"
    assert json.loads(arguments) == {}


@settings(max_examples=10, deadline=None)
@given(st.integers(min_value=0, max_value=2**32))
def test_answer_when_it_may_be_a_call_or_json_then_any_model_gives_one_of_them(seed: int) -> None:
    structure = OutputStructure(ResponseFormat(PERSON), (WEATHER, NOW), AUTO, False)
    ids, is_finished = babble(structure, seed)
    assert is_finished
    content, calls = read(structure, ids)
    assert bool(content) != bool(calls)
    if content:
        check_person(content)
    for call in calls:
        check_call(*call)


@settings(max_examples=10, deadline=None)
@given(st.integers(min_value=0, max_value=2**32))
def test_answer_when_it_may_not_call_then_no_model_does(seed: int) -> None:
    assert read(NO_CALLS, babble(NO_CALLS, seed, 100)[0])[1] == []
