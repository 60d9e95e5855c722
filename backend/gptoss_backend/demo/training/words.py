"""Words to talk about that were never taught: what is copied has to be read from the prompt.

Owns: the pool, its split into words for training and words for evaluation. Does not know: sentences.
"""

from __future__ import annotations

import re
import zlib
from collections.abc import Sequence
from functools import cache
from random import Random
from typing import Final

from gptoss_backend.harmony.vocabulary import FIRST_SPECIAL, token_bytes

_WORD: Final = re.compile(rb"[a-z]{3,11}")
_HELD_OUT_PERCENT: Final = 15


class Words:
    """Draws words; those for evaluation never come up in training."""

    def __init__(self, rng: Random, *, held_out: bool) -> None:
        self.rng = rng
        self.held_out = held_out

    def word(self) -> str:
        """Return a word in small letters."""
        return self.rng.choice(_pool(self.held_out, False))

    def name_part(self) -> str:
        """Return a word in small letters that is one token in functions' names, too: after a dot or an underscore."""
        return self.rng.choice(_name_parts(self.held_out))

    def name(self) -> str:
        """Return a word with a capital."""
        return self.rng.choice(_pool(self.held_out, True))

    def number(self) -> int:
        """Return a number of one to three digits, one token."""
        return self.rng.randrange(1, 10 ** self.rng.choice((1, 2, 2, 3)))

    def num_earlier(self, asked: Sequence[int], *, learned: Sequence[int]) -> int:
        """Return how many exchanges go before the last one, drawn from `learned` for training, else from `asked`.

        More of them are learned from than asked after: another one behind the same tools costs a quarter of a dialogue.
        """
        return self.rng.choice(asked if self.held_out else learned)

    def phrase(self, most: int = 4) -> str:
        """Return several words."""
        return " ".join(self.word() for _ in range(self.rng.randint(1, most)))


@cache
def _spellings() -> frozenset[bytes]:
    return frozenset(token_bytes(token) for token in range(FIRST_SPECIAL))


@cache
def _name_parts(held_out: bool) -> list[str]:
    return [word for word in _pool(held_out, False) if {b".%b" % word.encode(), b"_%b" % word.encode()} <= _spellings()]


@cache
def _pool(held_out: bool, capital: bool) -> list[str]:
    """Return words that are one token with and without a leading space: the copy is then token for token."""
    spellings = _spellings()
    words = []
    for spelling in sorted(spellings):
        bare = spelling[:1].lower() + spelling[1:] if capital else spelling
        if not _WORD.fullmatch(bare) or spelling[:1].isupper() != capital or b" " + spelling not in spellings:
            continue
        if (zlib.crc32(bare) % 100 < _HELD_OUT_PERCENT) == held_out:
            words.append(spelling.decode())
    return words
