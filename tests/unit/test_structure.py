"""Answers held to a structure: whatever a model would like to say, what comes out is what was asked for."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gptoss_backend.contract import (
    STOP_TOKENS,
    BuiltinName,
    FunctionTool,
    OutputStructure,
    ResponseFormat,
    ToolChoice,
    ToolChoiceMode,
)
from gptoss_backend.engine.errors import StructureOutgrown
from gptoss_backend.engine.grammar import Grammar
from gptoss_backend.harmony.channels import ChannelSplitter
from gptoss_backend.harmony.deltas import ContentDelta, ToolCallDelta
from gptoss_backend.harmony.vocabulary import CALL, CHANNEL, END, FIRST_SPECIAL, RETURN, START, VOCAB_SIZE, encoding
from gptoss_backend.structure import held_text
from gptoss_backend.structure.answer import AnswerMask
from gptoss_backend.structure.schemas import StructureError
from support.answer_masks import allowed, takes, tokens

PERSON: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "kind": {"enum": ["a", "b"]},
    },
    "required": ["name", "age", "kind"],
    "additionalProperties": False,
}
WEATHER = FunctionTool(
    "get_weather",
    "",
    {
        "properties": {"city": {"type": "string", "maxLength": 12}, "unit": {"enum": ["c", "f"]}},
        "required": ["city"],
        "additionalProperties": False,
    },
)
NOW = FunctionTool("now")
REQUIRED = ToolChoice(ToolChoiceMode.REQUIRED)
AUTO = ToolChoice()

JSON_ANSWER = OutputStructure(ResponseFormat(PERSON))
MUST_CALL = OutputStructure(None, (WEATHER, NOW), REQUIRED)
MAY_CALL = OutputStructure(None, (WEATHER, NOW))
MAY_BROWSE = OutputStructure(None, (WEATHER,), builtins=(BuiltinName.BROWSER, BuiltinName.PYTHON))
NO_CALLS = OutputStructure(tool_choice=ToolChoice(ToolChoiceMode.NONE))

CALL_NOW = "<|channel|>commentary to=functions.now <|constrain|>json<|message|>{}"
REASONING = "<|channel|>analysis<|message|>Hm.<|end|>"


def advanced(structure: OutputStructure, text: str) -> AnswerMask:
    """Return the mask after text, each token of which it has to allow."""
    mask = AnswerMask(structure)
    for token in tokens(text):
        may_come = allowed(mask)
        assert may_come is None or may_come[token], f"{encoding().decode([token])!r} may not come"
        mask.accept(token)
    return mask


def may_end(mask: AnswerMask) -> set[int]:
    may_come = allowed(mask)
    return {RETURN, CALL, END} if may_come is None else {t for t in (RETURN, CALL, END) if may_come[t]}


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


def read(structure: OutputStructure, ids: list[int]) -> tuple[str, list[tuple[str, str]]]:
    """Return the content and the calls that a client gets."""
    splitter, content, calls = ChannelSplitter(structure.tools), "", list[tuple[str, str]]()
    for delta in [*splitter.push(ids), *splitter.finish()]:
        if isinstance(delta, ContentDelta):
            content += delta.text
        elif isinstance(delta, ToolCallDelta) and delta.name is not None:
            calls.append((delta.name, delta.arguments))
        elif isinstance(delta, ToolCallDelta):
            calls[-1] = (calls[-1][0], calls[-1][1] + delta.arguments)
    return content, calls


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


# --- any model ------------------------------------------------------------------------------------------------------


@settings(max_examples=15, deadline=None)
@given(st.integers(min_value=0, max_value=2**32))
def test_answer_when_a_schema_is_demanded_then_any_model_gives_its_json(seed: int) -> None:
    ids, is_finished = babble(JSON_ANSWER, seed)
    assert is_finished
    content, calls = read(JSON_ANSWER, ids)
    check_person(content)
    assert calls == []


@settings(max_examples=15, deadline=None)
@given(st.integers(min_value=0, max_value=2**32), st.booleans())
def test_answer_when_a_call_is_required_then_any_model_calls_a_known_function(seed: int, parallel: bool) -> None:
    structure = OutputStructure(None, (WEATHER, NOW), REQUIRED, parallel)
    ids, is_finished = babble(structure, seed)
    _, calls = read(structure, ids)
    assert calls
    assert parallel or (len(calls) == 1 and ids[-1] == CALL)
    for name, arguments in calls if is_finished else calls[:-1]:
        check_call(name, arguments)


@settings(max_examples=15, deadline=None)
@given(st.integers(min_value=0, max_value=2**32))
def test_answer_when_a_function_is_named_then_any_model_calls_it(seed: int) -> None:
    structure = OutputStructure(None, (WEATHER, NOW), ToolChoice(ToolChoiceMode.REQUIRED, "now"), False)
    ids, is_finished = babble(structure, seed)
    assert is_finished
    ((name, arguments),) = read(structure, ids)[1]
    assert name == "now"
    assert json.loads(arguments) == {}


@settings(max_examples=15, deadline=None)
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


@settings(max_examples=15, deadline=None)
@given(st.integers(min_value=0, max_value=2**32))
def test_answer_when_it_may_not_call_then_no_model_does(seed: int) -> None:
    assert read(NO_CALLS, babble(NO_CALLS, seed, 100)[0])[1] == []


# --- headers --------------------------------------------------------------------------------------------------------


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


# --- which text is free, and how it may end -------------------------------------------------------------------------


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


def test_token_when_it_may_not_come_then_the_mask_says_so() -> None:
    with pytest.raises(RuntimeError):
        AnswerMask(JSON_ANSWER).accept(START)


def test_masks_when_of_one_structure_then_one_does_not_move_another() -> None:
    first, second = AnswerMask(JSON_ANSWER), AnswerMask(JSON_ANSWER)
    first.accept(CHANNEL)
    may_come = allowed(second)
    assert may_come is not None
    assert may_come[CHANNEL]


def test_mask_when_an_answer_is_written_then_it_takes_less_than_a_fifth_of_a_millisecond_a_token() -> None:
    bits = torch.zeros(VOCAB_SIZE // 32, dtype=torch.int32)
    header = REASONING + "<|start|>assistant<|channel|>final <|constrain|>json<|message|>"
    ids = tokens(header + '{\n  "name": "Émile",\n  "age": 62,\n  "kind": "a"\n}<|return|>')

    def seconds() -> float:
        mask = AnswerMask(JSON_ANSWER)
        started = time.perf_counter()
        for token in ids:
            mask.fill(bits)
            mask.accept(token)
        return (time.perf_counter() - started) / len(ids)

    assert min(seconds() for _ in range(5)) < 0.0002  # the least: others compute on this machine, too


# --- faults ---------------------------------------------------------------------------------------------------------


def test_structure_when_a_schema_cannot_be_held_then_no_mask_is_made() -> None:
    with pytest.raises(StructureError, match=r"^response_format\.json_schema\.schema: "):
        AnswerMask(OutputStructure(ResponseFormat({"type": "nothing"})))


def test_structure_when_a_name_is_no_functions_then_no_mask_is_made() -> None:
    with pytest.raises(StructureError, match=r"^tools\[1\]\.function\.name: "):
        AnswerMask(OutputStructure(None, (NOW, FunctionTool('x" | "y'))))


@pytest.mark.parametrize(
    ("choice", "tools"), [(REQUIRED, ()), (ToolChoice(ToolChoiceMode.REQUIRED, "other"), (NOW, WEATHER))]
)
def test_structure_when_a_call_is_required_that_cannot_be_then_no_mask_is_made(
    choice: ToolChoice, tools: tuple[FunctionTool, ...]
) -> None:
    with pytest.raises(StructureError, match=r"^tool_choice: "):
        AnswerMask(OutputStructure(None, tools, choice))


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


def test_grammar_when_it_outgrows_its_limits_then_its_answer_fails_and_the_next_begins_anew() -> None:
    structure = OutputStructure(ResponseFormat({"type": "string", "pattern": "^(a|b)*a(a|b){400}$"}))
    start = '<|channel|>final<|message|>"'
    mask, random = advanced(structure, start), np.random.default_rng(0)
    letters = tokens("a") + tokens("b") + tokens("abba")

    def write_on() -> None:
        for _ in range(20_000):
            allowed(mask)
            mask.accept(int(random.choice(letters)))

    with pytest.raises(StructureOutgrown, match=r"^response_format\.json_schema\.schema: .*too many states"):
        write_on()
    assert takes(structure, start + "abba")


def test_answer_when_its_masks_take_too_long_then_it_ends_with_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held_text, "_MOST_MASK_S", -1.0)
    mask = AnswerMask(JSON_ANSWER)
    with pytest.raises(StructureOutgrown, match="too slow"):
        mask.fill(torch.zeros(-(-VOCAB_SIZE // 32), dtype=torch.int32))


@pytest.mark.parametrize("vocab_size", [200_019, 200_064, VOCAB_SIZE, 201_089, 201_216])
@pytest.mark.parametrize("structure", [JSON_ANSWER, MAY_CALL], ids=["JSON", "call"])
def test_mask_when_a_model_has_another_vocabulary_then_the_rest_of_its_row_may_not_come(
    structure: OutputStructure, vocab_size: int
) -> None:
    mask = advanced(structure, "<|channel|>")
    may_come = allowed(mask)
    assert may_come is not None
    grammar, row = Grammar(mask, "r"), torch.zeros(vocab_size)
    assert grammar.prepare(), grammar.fault
    grammar.exclude(row)
    expected = np.zeros(vocab_size, dtype=bool)
    expected[: len(may_come)] = may_come[:vocab_size]
    assert (row.isfinite().numpy() == expected).all()
    assert expected.any()
