"""The mask of an answer: what it costs and covers, when there is none, and when it gives up."""

from __future__ import annotations

import time

import numpy as np
import pytest
import torch

from gptoss_backend.contract import (
    FunctionTool,
    OutputStructure,
    ResponseFormat,
    TextForm,
    TextFormKind,
    ToolChoice,
    ToolChoiceMode,
)
from gptoss_backend.engine.errors import StructureOutgrown
from gptoss_backend.engine.grammar import Grammar
from gptoss_backend.engine.token_bits import exclude
from gptoss_backend.harmony.vocabulary import CHANNEL, START, VOCAB_SIZE, encoding
from gptoss_backend.structure import held_text
from gptoss_backend.structure.answer import AnswerMask
from gptoss_backend.structure.costs import MAX_PROPERTIES
from gptoss_backend.structure.held_text import WholeTextMask
from gptoss_backend.structure.schemas import StructureError
from support.answer_masks import advanced, allowed, takes, tokens
from support.structures import JSON_ANSWER, MAY_CALL, NOW, REASONING, REQUIRED, WEATHER


def test_token_when_it_may_not_come_then_the_mask_says_so() -> None:
    with pytest.raises(RuntimeError):
        AnswerMask(JSON_ANSWER).accept(START)


def test_masks_when_of_one_structure_then_one_does_not_move_another() -> None:
    first, second = AnswerMask(JSON_ANSWER), AnswerMask(JSON_ANSWER)
    first.accept(CHANNEL)
    may_come = allowed(second)
    assert may_come is not None
    assert may_come[CHANNEL]


@pytest.mark.parametrize("structure", [JSON_ANSWER, MAY_CALL], ids=["JSON", "call"])
def test_fork_when_it_goes_on_then_it_says_what_the_mask_says_there_which_stays_where_it_is(
    structure: OutputStructure,
) -> None:
    text = REASONING + "<|start|>assistant<|channel|>final <|constrain|>json<|message|>" + '{"name": "A'
    if structure is MAY_CALL:
        text = REASONING + "<|start|>assistant<|channel|>commentary to=functions.now <|constrain|>json<|message|>{"
    ids, mask = tokens(text), AnswerMask(structure)
    for place, token in enumerate(ids):
        before, fork = allowed(mask), mask.fork()
        for following in ids[place : place + 3]:
            fork.accept(following)
        ahead, again = allowed(fork), allowed(mask)
        assert np.array_equal(before, again) if before is not None and again is not None else before is again
        walked = allowed(advanced(structure, encoding().decode(ids[: place + 3])))
        assert np.array_equal(ahead, walked) if ahead is not None and walked is not None else ahead is walked
        mask.accept(token)


def test_fork_when_its_masks_take_long_then_its_origin_has_less_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(held_text, "_MASK_S_A_TOKEN", -6.0)  # of ten seconds
    mask = AnswerMask(JSON_ANSWER)
    allowed(mask.fork())
    with pytest.raises(StructureOutgrown):
        allowed(mask)


def test_fork_when_of_a_text_without_messages_then_it_goes_on_by_itself() -> None:
    mask = WholeTextMask(OutputStructure(form=TextForm(TextFormKind.CHOICE, ("yes", "no")), is_whole=True))
    fork = mask.fork()
    [yes] = tokens("yes")
    fork.accept(yes)
    left, before = allowed(fork), allowed(mask)
    assert left is not None
    assert before is not None
    assert before[yes]
    assert not left[yes]


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
    exclude([grammar.bits(vocab_size)], row[None])
    expected = np.zeros(vocab_size, dtype=bool)
    expected[: len(may_come)] = may_come[:vocab_size]
    assert (row.isfinite().numpy() == expected).all()
    assert expected.any()


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


def test_answer_when_a_schema_that_is_not_strict_counts_optional_fields_then_none_has_to_be_invented() -> None:
    schema = {"properties": {"a": {"type": "integer"}, "b": {"type": "string"}}, "minProperties": 1}
    structure = OutputStructure(ResponseFormat({"type": "object", **schema}, strict=False))
    assert takes(structure, '<|channel|>final<|message|>{"a":1}<|return|>')


def test_answer_when_any_of_as_many_fields_as_may_be_could_be_next_then_it_goes_on() -> None:
    inner = {"type": "object", "properties": {f"field_{at}": {"type": "string"} for at in range(MAX_PROPERTIES)}}
    structure = OutputStructure(ResponseFormat({"type": "object", "properties": {"a": inner}}))
    assert takes(structure, '<|channel|>final<|message|>{"a":{"field_0":"b","field_1":"c","field_499":"d"}}<|return|>')


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
