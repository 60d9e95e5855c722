"""What a model is told so that it chooses a step's tokens by itself.

Stage 5 of a request: step. Owns: which of the requests' wishes a model can see to, and in which form.
Does not know: logits, how a token is chosen.
"""

from __future__ import annotations

from collections.abc import Iterator

from gptoss_backend.engine.edits import LogitEdits
from gptoss_backend.engine.model import Draws, Edited, Told
from gptoss_backend.engine.step import Row, Turn, placed


def prepare_edits(turns: list[Turn]) -> None:
    """Find out what changes the logits of a step, grammars filled in; the tokens before it are known."""
    for sequence, _ in turns:
        if sequence.edits is not None:
            sequence.edits.prepare()


def wants_logits(turns: list[Turn], *, can_draw: bool) -> bool:
    """Say whether a model that cannot be told of edits has to give its logits; after `prepare_edits`.

    can_draw: the model takes draws.
    """
    # what is to be changed behind a guess is known only once the guess stands
    return any(
        (sequence.edits is not None and (sequence.edits.is_due or len(guesses) > 0))
        or sequence.request.sampling.logprobs is not None
        or not (can_draw or sequence.is_greedy)
        for sequence, guesses in turns
    )


def draws_of(turns: list[Turn]) -> Draws | None:
    """Return how all of a step's tokens are drawn, edits aside; None: they are the likeliest."""
    if all(sequence.is_greedy for sequence, _ in turns):
        return None
    return _draws([row for turn, place in placed(turns) for row in turn.rows(place)])


def edited_of(turns: list[Turn]) -> Edited | None:
    """Return which samples' logits are to be changed, after `prepare_edits`; None: none. Those of guesses too."""
    held = [(turn, place) for turn, place in placed(turns) if turn.sequence.edits is not None]
    due = [pair for turn, place in held for pair in _due(turn.rows(place), turn)]
    if not due:
        return None
    return Edited([row.place for row, _ in due], [edits for _, edits in due], _draws([row for row, _ in due]))


def _due(rows: list[Row], turn: Turn) -> Iterator[tuple[Row, LogitEdits]]:
    """Yield a turn's rows that are to be changed; those behind guesses as if these stood, as far as they can."""
    edits = turn.sequence.edits
    if edits is not None and edits.is_due:
        yield rows[0], edits
    for row, guess in zip(rows[1:], turn.guesses, strict=True):
        edits = edits and edits.behind(guess)
        if edits is None:
            return
        is_due = edits.prepare()
        if edits.fault is not None:
            return
        if is_due:
            yield row, edits


def told_of(turns: list[Turn]) -> Told | None:
    """Return which samples' log probabilities are asked for; None: none's."""
    counts = {
        row.place: count
        for turn, place in placed(turns)
        if (count := turn.sequence.request.sampling.logprobs) is not None
        for row in turn.rows(place)
    }
    return Told(list(counts), list(counts.values())) if counts else None


def _draws(rows: list[Row]) -> Draws:
    samplings = [row.sequence.request.sampling for row in rows]
    return Draws(
        temperatures=[
            0.0 if row.sequence.is_greedy else sampling.temperature
            for row, sampling in zip(rows, samplings, strict=True)
        ],
        uniforms=[
            0.0 if row.sequence.is_greedy else row.sequence.uniform(row.sequence.num_awaited + row.ahead)
            for row in rows
        ],
        top_ks=[float(sampling.top_k) for sampling in samplings],
        top_ps=[sampling.top_p for sampling in samplings],
        min_ps=[sampling.min_p for sampling in samplings],
    )
