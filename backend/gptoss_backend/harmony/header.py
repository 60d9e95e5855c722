"""Reads a message's header: what stands between `<|start|>` and `<|message|>`, well-formed or not.

Stage: 3 prompt and 6 split channels.
Owns: the functions' namespace, the grammar of headers, and the line between a header's words and text that strayed
into one.
Does not know: token ids, where the text goes (routes.py).

A header is up to three sections, each opened by a special token: the role, `<|channel|>`, `<|constrain|>`. Models write
`assistant<|channel|>commentary to=functions.f <|constrain|>json`, with the recipient in either of the first two, and
`code` in place of the last section where a call's text is not JSON.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from typing import Final

NAMESPACE: Final = "functions."
"""What comes before a function's name in a recipient or an author."""


class Section(Enum):
    """A part of a header, by what opens it: `<|start|>` or nothing, `<|channel|>`, `<|constrain|>`."""

    ROLE = "role"
    CHANNEL = "channel"
    TYPE = "type"


@dataclass(frozen=True, slots=True)
class Reading:
    """What a header says."""

    channel: str | None
    """analysis, commentary or final, the last that is named; None where none is."""
    recipients: tuple[str, ...]
    """As written, in their order: a doubled recipient is common."""
    is_foreign: bool
    """The message is said to be another's than the assistant's: the user's, the system's, a tool's."""
    stray: bytes
    """Text of an abandoned header that is none of its words: the start of a body whose `<|message|>` is missing."""


MAX_STRAY_BYTES: Final = 64
"""Stray text is held back this far in the hope of a `<|message|>`; beyond, it is taken for the body."""
MAX_HEADER_BYTES: Final = 512
"""The longest header held back: two recipients with names of 128 characters fit."""
_MAX_LEADING_SPACE: Final = 8

_LETTER: Final = r"(?:(?!to=)[a-zA-Z0-9_.-])"  # a name ends before a second recipient glued to it
_NAME: Final = rf"{_LETTER}{{1,138}}"
_FUNCTION: Final = rf"functions\.{_LETTER}{{1,128}}"


def _compile(pattern: str) -> re.Pattern[bytes]:
    return re.compile(pattern.encode())


def _words(opening: str) -> re.Pattern[bytes]:
    """Match the longest run of a section's own words from its beginning."""
    recipient = rf"(?:\s*to=\s?(?:{_NAME})?|\s+{_FUNCTION})"
    behind = rf"(?:{recipient}+\s*code(?!\w)|{recipient}*(?:\s*json(?!\w))?)"
    return _compile(rf"\s*(?:(?:{opening})(?!\w))?{behind}\s*")


_WORDS: Final = {
    Section.ROLE: _words(rf"assistant|user|system|developer|tool|{_FUNCTION}"),
    Section.CHANNEL: _words("analysis|commentary|final"),
    Section.TYPE: _words("json|code"),
}
_CHANNEL: Final = _compile(r"\s*(analysis|commentary|final)(?!\w)")
_RECIPIENT: Final = _compile(rf"to=\s?({_NAME})")
_CHANNEL_RECIPIENT: Final = _compile(rf"to=\s?({_NAME})|(?<!\S)({_FUNCTION})")  # some leave out `to=`
_FOREIGN: Final = _compile(rf"\s*(?:(?:user|system|developer|tool|{_FUNCTION})(?!\w)|{_NAME}\s+to=assistant(?!\w))")
_ASSISTANT: Final = b"assistant"
_CUT_WORDS: Final = (_ASSISTANT, b"analysis", b"commentary", b"final", b"to=functions.", b"json")

# `to=functions.f` is as good as a special token: no answer begins with it
_UNMISTAKABLE: Final = _compile(rf"\s*(?:assistant)?\s*to={_FUNCTION}")
_ONE_RECIPIENT: Final = _compile(rf"to=(?:{_NAME})?\s?")


class Header:
    """Collects a header's bytes and says what they mean."""

    def __init__(self, section: Section | None = None) -> None:
        """section: what a special token has opened; None after a message's end, where plain text may come instead."""
        self._marked = section is not None
        self._sections: list[tuple[Section, bytearray]] = [(section or Section.ROLE, bytearray())]

    def open(self, section: Section) -> None:
        """A special token opens the next section."""
        self._marked = True
        self._sections.append((section, bytearray()))

    def add(self, raw: bytes) -> None:
        """Text of the section now open."""
        self._sections[-1][1].extend(raw)
        self._marked = self._marked or _UNMISTAKABLE.match(self._all_bytes()) is not None

    def is_overrun(self) -> bool:
        """Whether this has become so unlike a header that its text must be held back no longer."""
        if not self._marked:
            return not _may_become_header(self._all_bytes())
        return self._is_too_long() or len(self._stray()) > MAX_STRAY_BYTES

    def is_broken(self) -> bool:
        """Whether text that is no header's follows a `<|channel|>`: another `<|channel|>` begins a new header."""
        return any(section is Section.CHANNEL for section, _ in self._sections) and bool(self._stray())

    def close(self) -> Reading:
        """`<|message|>` came: all text was the header's, also what means nothing."""
        return self._read([(section, bytes(text)) for section, text in self._sections], stray=b"")

    def abandon(self) -> Reading:
        """No `<|message|>` came: what is not the header's words is text."""
        if not self._marked or self._is_too_long():
            return Reading(channel=None, recipients=(), is_foreign=False, stray=self._all_bytes())
        words = [(section, bytes(text[: _num_word_bytes(section, text)])) for section, text in self._sections]
        return self._read(words, self._stray())

    def _read(self, sections: list[tuple[Section, bytes]], stray: bytes) -> Reading:
        channel: str | None = None
        recipients: list[str] = []
        is_foreign = False
        for section, text in sections:
            is_foreign = is_foreign or (section is Section.ROLE and _is_foreign(text))
            if section is Section.CHANNEL and (named := _CHANNEL.match(text)):
                channel = named[1].decode()
            pattern = _CHANNEL_RECIPIENT if section is Section.CHANNEL else _RECIPIENT
            recipients += [found[found.lastindex or 0].decode() for found in pattern.finditer(text)]
        return Reading(channel, tuple(recipients), is_foreign, stray)

    def _stray(self) -> bytes:
        """Return what is not the header's words, unless it is the beginning of one."""
        stray = b"".join(bytes(text[_num_word_bytes(section, text) :]) for section, text in self._sections)
        return b"" if any(word.startswith(stray.strip()) for word in _CUT_WORDS) else stray

    def _is_too_long(self) -> bool:
        return sum(len(text) for _, text in self._sections) > MAX_HEADER_BYTES

    def _all_bytes(self) -> bytes:
        return b"".join(bytes(text) for _, text in self._sections)


def _is_foreign(role: bytes) -> bool:
    return _FOREIGN.match(role) is not None and not role.lstrip().startswith(_ASSISTANT)


def _num_word_bytes(section: Section, text: bytearray) -> int:
    words = _WORDS[section].match(text)
    return words.end() if words else 0


def _may_become_header(text: bytes) -> bool:
    """Whether text may still grow into `assistant to=NAME`; else it is the text of an answer without a header."""
    rest = text.lstrip()
    if len(text) - len(rest) > _MAX_LEADING_SPACE:
        return False
    if _ASSISTANT.startswith(rest):
        return True
    rest = rest.removeprefix(_ASSISTANT).lstrip()
    return b"to=".startswith(rest) or _ONE_RECIPIENT.fullmatch(rest) is not None
