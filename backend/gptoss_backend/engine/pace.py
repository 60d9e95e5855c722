"""How many tokens of prompts one step computes, so that those who are being answered need not wait long for it.

Stage 4 of a request: schedule. Owns: how long a step may take where others wait for their next tokens.
Does not know: what is computed where, whose tokens they are.

A GPU computes a chunk in some hundredths of a second. On two cores 512 tokens of 20B take some ten seconds, in which
every answer under way would stand still; in pieces of a second they take no longer in all.
"""

from __future__ import annotations

from typing import Final

_MOST_S: Final = 1.0
_LEAST_TOKENS: Final = 16
"""Fewer take nearly as long: most of a step is reading weights then."""


class Pace:
    """The chunk of one step, by how long those before it took."""

    def __init__(self, chunk_tokens: int) -> None:
        """chunk_tokens: what a step computes of prompts at most."""
        self._chunk_tokens = chunk_tokens
        self._tokens_in_time = chunk_tokens

    def note(self, num_tokens: int, took_s: float) -> None:
        """Note how long a step took that computed so many tokens of prompts."""
        if num_tokens >= _LEAST_TOKENS and took_s > 0:
            self._tokens_in_time = max(_LEAST_TOKENS, int(num_tokens * _MOST_S / took_s))

    def chunk(self, *, is_waited_for: bool) -> int:
        """Return how many tokens of prompts the next step may compute. is_waited_for: answers are under way beside."""
        return min(self._chunk_tokens, self._tokens_in_time) if is_waited_for else self._chunk_tokens
