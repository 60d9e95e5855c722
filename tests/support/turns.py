"""Requests as the sampler sees them, and the engine's part in a step without a model."""

from __future__ import annotations

from typing import Any

import torch

from gptoss_backend.contract import SamplingParams
from gptoss_backend.engine import sampling_metadata
from gptoss_backend.engine.edits import LogitEdits
from gptoss_backend.engine.grammar import Grammar
from gptoss_backend.engine.model import StepOutput
from gptoss_backend.engine.sampler import Sampler
from gptoss_backend.engine.sampling_metadata import prepare_edits
from gptoss_backend.engine.sequence import GenerationRequest, Sequence
from gptoss_backend.engine.step import Choice, Turn
from support.toy_mask import ToyMask

VOCAB = 40
STOPS = frozenset({3, 5})
PROMPT = [1, 7, 7, 20]


def sequence(
    prompt: list[int] | None = None,
    mask: ToyMask | None = None,
    vocab: int = VOCAB,
    **sampling: Any,  # noqa: ANN401
) -> Sequence:
    """Return what the engine makes of a request that stops at STOPS."""
    params, prompt = SamplingParams(**sampling), PROMPT if prompt is None else prompt
    grammar = None if mask is None else Grammar(mask, "r")
    return Sequence(
        GenerationRequest("r", prompt, params, mask),
        max_tokens=1000,
        stop_tokens=STOPS,
        edits=LogitEdits.of(params, prompt, STOPS, grammar),
    )


def take_turns(logits: torch.Tensor, turns: list[Turn]) -> list[Choice]:
    """Play the engine for one step: the sampler may overwrite what it is given, and tokens are appended."""
    best, wanted = logits.argmax(dim=-1).tolist(), wants_logits(turns)
    choices = Sampler().pick(StepOutput(best, logits.clone() if wanted else None), turns)
    for sequence, tokens, _ in choices:
        sequence.token_ids.extend(tokens)
    return choices


def pick(logits: torch.Tensor, sequences: list[Sequence]) -> list[int]:
    """Return a token for each, after which nobody had guessed."""
    return [token for choice in take_turns(logits, [Turn(each) for each in sequences]) for token in choice.tokens]


def wants_logits(turns: list[Turn]) -> bool:
    """Do what the engine does before a step of a model that draws nothing."""
    prepare_edits(turns)
    return sampling_metadata.wants_logits(turns, can_draw=False)
