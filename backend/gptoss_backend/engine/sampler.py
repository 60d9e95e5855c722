"""Choosing the next tokens of each sequence, from its logits or from what a model has chosen by itself.

Stage 5 of a request: step. Owns: the order of the work, that each sequence is dealt with by its own parameters, and how
many of a sequence's guesses stand. Does not know: caches, what a token means; the arithmetic is in edits, drawing and
logprobs; what a model is told so that it can choose is in sampling_metadata.

Each token of a sequence has a uniform number of its own and is looked at alone, so a seeded request gives the same
tokens whatever shares its batch. A guess stands where it is what is chosen, and so an answer is what it is without.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from itertools import zip_longest

import torch
from torch import Tensor

from gptoss_backend.contract import TokenLogprob
from gptoss_backend.engine.drawing import ROWS_AT_ONCE, Shortlist, draw_exactly, draw_filtered, draw_plain, has_filter
from gptoss_backend.engine.edits import LogitEdits, apply_edits
from gptoss_backend.engine.logprobs import token_logprobs
from gptoss_backend.engine.model import StepOutput
from gptoss_backend.engine.speculation import accept
from gptoss_backend.engine.step import Choice, Row, Turn, placed
from gptoss_backend.engine.transfer import to_device


class Sampler:
    """Picks tokens for a batch of sequences with any mix of parameters."""

    @staticmethod
    def pick(output: StepOutput, turns: list[Turn]) -> list[Choice]:
        """Choose the next tokens of each, one and as many more as its guesses are right; logits are overwritten."""
        logits = output.logits
        is_asked = logits is not None or len(output.logprobs) > 0
        if not is_asked and not any(guesses or sequence.edits is not None for sequence, guesses in turns):
            # most steps, and with many sequences: nothing is asked about what the model chose
            return [Choice(sequence, (token,)) for (sequence, _), token in zip(turns, output.tokens, strict=True)]
        picked = _Picked(list(output.tokens), output.logprobs, output.barren)
        if logits is not None:
            at_once = [pair for pair in placed(turns) if not _goes_one_by_one(pair[0], logits)]
            picked.add(logits, [row for turn, place in at_once for row in turn.rows(place)])
        return [_choose(output, turn, place, picked) for turn, place in placed(turns)]


@dataclass(slots=True)
class _Picked:
    """What has been chosen, by rows."""

    tokens: list[int]
    logprobs: dict[int, TokenLogprob] = field(default_factory=dict)
    """Where asked for."""
    barren: frozenset[int] = frozenset()
    """Where the model found that edits leave nothing."""

    def tell(self, edits: LogitEdits, place: int) -> None:
        """Tell a request's edits of the token chosen."""
        if place in self.barren:
            edits.leave_nothing()
        edits.accept(self.tokens[place])

    def logprobs_of(self, place: int, count: int) -> tuple[TokenLogprob, ...]:
        if not self.logprobs:
            return ()
        return tuple(self.logprobs[row] for row in range(place, place + count) if row in self.logprobs)

    @torch.inference_mode()
    def add(self, logits: Tensor, rows: list[Row]) -> None:
        """Choose by some rows."""
        untouched = _edit(logits, rows, self.tokens)
        sampled = [row for row in rows if not row.sequence.is_greedy]
        filtered = [row for row in sampled if has_filter(row.sequence.request.sampling)]
        plain = [row for row in sampled if not has_filter(row.sequence.request.sampling)]
        if plain:
            _draw_plain(logits, plain, self.tokens)
        if filtered:
            _draw_filtered(logits, filtered, self.tokens)
        told = [row for row in rows if row.sequence.request.sampling.logprobs is not None]
        for group in _groups(told, logits):
            values = _stacked([untouched.get(row.place, logits[row.place]) for row in group])
            counts = [row.sequence.request.sampling.logprobs or 0 for row in group]
            tokens = [self.tokens[row.place] for row in group]
            self.logprobs |= zip((row.place for row in group), token_logprobs(values, tokens, counts), strict=True)


def _goes_one_by_one(turn: Turn, logits: Tensor | None) -> bool:
    """True where a row has to wait for the token before, or, on a CPU, may have been looked at in vain."""
    return bool(turn.guesses) and (turn.sequence.edits is not None or _are_on_a_cpu(logits))


def _are_on_a_cpu(logits: Tensor | None) -> bool:
    return logits is not None and logits.device.type == "cpu"


def _choose(output: StepOutput, turn: Turn, place: int, picked: _Picked) -> Choice:
    sequence, guesses = turn
    one_by_one = _goes_one_by_one(turn, output.logits)
    tokens = _pick_one_by_one(output, turn, place, picked) if one_by_one else _take_at_once(turn, place, picked)
    if guesses:
        tokens = sequence.until_end(tokens)
    return Choice(sequence, tokens, picked.logprobs_of(place, len(tokens)))


def _take_at_once(turn: Turn, place: int, picked: _Picked) -> tuple[int, ...]:
    sequence, guesses = turn
    tokens = (picked.tokens[place],)
    if sequence.edits is not None:
        picked.tell(sequence.edits, place)
    return accept(guesses, picked.tokens[place : place + 1 + len(guesses)]) if guesses else tokens


def _pick_one_by_one(output: StepOutput, turn: Turn, place: int, picked: _Picked) -> tuple[int, ...]:
    sequence, guesses = turn
    edits = sequence.edits
    tokens: list[int] = []
    for row, guess in zip_longest(turn.rows(place), guesses):
        if edits is not None and row.ahead:
            edits.prepare()
            # what was to be edited and was not is left to the next step
            is_unedited = output.logits is None and edits.is_due and row.place not in output.edited
            if is_unedited or edits.fault is not None:
                break
        if output.logits is not None:
            picked.add(output.logits, [row])
        tokens.append(picked.tokens[row.place])
        if edits is not None:
            picked.tell(edits, row.place)
        if tokens[-1] != guess or sequence.ends_at(tokens[-1]):
            break
    return tuple(tokens)


def _edit(logits: Tensor, rows: list[Row], tokens: list[int]) -> dict[int, Tensor]:
    """Apply the requests' edits in place, and to the greedy ones' tokens; returns rows whose logprobs are still due."""
    due = [(row, edits) for row in rows if (edits := row.sequence.edits) is not None and edits.is_due]
    edits_of = {row.place: edits for row, edits in due}
    untouched: dict[int, Tensor] = {}
    for group in _groups([row for row, _ in due], logits):
        told = [row for row in group if row.sequence.request.sampling.logprobs is not None]
        untouched |= {row.place: logits[row.place].clone() for row in told}
        values = _values(logits, group)
        of_group = [edits_of[row.place] for row in group]
        for edits, is_left in zip(of_group, apply_edits(of_group, values), strict=True):
            if not is_left:
                edits.leave_nothing()
        if len(group) > 1:  # of one it is the row itself
            logits.index_copy_(0, _places(group, logits), values)
        if any(row.sequence.is_greedy for row in group):
            for row, best in zip(group, _first_largest(values), strict=True):
                tokens[row.place] = best
    return untouched


def _draw_plain(logits: Tensor, rows: list[Row], tokens: list[int]) -> None:
    for group in _groups(rows, logits):
        samplings = [row.sequence.request.sampling for row in group]
        drawn = draw_plain(_values(logits, group), samplings, _uniforms(group, logits))
        _place(tokens, group, drawn.tolist())


def _draw_filtered(logits: Tensor, rows: list[Row], tokens: list[int]) -> None:
    samplings = [row.sequence.request.sampling for row in rows]
    uniforms = _uniforms(rows, logits)
    shortlist = Shortlist.join(
        [
            Shortlist.of(_values(logits, group), [row.sequence.request.sampling for row in group])
            for group in _groups(rows, logits)
        ]
    )
    drawn, suffices = draw_filtered(shortlist, samplings, uniforms)
    _place(tokens, rows, drawn.tolist())
    for index, row in enumerate(rows):
        if not suffices[index]:
            values, uniform = logits[row.place : row.place + 1], uniforms[index : index + 1]
            tokens[row.place] = int(draw_exactly(values, samplings[index], uniform))


def _groups(rows: list[Row], logits: Tensor) -> list[list[Row]]:
    """Return which rows to compute side by side: on a CPU one at a time, since one fits a core's cache."""
    size = 1 if logits.device.type == "cpu" else ROWS_AT_ONCE
    return [rows[start : start + size] for start in range(0, len(rows), size)]


def _values(logits: Tensor, rows: list[Row]) -> Tensor:
    if len(rows) == 1:
        return logits[rows[0].place : rows[0].place + 1]
    return logits.index_select(0, _places(rows, logits))


def _places(rows: list[Row], logits: Tensor) -> Tensor:
    return to_device([row.place for row in rows], torch.int64, logits.device)


def _stacked(rows: list[Tensor]) -> Tensor:
    """Return rows one below the other; of one without a copy."""
    return rows[0][None] if len(rows) == 1 else torch.stack(rows)


def _uniforms(rows: list[Row], logits: Tensor) -> Tensor:
    return to_device([row.sequence.uniform(row.ahead) for row in rows], torch.float64, logits.device)


def _place(tokens: list[int], rows: Iterable[Row], drawn: list[int]) -> None:
    for row, token in zip(rows, drawn, strict=True):
        tokens[row.place] = token


def _first_largest(values: Tensor) -> list[int]:
    # NumPy's argmax is ten times as fast as torch's on a CPU
    best: list[int] = (values.numpy() if values.device.type == "cpu" else values).argmax(-1).tolist()
    return best
