"""Sampling: every feature and mixes of them against a second implementation in loops, statistics, seeds."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from gptoss_backend.contract import SamplingParams
from gptoss_backend.engine import drawing, sampler
from gptoss_backend.engine.sequence import Sequence
from gptoss_backend.engine.step import Choice, Turn
from gptoss_backend.engine.uniforms import UniformNumbers
from support.plain_sampling import plain_distribution, plain_logits
from support.toy_mask import ToyMask
from support.turns import PROMPT, STOPS, VOCAB, pick, sequence, take_turns

NUM_DRAWS = 4_000


class Grid(UniformNumbers):
    """Gives one number: for many sequences together, evenly spaced ones, so that frequencies are exact."""

    def __init__(self, number: float) -> None:
        super().__init__(0)
        self.number = number

    def at(self, place: int) -> float:
        return self.number


def observed_distribution(logits: torch.Tensor, generated: list[int], num: int, **sampling: Any) -> torch.Tensor:  # noqa: ANN401
    """Draw at `num` evenly spaced numbers, after `generated`; exact to 1 / num for each token."""
    sequences = [sequence(**sampling) for _ in range(num)]
    for index, each in enumerate(sequences):
        each.uniforms = Grid((index + 0.5) / num)
        for token in generated:
            each.token_ids.append(token)
            if each.edits is not None:
                each.edits.accept(token)
    tokens = pick(logits.expand(num, -1), sequences)
    return torch.bincount(torch.tensor(tokens), minlength=logits.shape[-1]).double() / num


@pytest.fixture(params=[4, 128], ids=["short shortlist", "shortlist"], scope="module", autouse=True)
def shortlist(request: pytest.FixtureRequest) -> Iterator[None]:
    """Run every test over both ways to filter: with a short shortlist nearly all rows go the exact way."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(drawing, "_SHORTLIST", request.param)
        yield


mixes = st.fixed_dictionaries(
    {},
    optional={
        "temperature": st.floats(0.2, 2.0),
        "top_k": st.integers(0, VOCAB + 5),
        "top_p": st.floats(0.01, 1.0),
        "min_p": st.floats(0.0, 0.9),
        "presence_penalty": st.floats(-2.0, 2.0),
        "frequency_penalty": st.floats(-2.0, 2.0),
        "repetition_penalty": st.floats(0.5, 2.0),
        "logit_bias": st.dictionaries(st.integers(0, VOCAB - 1), st.floats(-5, 5), max_size=6),
        "min_tokens": st.integers(0, 6),
        "logprobs": st.integers(0, 5),
    },
)
histories = st.lists(st.integers(0, VOCAB - 1), max_size=8)


@settings(max_examples=25, deadline=None)
@given(mixes, histories, st.integers(0, 2**31))
def test_pick_when_parameters_are_mixed_then_the_distribution_is_that_of_the_definitions(
    sampling: dict[str, Any], generated: list[int], seed: int
) -> None:
    logits = torch.randn(VOCAB, generator=torch.Generator().manual_seed(seed)) * 2
    params = SamplingParams(**sampling)
    changed = plain_logits(logits.tolist(), params, PROMPT, generated, STOPS)
    expected = torch.tensor(plain_distribution(changed, params), dtype=torch.float64)
    observed = observed_distribution(logits, generated, 400, **sampling)
    if sampling.get("top_k") == 1:
        assert observed[expected.argmax()] == 1.0
    else:
        assert (observed - expected).abs().max() <= 1.01 / 400


@settings(max_examples=25, deadline=None)
@given(mixes, histories, st.integers(0, 2**31))
def test_pick_when_greedy_then_the_largest_logit_after_the_edits_is_taken(
    sampling: dict[str, Any], generated: list[int], seed: int
) -> None:
    logits = torch.randn(VOCAB, generator=torch.Generator().manual_seed(seed)) * 2
    params = SamplingParams(**sampling | {"temperature": 0.0})
    changed = plain_logits(logits.tolist(), params, PROMPT, generated, STOPS)
    observed = observed_distribution(logits, generated, 3, **sampling | {"temperature": 0.0})
    assert observed[changed.index(max(changed))] == 1.0


@pytest.mark.parametrize(
    "sampling",
    [
        {},
        {"temperature": 0.5},
        {"temperature": 2.0, "top_k": 5},
        {"top_p": 0.7},
        {"min_p": 0.2},
        {"temperature": 1.3, "top_k": 12, "top_p": 0.8, "min_p": 0.05},
        {"top_p": 1e-9},
        {"temperature": 1.5, "top_p": 0.95, "presence_penalty": 1.0, "logit_bias": {1: 2.0, 2: -2.0}, "min_tokens": 1},
    ],
    ids=str,
)
def test_pick_when_drawn_many_times_then_frequencies_match_the_definition(sampling: dict[str, Any]) -> None:
    logits = torch.randn(24, generator=torch.Generator().manual_seed(5)) * 2
    one = sequence(seed=7, **sampling)
    changed = plain_logits(logits.tolist(), one.request.sampling, PROMPT, [], STOPS)
    expected = torch.tensor(plain_distribution(changed, one.request.sampling), dtype=torch.float64)
    counts = torch.zeros(24, dtype=torch.float64)
    for start in range(0, NUM_DRAWS, 1000):
        many = [sequence(**sampling) for _ in range(1000)]
        for place, each in enumerate(many, start):
            each.uniforms = Grid(one.uniforms.at(place))  # those of one long answer
        counts += torch.bincount(torch.tensor(pick(logits.expand(1000, -1), many)), minlength=24)
    observed = counts / NUM_DRAWS
    assert bool((observed[expected == 0] == 0).all())
    deviation = (observed - expected).abs() / (expected * (1 - expected) / NUM_DRAWS).sqrt().clamp(min=1e-9)
    assert deviation[expected > 0].max() < 5.0


@pytest.mark.parametrize(
    "sampling", [{"top_p": 0.9}, {"top_k": 3000}, {"min_p": 0.5}, {"top_k": 5000, "top_p": 0.5}, {}], ids=str
)
def test_pick_when_the_vocabulary_is_large_and_flat_then_filters_reach_past_the_shortlist(
    sampling: dict[str, Any],
) -> None:
    logits = torch.randn(8191, generator=torch.Generator().manual_seed(1)) * 0.1
    expected = torch.tensor(plain_distribution(logits.tolist(), SamplingParams(**sampling)), dtype=torch.float64)
    observed = observed_distribution(logits, [], 2000, **sampling)
    assert bool((observed[expected == 0] == 0).all())
    assert (observed - expected).abs().max() <= 1.01 / 2000
    assert (observed > 0).sum() > 1000


@pytest.mark.parametrize("extra", [{}, {"top_k": 8000}, {"top_k": 200}], ids=str)
def test_pick_when_min_p_leaves_more_than_the_shortlist_then_top_p_is_of_what_it_left(extra: dict[str, Any]) -> None:
    logits = torch.randn(8191, generator=torch.Generator().manual_seed(1))
    sampling = {"min_p": 0.1, "top_p": 0.5} | extra
    expected = torch.tensor(plain_distribution(logits.tolist(), SamplingParams(**sampling)), dtype=torch.float64)
    observed = observed_distribution(logits, [], 2000, **sampling)
    assert bool((observed[expected == 0] == 0).all())
    assert (observed - expected).abs().max() <= 1.01 / 2000


def test_pick_when_min_p_and_top_p_are_both_asked_for_then_min_p_comes_first() -> None:
    logits = torch.tensor([0.5, 0.25, 0.15, 0.05, 0.05] + [0.0] * 35).log()
    # min_p leaves 0.5 and 0.25; the first is 0.6 of these, but not of all
    observed = observed_distribution(logits, [], 900, min_p=0.4, top_p=0.6)
    assert observed.nonzero()[:, 0].tolist() == [0]


def test_pick_when_logits_are_equal_then_they_stand_or_fall_together() -> None:
    logits = torch.tensor([2.0, 1.0, 2.0, 1.0, 1.0, 0.0] + [-50.0] * 34)
    for sampling, kept in (({"top_k": 2}, {0, 2}), ({"top_k": 3}, {0, 1, 2, 3, 4}), ({"top_p": 0.7}, {0, 1, 2, 3, 4})):
        observed = observed_distribution(logits, [], 200, **sampling)
        assert set(observed.nonzero()[:, 0].tolist()) == kept


@pytest.mark.parametrize(
    "sampling",
    [
        {"temperature": 1e-5},
        {"temperature": 1e-300},
        {"temperature": 2e-5, "top_p": 0.5},
        {"repetition_penalty": 1e-300},
        {"repetition_penalty": 1e300},
        {"repetition_penalty": 1e300, "temperature": 0.0},
        {"min_p": 1.0},
        {"top_p": 5e-324},
        {"top_p": 5e-324, "top_k": 30, "temperature": 2.0},
        {"logit_bias": dict.fromkeys(range(VOCAB), -100.0)},
    ],
    ids=str,
)
def test_pick_when_parameters_are_extreme_then_a_likely_token_comes(sampling: dict[str, Any]) -> None:
    logits = torch.randn(VOCAB, generator=torch.Generator().manual_seed(3)) * 3
    logits[0] = 30.0
    assert pick(logits[None], [sequence(prompt=[9, 11], **sampling)])[0] in (0, 9, 11)


def test_pick_when_numbers_are_at_the_ends_then_no_token_of_probability_zero_comes() -> None:
    logits = torch.full((VOCAB,), -torch.inf)
    logits[[7, 30]] = 0.0
    for number in (0.0, 1.0 - 2**-53):
        for sampling in ({}, {"top_p": 0.99}, {"top_k": 20}):
            one = sequence(**sampling)
            one.uniforms = Grid(number)
            assert pick(logits[None], [one])[0] in (7, 30)


EVERYTHING: dict[str, Any] = {
    "temperature": 1.2,
    "top_k": 30,
    "top_p": 0.95,
    "min_p": 0.01,
    "presence_penalty": 0.5,
    "frequency_penalty": 0.3,
    "repetition_penalty": 1.2,
    "logit_bias": {2: 3.0, 4: -100.0},
    "min_tokens": 10,
    "logprobs": 3,
}


def test_pick_when_a_seeded_request_shares_its_batch_then_its_tokens_and_logprobs_do_not_change() -> None:
    generator = torch.Generator().manual_seed(3)
    steps = torch.randn(40, 1, 300, generator=generator) * 2
    kinds: list[dict[str, Any]] = [
        *(
            {},
            {"top_p": 0.9},
            {"top_k": 200, "min_p": 0.01},
            {"temperature": 0.0},
            {"temperature": 0.6, "top_p": 0.999},
        ),
        *(EVERYTHING, EVERYTHING | {"mask": set(range(0, 300, 2))}, EVERYTHING | {"temperature": 0.0}),
    ]

    def make(kind: dict[str, Any], **seed: int) -> Sequence:
        allowed = kind.get("mask")
        mask = ToyMask([allowed] * 41) if allowed else None
        return sequence(vocab=300, **{key: value for key, value in kind.items() if key != "mask"}, **seed, mask=mask)

    for kind in kinds:
        alone, together, others = make(kind, seed=11), make(kind, seed=11), [make(other) for other in kinds]
        for index, logits in enumerate(steps):
            crowd = torch.randn(len(kinds) + 1, 300)
            place = index % len(crowd)
            crowd[place] = logits
            chosen = take_turns(crowd, [Turn(each) for each in (*others[:place], together, *others[place:])])[place]
            [expected] = take_turns(logits, [Turn(alone)])
            assert (chosen.tokens, chosen.logprobs) == (expected.tokens, expected.logprobs)


def test_pick_when_guesses_are_right_or_wrong_then_tokens_and_logprobs_are_those_without() -> None:
    steps = torch.randn(30, 300, generator=torch.Generator().manual_seed(4)) * 3
    kinds: list[dict[str, Any]] = [{"temperature": 0.0}, {}, {"top_p": 0.9}, {"logprobs": 2}, EVERYTHING]
    for kind in [*kinds, EVERYTHING | {"mask": True}, {"mask": True}]:
        # at every third place the grammar leaves all as it is
        masks = [ToyMask([set(range(i, 300, 2)) if i % 3 else None for i in range(31)]) for _ in range(2)]
        sampling = {key: value for key, value in kind.items() if key != "mask"} | {"seed": 5}
        alone, guessed = (sequence(mask=mask if "mask" in kind else None, **sampling) for mask in masks)
        expected = [take_turns(row[None], [Turn(alone)])[0] for row in steps]
        answer = [choice.tokens[0] for choice in expected]
        # three right ones, one right and one wrong, a wrong one, none: each with others around
        place, found = 0, list[Choice]()
        for right, wrong in ((3, 0), (1, 1), (0, 1), (0, 0), (2, 1)) * 2:
            guesses = (*answer[place : place + right], *[(answer[place + right] + 1) % 300] * wrong)
            rows = torch.cat([torch.randn(1, 300), steps[place : place + len(guesses) + 1], torch.randn(2, 300)])
            turns = [Turn(sequence()), Turn(guessed, guesses), Turn(sequence(), (7,))]
            found.append(take_turns(rows, turns)[1])
            place += right + 1
        assert [token for choice in found for token in choice.tokens] == answer[:place]
        assert [one for choice in found for one in choice.logprobs] == [
            one for choice in expected[:place] for one in choice.logprobs
        ]


def test_pick_when_an_answer_ends_amid_its_guesses_then_nothing_behind_the_end_is_chosen() -> None:
    stops = sequence(temperature=0.0)
    rows = torch.eye(VOCAB)[[8, 3, 9]]  # 3 stops
    assert take_turns(rows, [Turn(stops, (8, 3))])[0].tokens == (8, 3)
    mask = ToyMask([{8}, {9}])
    done = sequence(temperature=0.0, mask=mask)
    assert take_turns(torch.eye(VOCAB)[[1, 1, 1]], [Turn(done, (8, 9))])[0].tokens == (8, 9)
    assert mask.accepted == [8, 9]
    assert done.edits is not None
    assert done.edits.fault is None


def test_pick_when_a_device_takes_rows_together_then_tokens_and_logprobs_are_those_of_each_alone(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    kinds: list[dict[str, Any]] = [{}, {"top_p": 0.9}, {"logit_bias": {1: 9.0}, "temperature": 0.0}, EVERYTHING]
    held = [{"temperature": 0.0}, {"logprobs": 2}, EVERYTHING]

    def answers(logits: torch.Tensor) -> tuple[list[Choice], list[str | None]]:
        many = [sequence(seed=3, **kind) for kind in kinds]
        for index, kind in enumerate([*held, {}]):
            allowed = {index, 20} if index < len(held) else set[int]()  # the last one is left nothing
            many.insert(2 * index, sequence(seed=3, mask=ToyMask([allowed, {VOCAB - 1}]), **kind))
        choices = take_turns(logits, [Turn(each) for each in many])
        return choices, [each.edits.fault for each in many if each.edits is not None]

    logits = torch.randn(len(kinds) + len(held) + 1, VOCAB, generator=torch.Generator().manual_seed(2)) * 3
    alone = answers(logits)
    monkeypatch.setattr(sampler, "_groups", lambda rows, logits: [rows] if rows else [])
    together = answers(logits)
    assert [choice[1:] for choice in together[0]] == [choice[1:] for choice in alone[0]]
    assert together[1] == alone[1]


def test_pick_when_requests_have_no_seed_then_they_differ() -> None:
    first, second = pick(torch.zeros(2, 100_000), [sequence(), sequence()])
    assert first != second


@settings(max_examples=15, deadline=None)
@given(mixes, st.sets(st.integers(0, VOCAB - 1), min_size=1), st.integers(0, 2**31))
def test_pick_when_a_grammar_masks_then_only_its_tokens_come_in_their_own_proportions(
    sampling: dict[str, Any], allowed: set[int], seed: int
) -> None:
    logits = torch.randn(VOCAB, generator=torch.Generator().manual_seed(seed))
    params = SamplingParams(**sampling | {"min_tokens": 0, "top_k": 0})
    changed = plain_logits(logits.tolist(), params, PROMPT, [], STOPS, allowed)
    expected = torch.tensor(plain_distribution(changed, params), dtype=torch.float64)
    many = [sequence(mask=ToyMask([allowed]), **sampling | {"min_tokens": 0, "top_k": 0}) for _ in range(200)]
    for index, each in enumerate(many):
        each.uniforms = Grid((index + 0.5) / 200)
    tokens = pick(logits.expand(200, -1), many)
    observed = torch.bincount(torch.tensor(tokens), minlength=VOCAB).double() / 200
    assert (observed - expected).abs().max() <= 1.01 / 200
    assert [each.request.mask.accepted for each in many] == [[token] for token in tokens]  # type: ignore[union-attr]


def test_pick_when_a_grammar_is_complete_before_min_tokens_then_the_stop_token_comes_nevertheless() -> None:
    one = sequence(temperature=0.0, min_tokens=10, mask=ToyMask([{3, 8}, {3}]))
    assert pick(torch.arange(VOCAB)[None].flip(1) * 1.0, [one]) == [8], "the stop token is barred"
    assert pick(torch.arange(VOCAB)[None].flip(1) * 1.0, [one]) == [3]
    assert one.edits is not None
    assert (one.edits.is_finished, one.edits.fault) == (True, None)


def test_pick_when_a_grammar_leaves_nothing_or_raises_then_it_alone_is_at_fault() -> None:
    empty, broken = sequence(mask=ToyMask([set()])), sequence(mask=ToyMask([]))
    good = sequence(temperature=0.0, logit_bias={6: 100.0})
    assert pick(torch.zeros(3, VOCAB), [empty, good, broken])[1] == 6
    assert [each.edits and each.edits.fault for each in (empty, good, broken)] == [
        "the grammar of this request leaves no token to choose",
        None,
        "the grammar of this request failed",
    ]


@pytest.mark.parametrize("asked", [{}, {"top_k": 5}, {"top_p": 0.5}, {"min_p": 0.1}], ids=str)
def test_rows_when_one_holds_no_numbers_then_the_others_are_drawn_all_the_same(asked: dict[str, Any]) -> None:
    logits = torch.randn(3, VOCAB, generator=torch.Generator().manual_seed(1))
    samplings, uniforms = [SamplingParams(**asked)] * 3, torch.tensor([0.2, 0.5, 0.8], dtype=torch.float64)

    def drawn() -> list[int]:
        if not asked:
            return drawing.draw_plain(logits, samplings, uniforms).tolist()
        return drawing.draw_filtered(drawing.Shortlist.of(logits, samplings), samplings, uniforms)[0].tolist()

    expected = drawn()
    logits[1] = torch.nan
    first, _, last = drawn()
    assert [first, last] == [expected[0], expected[2]]
