"""Penalties, rankings, cut-offs and log probabilities against transformers', torch's and the definitions."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from transformers import RepetitionPenaltyLogitsProcessor

from gptoss_backend.contract import Alternative, SamplingParams
from gptoss_backend.engine.drawing import cutoff
from gptoss_backend.engine.edits import LogitEdits, apply_edits
from gptoss_backend.engine.grammar import Grammar
from gptoss_backend.engine.logprobs import token_logprobs
from gptoss_backend.engine.penalties import Penalties, penalise
from gptoss_backend.engine.ranking import fold, likeliest, ranked
from support.toy_mask import ToyMask

VOCAB = 64
tokens = st.lists(st.integers(0, VOCAB - 1), max_size=150)
seeds = st.integers(0, 2**31)


def random_logits(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)) * 3


def penalise_row(penalties: Penalties, row: torch.Tensor) -> None:
    ids, numbers = penalties.numbers()
    row[ids] = penalise(row[ids], torch.from_numpy(numbers))


@settings(deadline=None)
@given(tokens, tokens, st.floats(0.1, 5.0), seeds)
def test_repetition_penalty_when_compared_with_transformers_then_the_logits_are_the_same(
    prompt: list[int], generated: list[int], penalty: float, seed: int
) -> None:
    row = random_logits(seed, VOCAB)
    expected = row
    if prompt or generated:
        [expected] = RepetitionPenaltyLogitsProcessor(penalty)(torch.tensor([prompt + generated]), row[None].clone())
    penalties = Penalties(SamplingParams(repetition_penalty=penalty), prompt)
    for token in generated:
        penalties.count(token)
    penalise_row(penalties, row)
    torch.testing.assert_close(row, expected)


@given(tokens, tokens, st.floats(-2, 2), st.floats(-2, 2), seeds)
def test_frequency_and_presence_penalty_when_applied_then_they_follow_openais_formula(
    prompt: list[int], generated: list[int], frequency: float, presence: float, seed: int
) -> None:
    row = random_logits(seed, VOCAB)
    counts = torch.bincount(torch.tensor(generated, dtype=torch.int64), minlength=VOCAB)
    expected = row - counts * frequency - (counts > 0) * presence
    penalties = Penalties(SamplingParams(frequency_penalty=frequency, presence_penalty=presence), prompt)
    for token in generated:
        penalties.count(token)
    penalise_row(penalties, row)
    torch.testing.assert_close(row, expected)


def test_edits_when_a_request_changes_nothing_then_there_are_none() -> None:
    neutral = SamplingParams(temperature=0.3, top_k=5, logprobs=4, stop_token_ids=(4,), ignore_eos=True)
    assert LogitEdits.of(neutral, [1, 2], frozenset({4}), None) is None


@settings(deadline=None)
@given(st.integers(1, 3), st.integers(1, 700), st.integers(1, 40), seeds)
def test_likeliest_when_compared_with_topk_then_values_are_the_same_and_tokens_hold_them(
    num_rows: int, vocab: int, count: int, seed: int
) -> None:
    logits = random_logits(seed, num_rows, vocab)
    logits[:, ::3] = logits[:, :1].clone()  # ties
    values, ids = likeliest(logits, count)
    assert torch.equal(values, logits.topk(min(count, vocab)).values)
    assert torch.equal(logits.gather(1, ids), values)
    assert all(len(set(row)) == len(row) for row in ids.tolist())


@settings(deadline=None)
@given(st.integers(1, 3), st.integers(1, 700), st.integers(1, 40), seeds)
def test_ranked_when_logits_are_equal_then_the_lowest_ids_come_first_and_no_other_is_found(
    num_rows: int, vocab: int, count: int, seed: int
) -> None:
    logits = random_logits(seed, num_rows, vocab).round()
    logits[logits == 1.0] = -0.0  # which equals the other zero
    values, ids = ranked(logits, count)
    expected = [sorted(range(vocab), key=lambda token: (-float(row[token]), token))[:count] for row in logits]
    assert ids.tolist() == expected
    assert torch.equal(logits.gather(1, ids), values)


@given(
    st.lists(st.floats(0.0, 1.0, width=32) | st.floats(0.5, 0.5 + 2**-8, width=32), min_size=1, max_size=60),
    st.booleans(),
    st.floats(0.0, 1.0, exclude_min=True),
)
def test_cutoff_when_compared_with_its_definition_then_the_same_values_pass(
    values: list[float], counts: bool, share: float
) -> None:
    measures = [1.0] * len(values) if counts else [round(value * 2**20) / 2**20 for value in values]
    limit = math.ceil(share * len(values)) if counts else share * sum(measures)
    assume(limit > 0)
    above = {v: sum(m for w, m in zip(values, measures, strict=True) if w > v) for v in values}
    passing = {v for v in values if above[v] < limit}
    least = cutoff(torch.tensor(values), torch.tensor(measures, dtype=torch.float64), limit)
    assert {v for v in values if v >= least} == passing


def test_cutoff_when_hundreds_of_values_share_a_bucket_then_it_falls_between_the_right_two() -> None:
    values = torch.linspace(0.5, 0.5009, 300)
    for num_kept in range(1, 301):
        measured = float(values.double().sort(descending=True).values[: num_kept - 1].sum())
        least = cutoff(values, values.double(), measured + 0.25)
        assert int((values >= least).sum()) == num_kept


@given(st.integers(1, 3), st.integers(1, 300), st.integers(1, 64))
def test_fold_when_the_depth_does_not_divide_then_padding_fills_the_last_row(rows: int, vocab: int, depth: int) -> None:
    numbers = torch.arange(rows * vocab).view(rows, vocab).float()
    folded = fold(numbers, depth, -1.0).flatten(1)
    assert torch.equal(folded[:, :vocab], numbers)
    assert bool((folded[:, vocab:] == -1.0).all())


@settings(deadline=None)
@given(st.integers(30, 3000), st.integers(0, 20), st.sampled_from([0.01, 1.0, 30.0]), seeds)
def test_logprob_when_compared_with_log_softmax_then_token_and_alternatives_agree(
    vocab: int, count: int, scale: float, seed: int
) -> None:
    logits = random_logits(seed, vocab) * scale
    token = seed % vocab
    [entry] = token_logprobs(logits[None], [token], [count])
    expected = torch.log_softmax(logits.double(), dim=-1)
    torch.testing.assert_close(entry.logprob, float(expected[token]), atol=1e-5, rtol=1e-6)
    assert entry.token_id == token
    top = expected.topk(count)
    assert [other.token_id for other in entry.top] == top.indices.tolist()
    torch.testing.assert_close([other.logprob for other in entry.top], top.values.tolist(), atol=1e-5, rtol=1e-6)
    assert all(isinstance(other, Alternative) and other.logprob <= 0.0 for other in entry.top)


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 12), st.integers(0, 299))
def test_logprob_when_logits_are_equal_then_the_lowest_ids_come_first_and_the_token_is_among_them(
    seed: int, count: int, token: int
) -> None:
    # rounded to few values, as bfloat16 does where logits are large
    logits = (torch.randn(300, generator=torch.Generator().manual_seed(seed)) * 3).round()
    best = int(logits.argmax())
    ranked = sorted(range(300), key=lambda other: (-float(logits[other]), other))[:count]
    greedy, drawn = token_logprobs(logits.expand(2, -1), [best, token], [count, count])
    assert [other.token_id for other in greedy.top] == ranked
    assert ranked[0] == best
    told = [other.token_id for other in drawn.top]
    if float(logits[token]) < float(logits[ranked[-1]]) or token in ranked:
        assert told == ranked
    else:
        assert told == [*ranked[:-1], token]


def test_logprobs_when_many_rows_are_told_of_then_they_are_each_row_s_own_and_a_device_is_waited_for_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    logits = (torch.randn(32, 700, generator=torch.Generator().manual_seed(1)) * 3).round()
    tokens, counts = list(range(32)), [row % 6 for row in range(32)]
    alone = [token_logprobs(logits[row : row + 1], [tokens[row]], [counts[row]])[0] for row in range(32)]
    waits = []
    for name in ("tolist", "item", "__float__", "__int__", "__bool__"):
        whole = getattr(torch.Tensor, name)
        monkeypatch.setattr(torch.Tensor, name, lambda self, whole=whole: (waits.append(whole), whole(self))[1])
    together = token_logprobs(logits, tokens, counts)
    assert together == alone
    assert len(waits) == 1


def test_edits_when_they_only_bar_tokens_then_rows_stay_in_their_dtype_and_keep_what_is_left() -> None:
    rows = random_logits(7, 3, 200).bfloat16()
    before = rows.clone()
    held, finished, allowed = (
        LogitEdits.of(sampling, [], frozenset({4}), mask and Grammar(ToyMask([mask, {150}]), "r"))
        for sampling, mask in (
            (SamplingParams(), {4, 9, 150}),
            (SamplingParams(min_tokens=3), {4}),  # a complete grammar outweighs min_tokens
            (SamplingParams(min_tokens=3, allowed_token_ids=(4, 9, 11)), None),
        )
    )
    edits = [each for each in (held, finished, allowed) if each is not None]
    assert [each.prepare() and not each.reweights for each in edits] == [True] * 3
    assert apply_edits(edits, rows) == [True] * 3
    for row, whole, left in zip(rows, before, ({4, 9, 150}, {4}, {9, 11}), strict=True):
        assert set(row.isfinite().nonzero().flatten().tolist()) == left
        assert all(row[token] == whole[token] for token in left)
