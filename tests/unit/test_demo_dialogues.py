"""What the demo model is taught: made-up dialogues as serving renders them."""

from __future__ import annotations

import json
from dataclasses import replace
from random import Random

import pytest
import torch
from load.demo_skills import judge

from gptoss_backend.contract import ChatMessage, FunctionTool, ResponseFormat
from gptoss_backend.demo.rows import Spellings
from gptoss_backend.demo.shape import TRAINED_SHAPE
from gptoss_backend.demo.training import batches
from gptoss_backend.demo.training.batches import Batcher
from gptoss_backend.demo.training.dialogue import Call, Dialogue, Thoughts, answer_tokens, example_of, user
from gptoss_backend.demo.training.mixture import EFFORTS, KINDS, draw
from gptoss_backend.demo.training.words import Words
from gptoss_backend.harmony.prompt import render_prompt
from gptoss_backend.harmony.vocabulary import encoding


@pytest.fixture(scope="module")
def spellings() -> Spellings:
    return Spellings(TRAINED_SHAPE.hidden_size)


def dialogues(kind: str, *, held_out: bool, count: int = 60) -> list[Dialogue]:
    rng = Random(kind)
    return [draw(rng, kind, held_out=held_out) for _ in range(count)]


@pytest.mark.parametrize("kind", KINDS)
def test_answer_when_written_as_taught_then_the_evaluation_finds_it_right(kind: str) -> None:
    for dialogue in dialogues(kind, held_out=True):
        outcome = judge(dialogue, answer_tokens(dialogue))
        assert outcome.is_well_formed
        assert outcome.is_valid
        assert outcome.is_right


@pytest.mark.parametrize(
    ("written", "is_valid"),
    [('{"name":"Ada","age":3}', True), ('{"name":"Ada"}', False), ('{"name":"Ada","age":"3"}', False), ("Ada", False)],
)
def test_answer_when_it_is_another_than_the_right_one_then_its_schema_says_whether_it_is_valid(
    written: str, is_valid: bool
) -> None:
    properties = {"name": {"type": "string"}, "age": {"type": "integer"}}
    schema = {"type": "object", "properties": properties, "required": list(properties), "additionalProperties": False}
    thoughts = Thoughts("I fill it in.", "", "")
    tool = FunctionTool("note", parameters=schema)
    asked = Dialogue((user("Bo is 4."),), thoughts, '{"name":"Bo","age":4}', response_format=ResponseFormat(schema))
    called = Dialogue((user("Note Bo, 4."),), thoughts, Call("note", {"name": "Bo", "age": 4}), tools=(tool,))
    outcomes = [judge(asked, answer_tokens(replace(asked, answer=written)))]
    if written.startswith("{"):
        outcomes.append(judge(called, answer_tokens(replace(called, answer=Call("note", json.loads(written))))))
    for outcome in outcomes:
        assert outcome.is_well_formed
        assert not outcome.is_right
        assert outcome.is_valid == is_valid


@pytest.mark.parametrize("kind", KINDS)
def test_answer_when_anything_of_it_is_missing_then_the_evaluation_does_not_let_it_pass(kind: str) -> None:
    for dialogue in dialogues(kind, held_out=True, count=5):
        answer = answer_tokens(dialogue)
        assert not judge(dialogue, answer[:-1]).is_well_formed
        assert not judge(dialogue, answer[1:]).is_right


@pytest.mark.parametrize("kind", KINDS)
def test_example_when_made_then_it_is_the_served_prompt_and_only_answers_are_targets(kind: str) -> None:
    for dialogue in dialogues(kind, held_out=False, count=20):
        example = example_of(dialogue)
        prompt = render_prompt(dialogue.request)
        assert example.tokens[: len(prompt)] == prompt
        assert all(example.is_target[len(prompt) :])
        taught = [token for token, is_target in zip(prompt, example.is_target, strict=False) if is_target]
        earlier = [_taught_text(message) for message in dialogue.messages if message.role == "assistant"]
        assert encoding().decode(taught) == "".join(earlier)


def _taught_text(message: ChatMessage) -> str:
    """Return what is to be predicted of an earlier turn."""
    if not message.tool_calls:
        return str(message.content)
    (call,) = message.tool_calls
    return f"=functions.{call.name} <|constrain|>json<|message|>{call.arguments}<|call|>"


def test_words_when_held_out_then_training_never_draws_them() -> None:
    rng = Random(1)
    seen, kept = (Words(rng, held_out=held_out) for held_out in (False, True))

    assert not {seen.word() for _ in range(5000)} & {kept.word() for _ in range(5000)}
    assert not {seen.name().lower() for _ in range(5000)} & {kept.word() for _ in range(5000)}


@pytest.mark.parametrize("kind", ["project", "arithmetic", "tool call"])
def test_dialogues_when_held_out_then_training_never_asks_them(kind: str) -> None:
    def asked(held_out: bool) -> set[str]:
        drawn = dialogues(kind, held_out=held_out, count=400)
        return {json.dumps([d.messages[-1].content, [t.name for t in d.tools]]) for d in drawn}

    assert not asked(True) & asked(False)


def test_thoughts_when_effort_rises_then_they_grow() -> None:
    (dialogue,) = dialogues("arithmetic", held_out=False, count=1)
    low, medium, high = (dialogue.thoughts.at(effort) for effort in dict.fromkeys(EFFORTS))

    assert medium.startswith(low)
    assert high.startswith(medium)
    assert len(low) < len(medium) < len(high)


def test_tool_call_when_made_then_its_values_stand_in_what_the_user_says() -> None:
    for dialogue in dialogues("tool call", held_out=False):
        assert isinstance(dialogue.answer, Call)
        said = (dialogue.messages[-1].content or "").lower()
        for value in dialogue.answer.arguments.values():
            assert str(value).lower() in said


def test_block_when_made_again_then_it_is_the_same_and_another_seed_makes_another(
    spellings: Spellings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "_GROUP", 20)
    known = torch.arange(0, 3000)
    first, again, other = (Batcher(known, spellings, seed).block(3)[0] for seed in (1, 1, 2))

    assert torch.equal(first.tokens, again.tokens)
    assert torch.equal(first.others, again.others)
    assert first.tokens.shape != other.tokens.shape or not torch.equal(first.tokens, other.tokens)


def test_batch_when_dialogues_begin_alike_then_that_is_taken_out_once_and_every_target_stays(
    spellings: Spellings,
) -> None:
    made = dialogues("copying", held_out=False, count=2)
    examples = [example_of(replace(dialogue, effort=made[0].effort, date=made[0].date)) for dialogue in made]
    batcher = Batcher(torch.arange(0, 201_000), spellings, seed=1)  # so every token of theirs keeps its number

    batch = batcher.batch(examples, torch.Generator())
    same = batcher.batch(examples[:1] * 2, torch.Generator())

    for row, example in enumerate(examples):
        whole = torch.cat((batch.shared, batch.tokens[row])).tolist()
        assert whole[: len(example.tokens)] == example.tokens
        assert batch.is_target[row, 1:].sum() == sum(example.is_target)
    assert len(batch.shared) > 30
    assert same.is_target[:, 1:].sum() == 2 * sum(examples[0].is_target)


def test_batch_when_a_word_occurs_then_its_other_spellings_compete_with_it(spellings: Spellings) -> None:
    asked = Dialogue((user("Say Berlin"),), Thoughts("", "", ""), "Berlin")
    batcher = Batcher(torch.arange(0, 1000), spellings, seed=1)

    batch = batcher.batch([example_of(asked)], torch.Generator())

    listed = {encoding().decode([token]) for token in batch.others[: batch.num_listed].tolist()}
    assert {" Berlin", "Berlin", " berlin"} <= listed
    assert len(batch.others[: batch.num_listed].unique()) == batch.num_listed
    assert not torch.isin(batch.others[batch.num_listed :], batch.others[: batch.num_listed]).any()


@pytest.mark.parametrize("held_out", [False, True])
def test_name_parts_when_put_into_a_functions_name_then_each_is_one_token(held_out: bool) -> None:
    words = Words(Random(0), held_out=held_out)
    for _ in range(50):
        verb, noun = words.name_part(), words.name_part()

        assert len(encoding().encode(f".{verb}_{noun}")) == 2
