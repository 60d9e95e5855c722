"""Where a text ends because a string occurs in it, however the text is cut into pieces.

Stage: 6, behind detokenizing.
Owns: matching, and what is held back as long as it may be the beginning of a match.
Does not know: whose text it is, tokens, channels.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import Final

_NUM_KEPT: Final = 256
"""Strings whose tables are kept: all copies of an answer look for the same ones."""


class StopStrings:
    """Looks for several strings at once. The match that is complete first ends the text, of two such the longer.

    Knuth, Morris and Pratt (1977), character by character: the work does not depend on the strings' lengths, and the
    result not on where the pieces are cut.
    """

    def __init__(self, strings: Sequence[str], *, is_shown: bool = False) -> None:
        """strings: none empty; without any, text passes as it is. is_shown: the text ends with the one found."""
        self._matchers = [_Matcher(string) for string in strings]
        self._is_shown = is_shown
        self._held = ""
        self.may_end = True
        """False: a string that is complete now does not end the text, nor does it later on."""
        self.matched = False
        """A string was found: no more text is to be pushed."""
        self.found: str | None = None
        """The string."""

    def push(self, text: str) -> str:
        """Return what may go out now: all that cannot belong to a match, and nothing from a match on, or behind it."""
        if not self._matchers:
            return text
        text, num_old = self._held + text, len(self._held)
        for end in range(num_old, len(text)):
            matched = [matcher.string for matcher in self._matchers if matcher.advance(text[end])]
            if matched and self.may_end:
                self.matched = True
                self.found = max(matched, key=len)
                self._held = ""
                return text[: end + 1 - (0 if self._is_shown else len(self.found))]
        shown = len(text) - max(matcher.num_matched for matcher in self._matchers)
        self._held = text[shown:]
        return text[:shown]

    def flush(self) -> str:
        """Return what is held back: the text is interrupted here, and a match does not reach across."""
        held, self._held = self._held, ""
        for matcher in self._matchers:
            matcher.num_matched = 0
        return held


class _Matcher:
    """Follows how much of one string the text read so far ends with."""

    def __init__(self, string: str) -> None:
        self.string = string
        self._shorter = _borders(string)
        self.num_matched = 0

    def advance(self, char: str) -> bool:
        """Read one more character; True where the string is complete."""
        count = self.num_matched
        while count and self.string[count] != char:
            count = self._shorter[count - 1]
        count += self.string[count] == char
        is_complete = count == len(self.string)
        # goes on, where that is no end, with the longest beginning of another match
        self.num_matched = self._shorter[count - 1] if is_complete else count
        return is_complete


@lru_cache(maxsize=_NUM_KEPT)
def _borders(string: str) -> tuple[int, ...]:
    """Return, for each prefix, the length of its longest proper prefix that is its suffix too."""
    borders = [0]
    for char in string[1:]:
        count = borders[-1]
        while count and string[count] != char:
            count = borders[count - 1]
        borders.append(count + (string[count] == char))
    return tuple(borders)
