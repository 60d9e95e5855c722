"""Cuts text that the tokenizer would take quadratic time over.

Stage: 3 prompt, before tokenisation.
Owns: where a long text without a word boundary is cut.
Does not know: messages, Harmony, token ids.

Byte-pair merging costs the square of the length of one pre-token: 200,000 times the letter "a" took 12.5 s here, and
one such request would hold up everybody's prompts. Pre-tokens end at word ends, so only long runs without one matter.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator
from itertools import chain, pairwise
from typing import Final

MAX_RUN_CHARS: Final = 512
"""Longest stretch left whole: 0.1 ms of merging for letters, 1.3 ms for emoji."""

_LONG_RUN: Final = re.compile(rf"(?<!\S)\S{{{MAX_RUN_CHARS + 1},}}|(?<!\s)\s{{{MAX_RUN_CHARS + 1},}}")


def cut_long_runs(text: str) -> Iterator[str]:
    """Yield the parts of text to tokenise one by one; joined they are the text.

    Nearly always that is the whole text. A run of over 512 characters without white space (or of nothing else) is cut
    where the tokenizer breaks anyway, so the ids are the same; only where 512 characters have no such place is the cut
    arbitrary.
    """
    edges = chain([0], (place for place, _ in _cuts(text)), [len(text)])
    return (text[start:end] for start, end in pairwise(edges) if start < end)


def has_unbreakable_run(text: str) -> bool:
    """Say whether over 512 characters of text follow each other without a place where the tokenizer breaks."""
    return any(not natural for _, natural in _cuts(text))


def word_end_before(text: str, limit: int) -> int:
    """Return the last place up to `limit` where the tokenizer breaks behind letters; where none is near, `limit`."""
    near = range(min(limit, len(text) - 1), max(limit - MAX_RUN_CHARS, 0), -1)
    return next((at for at in near if limit < len(text) and _is_word_end(text, at)), limit)


def _cuts(text: str) -> Iterator[tuple[int, bool]]:
    """Yield each place to cut, and whether the tokenizer breaks there anyway."""
    for run in _LONG_RUN.finditer(text):
        start = run.start()
        while run.end() - start > MAX_RUN_CHARS:
            limit = start + MAX_RUN_CHARS
            place = next((at for at in range(limit, start, -1) if _is_word_end(text, at)), None)
            yield (limit, False) if place is None else (place, True)
            start = place or limit


def _is_word_end(text: str, at: int) -> bool:
    """A pre-token that ends in letters goes on only with letters, their marks, or an apostrophe (o200k's pattern)."""
    after = text[at]
    return text[at - 1].isalpha() and not (
        after.isalpha() or after == "'" or unicodedata.category(after).startswith("M")
    )
