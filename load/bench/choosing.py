"""How a bench's tokens are chosen, as requests of all kinds ask for it.

Stage: 5 of a request's way.
Owns: draws and grammars that leave all as it is, so that what is chosen is the same with and without.
Does not know: what computes, what is timed.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

from torch import Tensor

from gptoss_backend.contract import SamplingParams
from gptoss_backend.engine.edits import LogitEdits
from gptoss_backend.engine.grammar import Grammar
from gptoss_backend.engine.model import Draws, Edited


class AnyToken:
    """A grammar that takes a mask for each token, and bars none."""

    is_finished = False

    def __init__(self, num_tokens: int) -> None:
        self.num_tokens = num_tokens

    def fork(self) -> AnyToken:
        """Return itself: it has no place."""
        return self

    def fill(self, bits: Tensor) -> bool:
        """Write that any token may come."""
        bits.fill_(-1)
        return True

    def accept(self, token: int) -> None:
        """It is all the same."""


@dataclass(frozen=True, slots=True)
class Choosing:
    """How tokens are chosen by a model that does so itself: drawn at temperature 1, as most requests ask."""

    top_p: float = 1.0
    held_every: int = 0
    """Every n-th row is held by a grammar; 0: none is."""

    def draws(self, num_rows: int) -> Draws:
        """Return how the tokens of a step are drawn."""
        return replace(Draws.of_all([1.0] * num_rows, [0.5] * num_rows), top_ps=[self.top_p] * num_rows)

    def edited(self, num_rows: int, vocab_size: int) -> Edited | None:
        """Return which rows of a step are held, with their masks filled anew, as for each token; None: none is."""
        places = list(range(0, num_rows, self.held_every)) if self.held_every else []
        if not places:
            return None
        grammars = [Grammar(AnyToken(vocab_size), "bench") for _ in places]
        edits = [LogitEdits(SamplingParams(), None, frozenset(), grammar) for grammar in grammars]
        for each in edits:
            each.prepare()
        return Edited(places, edits, self.draws(len(places)))
