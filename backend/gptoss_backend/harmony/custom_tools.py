"""Custom tools, which take a text, for a model that was trained on functions, which take JSON.

Stage: 3 prompt and 6 split channels.
Owns: how the model is told of a custom tool; how it writes the input, and how that is read as it comes.
Does not know: messages, tokens, how grammars are made (structure/).

A tool that takes any text is a function of one string, `input`, which is what the models know. The grammar leaves one
way to write each text: so the input is enough to show the model again what it wrote. A tool whose text has a form takes
it as it is, for no grammar of a text can be held within a JSON string.
"""

from __future__ import annotations

import json
import re
from enum import Enum
from typing import Any, Final

from gptoss_backend.contract import CallSyntax, CustomTool, TextForm, TextFormKind, ToolCall

OPENING: Final = '{"input":"'
"""Before a quoted input."""
CLOSING: Final = '"}'
"""Behind it."""
QUOTED_CHARACTER: Final = r'[^"\\\x00-\x1F]|\\["\\bfnrt]|\\u00(?:0[0-7bef]|1[0-9a-f])'
"""A regular expression: how each character of a quoted input is written, in one way, which is `json.dumps`'s."""

_QUOTED: Final = re.compile(f"(?:{QUOTED_CHARACTER})*")
_BEGUN_ESCAPE: Final = re.compile(r"\\(?:u(?:0(?:0[01]?)?)?)?")
_FOLLOWING: Final = {
    TextFormKind.REGEX: "matches this regular expression",
    TextFormKind.CHOICE: "is one of these texts",
    TextFormKind.GRAMMAR: "follows this Lark grammar",
}


def told_description(tool: CustomTool) -> str:
    """Return what the model is told of the tool: of its input's form, too."""
    return tool.description if tool.form is None else f"{tool.description}\n\n{_told_form(tool.form)}".lstrip()


def told_parameters(tool: CustomTool) -> dict[str, Any]:
    """Return the schema of what the model is told that the tool takes."""
    text = {"type": "string"}
    if tool.syntax is CallSyntax.PLAIN:
        return text
    return {"type": "object", "properties": {"input": text}, "required": ["input"]}


def written(call: ToolCall) -> str:
    """Return the text of a call's message, as the model wrote it."""
    if call.syntax is not CallSyntax.QUOTED:
        return call.arguments
    return f"{OPENING}{json.dumps(call.arguments, ensure_ascii=False)[1:-1]}{CLOSING}"


def _told_form(form: TextForm) -> str:
    return "\n".join([f"The input is plain text, not JSON, that {_FOLLOWING[form.kind]}:", *form.texts])


class _Part(Enum):
    """Of a quoted input, what comes next."""

    OPENING = "opening"
    CHARACTERS = "characters"
    CLOSING = "closing"
    STRAY = "stray"
    """It was not quoted as it has to be: what comes is told as it stands."""


class QuotedInput:
    """Reads a quoted input as it is written."""

    def __init__(self) -> None:
        self._part = _Part.OPENING
        self._held = ""

    def push(self, text: str) -> str:
        """Take more of the call's text and return what it adds to the input: never half an escape."""
        self._held += text
        if self._part is _Part.OPENING:
            self._open()
        told = self._read_characters() if self._part is _Part.CHARACTERS else ""
        if self._part is _Part.STRAY:
            told, self._held = told + self._held, ""
        return told

    def _open(self) -> None:
        if self._held.startswith(OPENING):
            self._held = self._held.removeprefix(OPENING)
            self._part = _Part.CHARACTERS
        elif not OPENING.startswith(self._held):
            self._part = _Part.STRAY

    def _read_characters(self) -> str:
        quoted = _QUOTED.match(self._held)
        assert quoted is not None  # noqa: S101 (it may be empty)
        self._held = self._held[quoted.end() :]
        if self._held.startswith(CLOSING[0]):
            self._part = _Part.CLOSING
        elif self._held and not _BEGUN_ESCAPE.fullmatch(self._held):
            self._part = _Part.STRAY
        told: str = json.loads(f'"{quoted[0]}"')
        return told
