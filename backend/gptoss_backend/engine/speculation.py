"""Guessing without a second model: by what followed the latest tokens before, and by phrases that are always the same.

Stages 4 and 5 of a request: schedule, step. Owns: one sequence's guesses, when they are worth a try, what of them
stands. Does not know: batches, caches, other sequences.

What followed before is prompt lookup decoding (https://github.com/apoorvumang/prompt-lookup-decoding). Guesses are
computed in one step as a short prompt would be, and what is chosen after each of them, drawn or likeliest, tells how
much stands. So an answer is the same with or without, as far as the model's arithmetic is the same for one token and
for several side by side: bit for bit in the C++ kernels, up to rounding elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping
from collections.abc import Sequence as Tokens
from dataclasses import dataclass

import numpy as np

_NGRAM = 3
"""Tokens that must have occurred before. Two recur by chance, four miss what was edited a little."""
_LONGEST_PAUSE = 64


@dataclass(frozen=True, slots=True)
class Speculation:
    """How far the engine guesses ahead."""

    num_tokens: int
    """Of a draft, at most."""
    max_seqs: int
    """While no more sequences than this decode: a fuller batch leaves no arithmetic idle that drafts could use."""
    head: str | None = None
    """Checkpoint of an EAGLE-3 head, which guesses where a lookup finds nothing; None: nobody does."""


class Phrases:
    """What comes after some tokens nearly always, in every answer."""

    def __init__(self, phrases: Mapping[tuple[int, ...], tuple[int, ...]]) -> None:
        """phrases: what comes after which latest tokens, at least one each."""
        self._by_latest: dict[int, list[tuple[tuple[int, ...], tuple[int, ...]]]] = {}
        for latest, following in phrases.items():
            self._by_latest.setdefault(latest[-1], []).append((latest, following))

    @property
    def longest(self) -> int:
        """How many tokens come after others at most."""
        return max((len(following) for pairs in self._by_latest.values() for _, following in pairs), default=0)

    def after(self, token_ids: Tokens[int]) -> tuple[int, ...]:
        """Return what may come after a sequence's tokens so far, often nothing."""
        for latest, following in self._by_latest.get(token_ids[-1], ()):
            if tuple(token_ids[-len(latest) :]) == latest:
                return following
        return ()


NO_PHRASES = Phrases({})


class PromptLookup:
    """One sequence's drafts. The text is searched anew for each: 5 µs for 1,000 tokens, 23 for 131,000."""

    def __init__(self) -> None:
        self._resumes_at = 0  # length of the text from which on drafts are made again
        self._next_pause = 1

    def draft(self, token_ids: Tokens[int], most: int) -> list[int]:
        """Return what may come after `token_ids`, the sequence so far, up to `most` tokens, often none."""
        end = None if len(token_ids) < self._resumes_at else _end_before(token_ids, _NGRAM)
        return [] if end is None else list(token_ids[end : end + most])

    def may_draft_next(self, token_ids: Tokens[int]) -> bool:
        """Return False where nothing can be drafted once the text is one token longer, whatever that token is."""
        return len(token_ids) + 1 >= self._resumes_at and _end_before(token_ids, _NGRAM - 1) is not None

    def judge(self, num_accepted: int, length: int) -> None:
        """Note how many tokens of a draft stood, and how long the text is since.

        After drafts in vain the next one waits longer and longer.
        """
        if num_accepted:
            self._next_pause = 1
        else:
            self._resumes_at = length + self._next_pause
            self._next_pause = min(2 * self._next_pause, _LONGEST_PAUSE)


def _end_before(token_ids: Tokens[int], count: int) -> int | None:
    """Return where the last `count` tokens ended before, the latest such place; None: nowhere."""
    tokens = np.asarray(token_ids)  # of an array the same memory, which cannot grow until this is gone
    if len(tokens) <= count:
        return None
    ends = np.flatnonzero(tokens[count - 1 : -1] == tokens[-1]) + count
    for back in range(2, count + 1):
        ends = ends[tokens[ends - back] == tokens[-back]]
    return int(ends[-1]) if len(ends) else None


def accept(guesses: Tokens[int], picked: Tokens[int]) -> tuple[int, ...]:
    """Return the tokens that the model itself would have chosen one by one, at least one.

    picked: its choice before the first guess and after each of them, one more than guesses.
    """
    tokens = [picked[0]]
    for guess, following in zip(guesses, picked[1:], strict=True):
        if guess != tokens[-1]:
            break
        tokens.append(following)
    return tuple(tokens)
