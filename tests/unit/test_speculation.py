"""Guessing ahead: what is guessed, what stands, and that answers stay the same."""

from __future__ import annotations

from array import array
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gptoss_backend.contract import SamplingParams
from gptoss_backend.engine.engine import Engine
from gptoss_backend.engine.options import EngineOptions
from gptoss_backend.engine.sequence import GenerationRequest, TokenDelta
from gptoss_backend.engine.speculation import NO_PHRASES, Phrases, PromptLookup, Speculation, accept
from gptoss_backend.engine.uniforms import UniformNumbers
from support.reference import make_reference
from support.stepping import CPU
from support.toy_mask import ToyMask

PROMPT = (3, 1, 0, 1, 2, 2, 0, 3) * 4
TOKENS = st.lists(st.integers(0, 2), min_size=1, max_size=60)


def test_draft_when_the_latest_tokens_occurred_before_then_it_is_what_followed_their_last_occurrence() -> None:
    tokens = [1, 2, 3, 7, 7, 1, 2, 3, 4, 5, 6, 1, 2, 3]
    assert PromptLookup().draft(tokens, 2) == [4, 5]
    assert PromptLookup().draft(tokens, 100) == [4, 5, 6, 1, 2, 3]


@pytest.mark.parametrize("tokens", [[1], [1, 2, 3], [1, 2, 3, 4, 1, 2], [5, 5, 5]])
def test_draft_when_they_did_not_then_there_is_none(tokens: list[int]) -> None:
    assert PromptLookup().draft(tokens, 4) == []


@given(TOKENS)
def test_draft_when_looked_up_then_it_is_what_a_search_from_the_end_finds(tokens: list[int]) -> None:
    ends = [end for end in range(3, len(tokens)) if tokens[end - 3 : end] == tokens[-3:]]
    assert PromptLookup().draft(array("i", tokens), 5) == (tokens[ends[-1] : ends[-1] + 5] if ends else [])


@given(TOKENS, st.integers(0, 3), st.integers(0, 70))
def test_may_draft_next_when_it_says_no_then_no_token_makes_a_draft(tokens: list[int], token: int, at: int) -> None:
    lookup = PromptLookup()
    lookup.judge(0, at)
    if not lookup.may_draft_next(tokens):
        assert lookup.draft([*tokens, token], 1) == []


def test_draft_when_guesses_fail_then_the_next_waits_longer_until_one_stands() -> None:
    tokens = [1] * 10
    lookup = PromptLookup()

    def num_until_draft(num_accepted: int) -> int:
        for count in range(100):
            if lookup.draft(tokens, 2):
                tokens.extend([1] * (num_accepted + 1))
                lookup.judge(num_accepted, len(tokens))
                return count
            tokens.append(1)
        raise AssertionError("it has given up")

    assert [num_until_draft(0) for _ in range(9)] == [0, 1, 2, 4, 8, 16, 32, 64, 64]
    assert num_until_draft(1) == 64
    assert num_until_draft(0) == 0


@pytest.mark.parametrize(
    ("drafted", "picked", "kept"),
    [([5, 6], [5, 6, 7], (5, 6, 7)), ([5, 6], [5, 9, 7], (5, 9)), ([5, 6], [8, 6, 7], (8,)), ([], [3], (3,))],
)
def test_accept_when_the_model_disagrees_then_its_own_token_is_the_last(
    drafted: list[int], picked: list[int], kept: tuple[int, ...]
) -> None:
    assert accept(drafted, picked) == kept


def test_phrases_when_the_latest_tokens_are_those_before_one_then_it_is_what_comes_after() -> None:
    phrases = Phrases({(1, 2): (3, 4), (2,): (5,), (1, 7): (8,)})
    assert phrases.after(array("i", [9, 1, 2])) == (3, 4)
    assert phrases.after([9, 2]) == (5,)
    assert phrases.after([2]) == (5,)
    assert phrases.after([7]) == phrases.after([1]) == ()


def test_uniforms_when_asked_in_any_order_then_each_place_has_its_own_and_they_are_even() -> None:
    numbers = UniformNumbers(3)
    forwards = [numbers.at(place) for place in range(10_000)]
    assert [numbers.at(place) for place in reversed(range(100))] == forwards[99::-1]
    counts = torch.bincount((torch.tensor(forwards) * 10).long(), minlength=10)
    assert counts.sum() == 10_000
    assert ((counts - 1000).abs() < 150).all()  # five standard deviations
    neighbours = torch.tensor([[UniformNumbers(seed).at(0) for seed in range(4000)], forwards[:4000]])
    for pairs in (neighbours, torch.tensor([forwards[:-1], forwards[1:]])):
        assert abs(float(torch.corrcoef(pairs)[0, 1])) < 0.08


def answers(
    folder: Path,
    speculation: Speculation | None,
    requests: dict[str, SamplingParams],
    masks: dict[str, ToyMask] | None = None,
    phrases: Phrases = NO_PHRASES,
) -> tuple[object, int]:
    """Return each request's tokens, their logprobs and end, and how many guesses stood. Prompts repeat themselves."""
    said: list[TokenDelta] = []
    options = EngineOptions(
        dtype="float32",
        max_num_seqs=8,
        kv_cache_bytes=2**24,
        max_model_len=400,
        speculation=speculation,
        phrases=phrases,
    )
    engine = Engine.load(folder, options, said.extend, device=CPU)
    engine.start()
    for name, sampling in requests.items():
        engine.submit(GenerationRequest(name, list(PROMPT), sampling, (masks or {}).get(name)))
    engine.stop(drain_s=60.0)
    tokens = {name: [token for d in said if d.request_id == name for token in d.token_ids] for name in requests}
    ends = {delta.request_id: delta.event.finish_reason for delta in said if delta.is_last}  # type: ignore[union-attr]
    told = {name: [one.token_id for d in said if d.request_id == name for one in d.logprobs] for name in requests}
    assert all(told[name] == (tokens[name] if requests[name].logprobs is not None else []) for name in requests)
    return (tokens, ends), engine.stats().num_accepted_tokens


def test_answers_when_guessed_ahead_then_they_are_the_same_and_some_guesses_stood(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    make_reference({"vocab_size": 4, "num_local_experts": 4}, tmp_path)
    # of four tokens every three have occurred before, and often went on alike
    greedy = SamplingParams(temperature=0.0, max_tokens=150)
    plain, _ = answers(tmp_path, None, {"a": greedy})
    stop = plain[0]["a"][20]  # type: ignore[index]
    requests = {
        "a": greedy,
        "stops": SamplingParams(temperature=0.0, max_tokens=150, stop_token_ids=(stop,)),
        "short": SamplingParams(temperature=0.0, max_tokens=3),
        "drawn": SamplingParams(temperature=0.3, max_tokens=100, seed=1),
        "filtered": SamplingParams(temperature=0.8, top_p=0.8, max_tokens=100, seed=2),
        "with logprobs": SamplingParams(temperature=0.0, max_tokens=100, logprobs=2),
        "penalised": SamplingParams(temperature=0.0, max_tokens=100, presence_penalty=1.0),
        "held": SamplingParams(temperature=0.5, max_tokens=100, seed=3, logprobs=1),
    }
    for asked in ({"a": greedy}, {"stops": requests["stops"]}, {"drawn": requests["drawn"]}, requests):
        expected, _ = answers(tmp_path, None, asked, {"held": held()})
        for max_seqs in (1, 8):
            guessed, num_accepted = answers(tmp_path, Speculation(4, max_seqs), asked, {"held": held()})
            assert guessed == expected
            assert num_accepted > 0 or "stops" in asked


def held() -> ToyMask:
    """Return a grammar that leaves two tokens at first, then now and then any, at last two again."""
    return ToyMask([{0, 1}] * 20 + [None, {2, 3}] * 30 + [{1, 2}] * 100)


def test_answers_when_phrases_are_guessed_at_then_they_are_the_same(tmp_path: Path) -> None:
    torch.set_num_threads(1)
    make_reference({"vocab_size": 4, "num_local_experts": 4}, tmp_path)
    requests = {
        "likeliest": SamplingParams(temperature=0.0, max_tokens=40),
        "drawn": SamplingParams(max_tokens=40, seed=1),
        "two": SamplingParams(temperature=0.0, max_tokens=2),
    }
    for name, sampling in requests.items():
        expected, _ = answers(tmp_path, None, {name: sampling})
        [answer] = expected[0].values()  # type: ignore[index]
        wrong = (*answer[:2], (answer[2] + 1) % 4) if len(answer) > 2 else (answer[0], (answer[1] + 1) % 4)
        for phrase, num_right in ((answer[:3], len(answer[:3])), (wrong, len(wrong) - 1)):
            # the prompt's end, which does not come again
            found, num_accepted = answers(
                tmp_path, None, {name: sampling}, phrases=Phrases({PROMPT[-9:]: tuple(phrase)})
            )
            assert found == expected
            assert num_accepted == min(num_right, sampling.max_tokens - 1)  # type: ignore[operator]
