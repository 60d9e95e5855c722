"""Answers held to a structure: the headers of their texts and calls."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from gptoss_backend.contract import BuiltinName, FunctionTool, OutputStructure, ToolChoice, ToolChoiceMode
from gptoss_backend.harmony.vocabulary import CALL
from support.answer_masks import advanced, may_end, read, takes, tokens
from support.structures import CALL_NOW, JSON_ANSWER, MAY_BROWSE, MAY_CALL, NO_CALLS, REASONING, REQUIRED


@pytest.mark.parametrize(
    "header",
    [
        "<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>",
        "<|channel|>commentary to=functions.get_weather<|constrain|>json<|message|>",
        "<|channel|>commentary to=functions.get_weather json<|message|>",
        "<|channel|>commentary to=functions.get_weather<|message|>",
        " to=functions.get_weather<|channel|>commentary <|constrain|>json<|message|>",
        "<|channel|>analysis to=functions.get_weather code<|message|>",
    ],
)
def test_call_when_its_header_is_any_that_models_write_then_its_arguments_are_held(header: str) -> None:
    assert takes(MAY_CALL, header + '{"city": "Oslo"}<|call|>')
    assert takes(MAY_CALL, REASONING + "<|start|>assistant" + header + '{"city": "Oslo"}<|call|>')
    assert not takes(MAY_CALL, header + '{"town"')
    assert not takes(MAY_CALL, header + "{}")


@pytest.mark.parametrize(
    "text",
    [
        "<|channel|>commentary to=functions.get_weathr",
        "<|channel|>commentary to=python",
        "<|channel|>commentary to=functions.get_weather to=",
        "<|channel|>comment ",
        "Hello",
        "<|message|>",
        "<|return|>",
        "<|start|>",
    ],
)
def test_header_when_it_is_not_of_harmony_or_names_no_function_then_it_cannot_come(text: str) -> None:
    assert not takes(MAY_CALL, text)


@pytest.mark.parametrize("structure", [JSON_ANSWER, NO_CALLS])
def test_recipient_when_calls_are_not_allowed_then_it_cannot_come(structure: OutputStructure) -> None:
    assert not takes(structure, "<|channel|>commentary to=functions.now")
    assert not takes(structure, " to=")


@pytest.mark.parametrize("name", ["a", "get.x-y_z", "functions.f", "x" * 128, "to", "json", "analysis"])
def test_call_when_the_functions_name_is_unusual_then_it_can_be_made(name: str) -> None:
    structure = OutputStructure(None, (FunctionTool(name), FunctionTool(f"{name[:100]}2")), REQUIRED)
    answer = f"<|channel|>commentary to=functions.{name} <|constrain|>json<|message|>{{}}<|call|>"
    assert takes(structure, answer)
    assert read(structure, tokens(answer))[1] == [(name, "{}")]


@pytest.mark.parametrize(
    "call",
    [
        '<|channel|>analysis to=browser.search code<|message|>{"query":"x","topn":3}',
        '<|channel|>commentary to=browser.open <|constrain|>json<|message|>{"id":"https://a.example","cursor":0}',
        ' to=browser.find<|channel|>analysis<|message|>{"pattern":"x"}',
        "<|channel|>analysis to=python code<|message|>print('🧑\u200d🚀')\n\n# done",
        "<|channel|>analysis to=python <|constrain|>code<|message|>",
    ],
)
def test_call_of_a_builtin_when_it_is_offered_then_it_can_be_made_and_call_ends_it(call: str) -> None:
    mask = advanced(MAY_BROWSE, call)
    assert may_end(mask) == {CALL}
    mask.accept(CALL)


@pytest.mark.parametrize(
    "text",
    [
        "<|channel|>analysis to=browser.close",
        "<|channel|>analysis to=functions.python",
        '<|channel|>analysis to=browser.search code<|message|>{"topn":1}',
        '<|channel|>analysis to=browser.open code<|message|>{"url',
        "<|channel|>analysis to=browser.search code<|message|>x",
    ],
)
def test_call_of_a_builtin_when_there_is_none_such_then_it_cannot_come(text: str) -> None:
    assert not takes(MAY_BROWSE, text)


def test_call_of_a_builtin_when_a_function_is_named_then_it_cannot_come() -> None:
    named = replace(MAY_BROWSE, tool_choice=ToolChoice(ToolChoiceMode.REQUIRED, "get_weather"))
    assert not takes(named, "<|channel|>analysis to=python")
    assert takes(named, "<|channel|>analysis to=functions.get_weather")


def test_call_when_only_builtins_are_offered_and_one_is_required_then_the_final_text_waits() -> None:
    required = OutputStructure(builtins=(BuiltinName.PYTHON,), tool_choice=REQUIRED)
    assert not takes(required, "<|channel|>final")
    advanced(required, "<|channel|>analysis to=python code<|message|>1<|call|><|start|>assistant<|channel|>final")


@pytest.mark.parametrize("opening", ["<|start|>assistant<|channel|>", "<|channel|>"])
def test_header_when_it_comes_before_a_texts_end_then_it_is_held_all_the_same(opening: str) -> None:
    text = f"<|channel|>analysis<|message|>Let me see{opening}commentary to=functions.get_weather <|message|>"
    assert takes(MAY_CALL, text.replace(" <|message|>", "<|message|>{"))
    assert not takes(MAY_CALL, f"<|channel|>analysis<|message|>Let me see{opening}commentary to=functions.other")
    assert not takes(MAY_CALL, text.replace(" <|message|>", "<|message|>[]"))


# --- without reasoning ----------------------------------------------------------------------------------------------

AT_ONCE = replace(NO_CALLS, may_reason=False)
JSON_AT_ONCE = replace(JSON_ANSWER, may_reason=False)
MAY_CALL_AT_ONCE = replace(MAY_CALL, may_reason=False)


@pytest.mark.parametrize("structure", [AT_ONCE, JSON_AT_ONCE, MAY_CALL_AT_ONCE, replace(MAY_BROWSE, may_reason=False)])
def test_reasoning_when_there_may_be_none_then_no_header_leads_to_it(structure: OutputStructure) -> None:
    assert not takes(structure, "<|channel|>analysis")
    assert takes(structure, "<|channel|>final<|message|>")
    assert not takes(MAY_CALL_AT_ONCE, CALL_NOW + "<|end|><|start|>assistant<|channel|>analysis")


def test_answer_when_there_may_be_no_reasoning_and_no_calls_then_its_text_comes_at_once_and_is_free() -> None:
    assert not takes(AT_ONCE, "<|channel|>commentary")
    mask = advanced(AT_ONCE, "<|channel|>final<|message|>")
    assert not mask.fill(torch.zeros(6284, dtype=torch.int32))


def test_call_when_there_may_be_no_reasoning_then_it_may_come_after_a_preamble_and_is_held() -> None:
    preamble = "<|channel|>commentary<|message|>I look.<|end|><|start|>assistant"
    assert takes(MAY_CALL_AT_ONCE, preamble + CALL_NOW)
    assert takes(MAY_CALL_AT_ONCE, " to=functions.get_weather<|channel|>commentary <|constrain|>json<|message|>{")
    assert not takes(MAY_CALL_AT_ONCE, " to=functions.get_weather<|channel|>analysis")
    assert not takes(replace(MAY_CALL_AT_ONCE, tool_choice=REQUIRED), "<|channel|>final")


def test_json_when_there_may_be_no_reasoning_then_it_comes_at_once() -> None:
    assert not takes(JSON_AT_ONCE, "<|channel|>commentary")
    assert not takes(JSON_AT_ONCE, "<|channel|>final<|message|>Well")
    assert takes(JSON_AT_ONCE, '<|channel|>final<|message|>{"name": "Ann"')
