"""What a model is told so that it chooses by itself, and what is made of its choices."""

from __future__ import annotations

from typing import Any

import torch

from gptoss_backend.engine import sampling_metadata
from gptoss_backend.engine.edits import apply_edits
from gptoss_backend.engine.model import StepOutput
from gptoss_backend.engine.sampler import Sampler
from gptoss_backend.engine.sampling_metadata import draws_of, edited_of, prepare_edits, told_of
from gptoss_backend.engine.step import Choice, Turn
from support.toy_mask import ToyMask
from support.turns import STOPS, VOCAB, pick, sequence, take_turns, wants_logits


def test_wants_logits_when_all_are_greedy_and_change_nothing_then_none_are_wanted() -> None:
    free = sequence(temperature=0.0, mask=ToyMask([None, {1}]))
    rows = [sequence(temperature=0.0), sequence(temperature=0.0, top_p=0.1), sequence(top_k=1), free]
    turns = [Turn(each) for each in rows]
    assert not wants_logits(turns)
    assert pick(torch.eye(4, VOCAB), rows) == [0, 1, 2, 3]
    assert wants_logits(turns), "the grammar has begun"
    barred = sequence(temperature=0.0, min_tokens=1)
    assert wants_logits([Turn(barred)])
    pick(torch.zeros(1, VOCAB), [barred])
    assert not wants_logits([Turn(barred)])
    for sampling in ({"logprobs": 0}, {"logit_bias": {1: 1.0}}, {"presence_penalty": 0.1}):
        assert wants_logits([Turn(sequence(temperature=0.0, **sampling))])
    drawn = [Turn(sequence(top_p=0.5))]
    assert sampling_metadata.wants_logits(drawn, can_draw=False)
    assert not sampling_metadata.wants_logits(drawn, can_draw=True)


def test_draws_when_guesses_stand_before_a_row_then_its_number_is_that_of_its_token() -> None:
    one, greedy = sequence(seed=3, temperature=0.7), sequence(temperature=0.0)
    draws = draws_of([Turn(one, (1, 2)), Turn(greedy)])
    assert draws is not None
    assert draws.temperatures == [0.7, 0.7, 0.7, 0.0]
    assert draws.uniforms == [*(one.uniforms.at(place) for place in range(3)), 0.0]
    one.token_ids.append(1)
    one.awaited_as = 0
    later = draws_of([Turn(one)])
    assert later is not None
    assert later.uniforms == [one.uniforms.at(2)]
    filtered = draws_of([Turn(sequence(top_k=3, min_p=0.1)), Turn(sequence(top_p=0.5))])
    assert filtered is not None
    assert (filtered.top_ks, filtered.top_ps, filtered.min_ps) == ([3.0, 0.0], [1.0, 0.5], [0.1, 0.0])
    assert draws_of([Turn(greedy), Turn(sequence(top_k=1))]) is None


def test_edited_when_some_rows_are_due_then_each_has_its_place() -> None:
    plain, biased = sequence(temperature=0.0), sequence(seed=5, logit_bias={3: 1.0})
    held, free = sequence(temperature=0.0, mask=ToyMask([{4}])), sequence(mask=ToyMask([None]))
    turns = [Turn(plain, (1, 2)), Turn(biased, (7,)), Turn(held), Turn(free)]
    prepare_edits(turns)
    edited = edited_of(turns)
    assert edited is not None
    assert edited.places == [3, 4, 5]
    assert (edited.edits[0], edited.edits[2]) == (biased.edits, held.edits)
    assert edited.draws.uniforms == [biased.uniforms.at(0), biased.uniforms.at(1), 0.0]
    assert edited_of([Turn(plain)]) is None


def test_told_when_log_probabilities_are_asked_for_then_of_guesses_rows_too() -> None:
    told = told_of([Turn(sequence()), Turn(sequence(logprobs=2), (7, 8)), Turn(sequence(logprobs=0))])
    assert told is not None
    assert (told.places, told.counts) == ([1, 2, 3, 4], [2, 2, 2, 0])
    assert told_of([Turn(sequence())]) is None


def choose_as_a_model(logits: torch.Tensor, turns: list[Turn]) -> list[Choice]:
    """Play the engine for one step of a model that is told how to choose, and chooses the likeliest."""
    prepare_edits(turns)
    tokens, places, barren = logits.argmax(dim=-1).tolist(), set[int](), set[int]()
    if (edited := edited_of(turns)) is not None:
        places = set(edited.places)
        rows = logits[edited.places]
        barren = edited.barren(apply_edits(edited.edits, rows))
        for place, token in zip(edited.places, rows.argmax(dim=-1).tolist(), strict=True):
            tokens[place] = token
    output = StepOutput(tokens, None, edited=frozenset(places), barren=frozenset(barren))
    choices = Sampler().pick(output, turns)
    for each, chosen, _ in choices:
        each.token_ids.extend(chosen)
    return choices


def test_pick_when_a_model_is_told_of_edits_behind_guesses_then_answers_are_those_of_one_token_a_step() -> None:
    steps = torch.randn(30, VOCAB, generator=torch.Generator().manual_seed(6)) * 3
    steps[:, list(STOPS)] = 1.0  # with a bias they would come, were they not barred
    kinds: list[dict[str, Any]] = [
        {"repetition_penalty": 3.0, "frequency_penalty": 1.0, "presence_penalty": 0.5},
        {"min_tokens": 12, "logit_bias": dict.fromkeys(STOPS, 9.0)},
        {"mask": True},
        {"mask": True, "repetition_penalty": 1.5, "frequency_penalty": 2.0},
    ]
    for kind in kinds:
        masks = [ToyMask([set(range(i % 5, VOCAB, 2)) if i % 3 else None for i in range(31)]) for _ in range(2)]
        sampling = {key: value for key, value in kind.items() if key != "mask"} | {"temperature": 0.0}
        alone, guessed = (sequence(mask=mask if "mask" in kind else None, **sampling) for mask in masks)
        answer = [take_turns(row[None], [Turn(alone)])[0].tokens[0] for row in steps[:12]]
        place, found = 0, list[int]()
        for right, wrong in ((3, 0), (1, 1), (0, 1), (0, 0), (2, 1)):
            guesses = (*answer[place : place + right], *[(answer[place + right] + 1) % VOCAB] * wrong)
            rows = torch.cat([torch.randn(1, VOCAB), steps[place : place + len(guesses) + 1]])
            found += choose_as_a_model(rows, [Turn(sequence(temperature=0.0)), Turn(guessed, guesses)])[1].tokens
            place += right + 1
        assert found == answer[: len(found)]
        assert len(found) == 11


def test_pick_when_an_edit_behind_a_guess_was_not_made_then_the_next_step_makes_it() -> None:
    held, free = sequence(mask=ToyMask([{4}, {8}, {9}])), sequence(mask=ToyMask([{4}, None, None]))
    turns = [Turn(held, (4, 8)), Turn(free, (4, 8))]
    prepare_edits(turns)
    choices = Sampler().pick(StepOutput([4, 7, 7, 4, 8, 3], None, edited=frozenset({0, 3})), turns)
    assert [choice.tokens for choice in choices] == [(4,), (4, 8, 3)]


def test_pick_when_a_guess_may_not_come_or_ends_the_answer_then_nothing_behind_it_is_edited_or_chosen() -> None:
    barred, ends = sequence(mask=ToyMask([{8}, {9}])), sequence(mask=ToyMask([{8}]))
    empty = sequence(mask=ToyMask([{8}, set()]))
    turns = [Turn(barred, (4, 8)), Turn(ends, (8, 9)), Turn(empty, (8,))]
    prepare_edits(turns)
    edited = edited_of(turns)
    assert edited is not None
    assert sorted(edited.places) == [0, 3, 6, 7]
    choices = choose_as_a_model(torch.zeros(8, VOCAB), turns)
    assert [choice.tokens for choice in choices] == [(8,), (8,), (8, 0)]
    assert [each.edits and each.edits.fault for each in (barred, ends, empty)] == [
        None,
        None,
        "the grammar of this request leaves no token to choose",
    ]
