"""Answers held to a structure: which text is free, what may come in the other, and how each may end."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from gptoss_backend.contract import FunctionTool, OutputStructure, ResponseFormat
from gptoss_backend.harmony.vocabulary import CALL, END, FIRST_SPECIAL, RETURN
from support.answer_masks import advanced, allowed, may_end, takes, tokens
from support.structures import AUTO, CALL_NOW, JSON_ANSWER, MAY_CALL, MUST_CALL, NOW, REASONING


def test_reasoning_when_nothing_is_demanded_then_no_mask_is_made() -> None:
    assert allowed(advanced(MAY_CALL, "<|channel|>analysis<|message|>Hm")) is None
    assert allowed(advanced(MAY_CALL, REASONING + "<|start|>assistant<|channel|>final<|message|>So")) is None


@pytest.mark.parametrize("structure", [JSON_ANSWER, MUST_CALL])
def test_reasoning_when_something_is_demanded_then_only_its_end_leads_on(structure: OutputStructure) -> None:
    may_come = allowed(advanced(structure, "<|channel|>analysis<|message|>Hm"))
    assert may_come is not None
    assert may_come[:FIRST_SPECIAL].all()
    assert np.flatnonzero(may_come[FIRST_SPECIAL:]).tolist() == [END - FIRST_SPECIAL]


def test_final_when_a_call_is_required_then_it_cannot_come_before_one() -> None:
    assert not takes(MUST_CALL, "<|channel|>final")
    assert not takes(MUST_CALL, REASONING + "<|start|>assistant<|channel|>final")
    assert takes(MUST_CALL, CALL_NOW + "<|end|><|start|>assistant<|channel|>final<|message|>So.<|return|>")


def test_preamble_when_a_call_is_required_then_it_may_come_and_json_may_have_none() -> None:
    preamble = "<|channel|>commentary<|message|>I look."
    assert takes(MUST_CALL, preamble + "<|end|><|start|>assistant" + CALL_NOW + "<|call|>")
    assert not takes(JSON_ANSWER, preamble), "it would be content that is not JSON"


def test_json_when_complete_then_only_the_end_may_come_and_ends_the_answer() -> None:
    for header in ("<|channel|>final<|message|>", "<|channel|>final <|constrain|>json<|message|>"):
        text = header + '{"name": "é🙂", "age": 7, "kind": "b"}'
        mask = advanced(JSON_ANSWER, text)
        may_come = allowed(mask)
        assert may_come is not None
        assert set(np.flatnonzero(may_come).tolist()) == {RETURN, END}
        mask.accept(END)
        assert mask.is_finished


def test_json_when_incomplete_then_it_cannot_end() -> None:
    for text in ("", '{"name": "', '{"name": "x", "age": 7', '{"name": "x", "age": 7, "kind": "a"'):
        assert may_end(advanced(JSON_ANSWER, "<|channel|>final<|message|>" + text)) == set()


def test_json_object_when_demanded_then_it_is_an_object_and_ends_after_it() -> None:
    structure = OutputStructure(ResponseFormat())
    start = "<|channel|>final<|message|>"
    assert takes(structure, start + '{"a": [1, {"b": null}], "c": "\\n"}<|return|>')
    assert not takes(structure, start + "[")
    assert not takes(structure, start + "{} and more")


def test_arguments_when_only_one_call_is_allowed_then_only_call_ends_them() -> None:
    serial = OutputStructure(None, (NOW,), AUTO, parallel_tool_calls=False)
    assert may_end(advanced(serial, CALL_NOW)) == {CALL}
    assert may_end(advanced(MAY_CALL, CALL_NOW)) == {CALL, END}
    mask = advanced(serial, CALL_NOW + "<|call|>")
    assert mask.is_finished, "also where <|call|> is no stop token"
    assert not advanced(MAY_CALL, CALL_NOW + "<|call|>").is_finished


@pytest.mark.parametrize(
    ("parameters", "arguments", "may_come"),
    [
        (None, "{}", True),
        (None, '{"', False),
        ({"type": "object", "properties": {}}, "{}", True),
        ({"type": "object", "properties": {}}, '{"', False),
        ({"additionalProperties": {"type": "integer"}}, '{"a": 1}', True),
        ({"additionalProperties": {"type": "integer"}}, '{"a": "', False),
        ({"properties": {"a": {"type": "integer"}}}, '{"a": 1, "b": []}', True),
        ({"properties": {"a": {"type": "integer"}}}, "[", False),
        ({"type": "object", "properties": {}, "required": ["a"]}, "{}", False),
        ({"type": "object", "properties": {}, "description": "Nothing.", "$defs": {}}, '{"', False),
        ({"properties": {"a": {"type": "string", "nullable": True}}}, '{"a": null}', True),
    ],
)
def test_arguments_when_the_schema_leaves_things_open_then_they_are_an_object_that_fits(
    parameters: dict[str, Any] | None, arguments: str, may_come: bool
) -> None:
    structure = OutputStructure(None, (FunctionTool("f", "", parameters),))
    assert takes(structure, f"<|channel|>commentary to=functions.f<|message|>{arguments}") is may_come


def test_calls_when_several_follow_each_other_then_each_is_held() -> None:
    more = CALL_NOW + "<|end|><|start|>assistant<|channel|>commentary to=functions.get_weather<|message|>"
    assert takes(MUST_CALL, more + '{"city": "Rome", "unit": "c"}<|call|>')
    assert not takes(MUST_CALL, more + '{"unit"')


def test_whitespace_when_models_indent_then_it_may_come_but_not_without_end() -> None:
    assert takes(
        JSON_ANSWER, '<|channel|>final<|message|>{\n    "name" : "x",\r\n\t"age": 7,\n\n"kind":"a"\n}<|return|>'
    )
    mask = advanced(JSON_ANSWER, "<|channel|>final<|message|>{")
    for _ in range(100):
        may_come = allowed(mask)
        assert may_come is not None
        if not may_come[tokens(" ")[0]]:
            break
        mask.accept(tokens(" ")[0])
    else:
        pytest.fail("the model may write blanks for ever")


@pytest.mark.parametrize(
    "keywords",
    [
        {"pattern": r"\S", "minLength": 1, "maxLength": 255},
        {"pattern": r"^.*\S.*$", "maxLength": 500},
        {"pattern": r"\S+", "minLength": 1, "maxLength": 5000},
        {"pattern": r"^\p{L}.*", "maxLength": 200},
        {"pattern": r"^[\p{L}\p{N} .,'-]+$", "maxLength": 200},
    ],
)
def test_string_when_long_and_under_a_pattern_then_it_can_be_written(keywords: dict[str, Any]) -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string", **keywords}}, "required": ["a"]}
    answer = '<|channel|>final<|message|>{"a": "Some words of an answer, and O\'Neil"}<|return|>'
    assert takes(OutputStructure(ResponseFormat(schema, strict=True)), answer)
