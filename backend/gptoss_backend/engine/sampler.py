"""Choosing the next token of each sequence from its logits.

Stage 5 of a request: step. Owns: the order of the work, and that each sequence is dealt with by its own parameters.
Does not know: caches, what a token means; the arithmetic is in edits, drawing and logprobs.

Each sequence draws one uniform number a token from its own generator and is looked at alone, so a seeded request gives
the same tokens whatever shares its batch.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from gptoss_backend.contract import TokenLogprob
from gptoss_backend.engine.drawing import Shortlist, draw_exactly, draw_filtered, draw_plain, has_filter
from gptoss_backend.engine.logprobs import token_logprob
from gptoss_backend.engine.model import Draws, StepOutput
from gptoss_backend.engine.sequence import Sequence


@dataclass(frozen=True, slots=True)
class Picks:
    """What was chosen in a step, by the sequences' places in it."""

    tokens: list[int]
    logprobs: dict[int, TokenLogprob] = field(default_factory=dict)
    """Where asked for."""

    def logprobs_at(self, place: int) -> tuple[TokenLogprob, ...]:
        """Return the entry of a sequence, if it has one."""
        return (self.logprobs[place],) if place in self.logprobs else ()


class Sampler:
    """Picks tokens for a batch of sequences with any mix of parameters."""

    @staticmethod
    def prepare(sequences: list[Sequence]) -> bool:
        """Get ready for a step after which each of these gets a token, its grammars filled in.

        Returns True where the likeliest tokens alone do not suffice, so that `pick` wants logits.
        """
        wants_logits = False
        for sequence in sequences:
            edits = sequence.edits
            if (edits is not None and edits.prepare()) or sequence.wants_logits:
                wants_logits = True
        return wants_logits

    @staticmethod
    def draws(sequences: list[Sequence]) -> Draws | None:
        """Return how these get their tokens where a model that draws by itself can see to all of them, else None.

        Each that samples draws its number here: none is left to draw once the step is computed.
        """
        if not all(_draws_plainly(sequence) for sequence in sequences):
            return None
        return Draws(
            [0.0 if sequence.is_greedy else sequence.request.sampling.temperature for sequence in sequences],
            [0.0 if sequence.is_greedy else sequence.random.random() for sequence in sequences],
        )

    @staticmethod
    def pick(output: StepOutput, sequences: list[Sequence]) -> Picks:
        """Choose one token for each sequence; output's logits are overwritten."""
        picks = Picks(list(output.tokens)) if output.logits is None else _pick(output.logits, output.tokens, sequences)
        for sequence, token in zip(sequences, picks.tokens, strict=True):
            if sequence.edits is not None:
                sequence.edits.accept(token)
        return picks


def _draws_plainly(sequence: Sequence) -> bool:
    """True where each token is the likeliest or drawn from all, and nothing else is asked about it."""
    sampling = sequence.request.sampling
    return (sequence.is_greedy or not has_filter(sampling)) and sequence.edits is None and sampling.logprobs is None


@torch.inference_mode()
def _pick(logits: Tensor, best: list[int], sequences: list[Sequence]) -> Picks:
    picks = Picks(list(best))
    untouched = _edit(logits, sequences, picks.tokens)
    sampled = [place for place, sequence in enumerate(sequences) if not sequence.is_greedy]
    filtered = [place for place in sampled if has_filter(sequences[place].request.sampling)]
    plain = [place for place in sampled if place not in set(filtered)]
    if plain:
        _draw_plain(logits, sequences, plain, picks.tokens)
    if filtered:
        _draw_filtered(logits, sequences, filtered, picks.tokens)
    for place, sequence in enumerate(sequences):
        count = sequence.request.sampling.logprobs
        if count is not None:
            row = untouched.get(place, logits[place])
            picks.logprobs[place] = token_logprob(row, picks.tokens[place], best[place], count)
    return picks


def _edit(logits: Tensor, sequences: list[Sequence], tokens: list[int]) -> dict[int, Tensor]:
    """Apply the requests' edits in place, and to the greedy ones' tokens; returns rows whose logprobs are still due."""
    untouched: dict[int, Tensor] = {}
    for place, sequence in enumerate(sequences):
        edits = sequence.edits
        if edits is not None and edits.is_due:
            row = logits[place]
            if sequence.request.sampling.logprobs is not None:
                untouched[place] = row.clone()
            edits.apply(row)
            if sequence.is_greedy:
                tokens[place] = _first_largest(row)
    return untouched


def _draw_plain(logits: Tensor, sequences: list[Sequence], places: list[int], tokens: list[int]) -> None:
    for group in _groups(places, logits):
        samplings = [sequences[place].request.sampling for place in group]
        drawn = draw_plain(_rows(logits, group), samplings, _uniforms(sequences, group, logits))
        _place(tokens, group, drawn.tolist())


def _draw_filtered(logits: Tensor, sequences: list[Sequence], places: list[int], tokens: list[int]) -> None:
    samplings = [sequences[place].request.sampling for place in places]
    uniforms = _uniforms(sequences, places, logits)
    shortlist = Shortlist.join(
        [
            Shortlist.of(_rows(logits, group), [sequences[place].request.sampling for place in group])
            for group in _groups(places, logits)
        ]
    )
    drawn, suffices = draw_filtered(shortlist, samplings, uniforms)
    _place(tokens, places, drawn.tolist())
    for index, place in enumerate(places):
        if not suffices[index]:
            row, uniform = logits[place : place + 1], uniforms[index : index + 1]
            tokens[place] = int(draw_exactly(row, samplings[index], uniform))


def _groups(places: list[int], logits: Tensor) -> list[list[int]]:
    """Return which rows to compute side by side: on a CPU one at a time, since one fits a core's cache."""
    return [[place] for place in places] if logits.device.type == "cpu" else [places]


def _rows(logits: Tensor, places: list[int]) -> Tensor:
    return logits[places[0] : places[0] + 1] if len(places) == 1 else logits[places]


def _uniforms(sequences: list[Sequence], places: list[int], logits: Tensor) -> Tensor:
    numbers = [sequences[place].random.random() for place in places]
    return torch.tensor(numbers, dtype=torch.float64, device=logits.device)


def _place(tokens: list[int], places: Iterable[int], drawn: list[int]) -> None:
    for place, token in zip(places, drawn, strict=True):
        tokens[place] = token


def _first_largest(row: Tensor) -> int:
    # NumPy's argmax is ten times as fast as torch's on a CPU
    return int(row.numpy().argmax()) if row.device.type == "cpu" else int(row.argmax())
