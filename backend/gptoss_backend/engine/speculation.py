"""Prompt-lookup speculation: guess that what followed the latest tokens before follows them again.

Stages 4 and 5 of a request: schedule, step. Owns: one sequence's drafts, when they are worth a try, what of them
stands. Does not know: batches, caches, other sequences.

The method is prompt lookup decoding (https://github.com/apoorvumang/prompt-lookup-decoding): no second model, only the
text so far. A draft is computed in one step as a short prompt would be, and the model's own choice after each of its
tokens tells how much of it stands. So a greedy answer is the same with or without, as far as the model's arithmetic is
the same for one token and for several side by side: bit for bit in the C++ kernels, up to rounding elsewhere.
"""

from __future__ import annotations

from collections.abc import Sequence as Tokens
from dataclasses import dataclass

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


class PromptLookup:
    """One sequence's drafts."""

    def __init__(self, token_ids: Tokens[int]) -> None:
        """Costs time in proportion to the prompt, some 0.2 µs a token."""
        self._ends: dict[tuple[int, ...], int] = {}  # where each n-gram last ended, but for the one at the very end
        self._num_indexed = _NGRAM - 1  # leading tokens whose n-grams are known
        self._pause = 0  # tokens to let pass before the next draft
        self._next_pause = 1
        self._index(token_ids)

    def draft(self, token_ids: Tokens[int], most: int) -> list[int]:
        """Return what may come after `token_ids`, up to `most` tokens, often none.

        token_ids: the sequence so far, longer than at the last call.
        """
        self._index(token_ids)
        if self._pause:
            self._pause -= 1
            return []
        end = self._ends.get(tuple(token_ids[-_NGRAM:]))
        return [] if end is None else list(token_ids[end : end + most])

    def judge(self, num_accepted: int) -> None:
        """Note how many tokens of a draft stood. After drafts in vain the next one waits longer and longer."""
        if num_accepted:
            self._pause, self._next_pause = 0, 1
        else:
            self._pause, self._next_pause = self._next_pause, min(2 * self._next_pause, _LONGEST_PAUSE)

    def _index(self, token_ids: Tokens[int]) -> None:
        for end in range(self._num_indexed + 1, len(token_ids)):
            self._ends[tuple(token_ids[end - _NGRAM : end])] = end
        self._num_indexed = max(self._num_indexed, len(token_ids) - 1)


def accept(drafted: Tokens[int], picked: Tokens[int]) -> tuple[int, ...]:
    """Return the tokens that the model itself would have chosen one by one, at least one.

    picked: its choice before the first drafted token and after each of them, one more than drafted.
    """
    tokens = [picked[0]]
    for guess, following in zip(drafted, picked[1:], strict=True):
        if guess != tokens[-1]:
            break
        tokens.append(following)
    return tuple(tokens)
