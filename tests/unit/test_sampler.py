"""Sampling: distributions by statistics, filters against a plain second implementation, seeds."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch

from gptoss_backend.contract import SamplingParams
from gptoss_backend.engine.model import StepOutput
from gptoss_backend.engine.sampler import Sampler
from gptoss_backend.engine.sequence import GenerationRequest, Sequence

NUM_DRAWS = 20_000


def sequence(**sampling: Any) -> Sequence:  # noqa: ANN401
    return Sequence(GenerationRequest("r", [1], SamplingParams(**sampling)), max_tokens=10)


def pick(logits: torch.Tensor, sequences: list[Sequence]) -> list[int]:
    return Sampler().pick(StepOutput(logits.argmax(dim=-1).tolist(), logits), sequences)


def expected_distribution(
    logits: torch.Tensor, temperature: float = 1.0, top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0
) -> torch.Tensor:
    """The filters one after the other, in loops, as their definitions read."""
    probabilities = torch.softmax(logits.double() / temperature, dim=-1).tolist()
    ranked = sorted(range(len(probabilities)), key=lambda token: -probabilities[token])
    if top_k:
        ranked = ranked[:top_k]
    total = sum(probabilities[token] for token in ranked)
    kept, mass = [], 0.0
    for token in ranked:
        if mass >= top_p * total:
            break
        mass += probabilities[token]
        kept.append(token)
    kept = [token for token in kept if probabilities[token] >= min_p * probabilities[ranked[0]]]
    result = torch.zeros(len(probabilities), dtype=torch.float64)
    for token in kept:
        result[token] = probabilities[token]
    return result / result.sum()


@pytest.mark.parametrize(
    "sampling",
    [
        {},
        {"temperature": 0.5},
        {"temperature": 2.0, "top_k": 5},
        {"top_p": 0.7},
        {"min_p": 0.2},
        {"temperature": 1.3, "top_k": 12, "top_p": 0.8, "min_p": 0.05},
        {"top_k": 1},
        {"top_p": 1e-9},
    ],
    ids=str,
)
def test_pick_when_drawn_many_times_then_frequencies_match_the_definition(sampling: dict[str, Any]) -> None:
    logits = torch.randn(24, generator=torch.Generator().manual_seed(5)) * 2
    one = sequence(seed=7, **sampling)
    tokens = pick(logits.expand(NUM_DRAWS, -1), [one] * NUM_DRAWS)
    observed = torch.bincount(torch.tensor(tokens), minlength=24).double() / NUM_DRAWS
    expected = expected_distribution(logits, **sampling)
    assert bool((observed[expected == 0] == 0).all())
    deviation = (observed - expected).abs() / (expected * (1 - expected) / NUM_DRAWS).sqrt().clamp(min=1e-9)
    assert deviation[expected > 0].max() < 5.0


def test_pick_when_the_vocabulary_is_large_and_flat_then_top_p_reaches_past_the_shortlist() -> None:
    logits = torch.randn(1, 8192, generator=torch.Generator().manual_seed(1)) * 0.1
    one = sequence(seed=1, top_p=0.9)
    tokens = pick(logits.expand(4000, -1), [one] * 4000)
    kept = expected_distribution(logits[0], top_p=0.9) > 0
    assert bool(kept[tokens].all())
    assert len(set(tokens)) > 2000


def test_pick_when_temperature_is_zero_then_takes_the_largest_whatever_the_filters() -> None:
    logits = torch.randn(3, 50, generator=torch.Generator().manual_seed(2))
    rows = [sequence(temperature=0.0), sequence(temperature=0.0, top_k=3), sequence(temperature=0.0, top_p=0.1)]
    assert pick(logits, rows) == logits.argmax(-1).tolist()


def test_pick_when_a_seeded_request_shares_its_batch_then_its_tokens_do_not_change() -> None:
    generator = torch.Generator().manual_seed(3)
    steps = torch.randn(40, 1, 300, generator=generator) * 2
    kinds: list[dict[str, Any]] = [{}, {"top_p": 0.9}, {"top_k": 40, "min_p": 0.01}, {"temperature": 0.0}]
    for sampling in kinds:
        alone, together = sequence(seed=11, **sampling), sequence(seed=11, **sampling)
        others = [sequence(**kind) for kind in kinds]
        for logits in steps:
            crowd = torch.cat([torch.randn(2, 300), logits, torch.randn(2, 300)])
            batch = [others[0], others[1], together, others[2], others[3]]
            assert pick(crowd, batch)[2] == pick(logits, [alone])[0]


def test_pick_when_requests_have_no_seed_then_they_differ() -> None:
    logits = torch.zeros(2, 100_000)
    first, second = pick(logits, [sequence(), sequence()])
    assert first != second


def test_pick_when_rows_are_mixed_then_each_follows_its_own_parameters() -> None:
    logits = torch.randn(200, 64, generator=torch.Generator().manual_seed(9))
    rows = random.Random(0).choices([{"temperature": 0.0}, {"top_k": 1}, {"top_k": 2}, {}], k=200)
    tokens = pick(logits, [sequence(**row) for row in rows])
    for row, token, line in zip(rows, tokens, logits, strict=True):
        rank = int((line > line[token]).sum())
        limit = 1 if row.get("temperature") == 0.0 else row.get("top_k", 64)
        assert rank < limit
