"""What an answer nearly always says next, whoever asks.

Stage: 5 of a request, step: the engine guesses at these, so that they need no steps of their own.
Owns: the phrases. Does not know: how guesses are checked.
"""

from __future__ import annotations

from functools import cache

from gptoss_backend.harmony.vocabulary import CHANNEL, END, MESSAGE, START, encoding


@cache
def usual_phrases() -> dict[tuple[int, ...], tuple[int, ...]]:
    """Return the tokens that come after others: reasoning opens an answer, and an answer follows it."""
    return {
        (START, _token("assistant")): (CHANNEL, _token("analysis"), MESSAGE),
        (END,): (START, _token("assistant"), CHANNEL, _token("final"), MESSAGE),
    }


def _token(word: str) -> int:
    [token] = encoding().encode(word)
    return int(token)
