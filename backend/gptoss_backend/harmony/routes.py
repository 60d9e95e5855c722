"""Where the text of a message goes, by its header.

Stage: 6 split channels.
Owns: what of an answer is a call, reasoning or content.
Does not know: how a header is read (header.py), what becomes of a text (message_text.py); of the tools it is given more
than names and how their calls are written.

- A recipient `functions.f`, or an offered built-in tool, on any channel is a call. A message to another tool, or in the
  name of the user, the system or a tool, is reasoning: nothing that the user was told. Else the channel decides:
  `analysis` is reasoning; `commentary` is content that is said on the way; `final`, an unknown channel or none is
  content, the answer.
- Where no calls are allowed, no tool is known: what would have been arguments is reasoning.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from enum import Enum
from typing import Final

from gptoss_backend.contract import CallSyntax, Phase, Tool
from gptoss_backend.harmony.builtin_tools import PYTHON
from gptoss_backend.harmony.header import NAMESPACE, Reading

# recipients that are no tools
_PEOPLE: Final = frozenset({"user", "assistant", "all"})


class Place(Enum):
    """What a message's text is to the client."""

    REASONING = "reasoning"
    CONTENT = "content"
    CALL = "call"


@dataclass(frozen=True, slots=True)
class Route:
    """Where a message's text goes."""

    place: Place
    tool: str | None = None
    """Of a call, as is what follows."""
    syntax: CallSyntax = CallSyntax.JSON
    is_builtin: bool = False
    refused: str | None = None
    """Whom a call is meant for that may not come out."""
    phase: Phase = "final_answer"
    """Of content."""


class Routes:
    """The routes of one answer's messages."""

    def __init__(self, tools: Iterable[Tool], builtins: Collection[str], *, allows_calls: bool) -> None:
        """As ChannelSplitter is given them."""
        self._syntaxes = {tool.name: tool.syntax for tool in tools}
        self._builtins = frozenset(builtins)
        self._allows_calls = allows_calls

    def find(self, reading: Reading) -> Route:
        """Return where the message under a header goes."""
        if reading.is_foreign:
            return Route(Place.REASONING)
        for recipient in reversed(reading.recipients if self._allows_calls else ()):
            if recipient in self._builtins:
                syntax = CallSyntax.PLAIN if recipient == PYTHON else CallSyntax.JSON
                return Route(Place.CALL, recipient, syntax, is_builtin=True)
            if tool := self._find_tool(recipient):
                return Route(Place.CALL, tool, self._syntaxes.get(tool, CallSyntax.JSON))
        if refused := next((name for name in reversed(reading.recipients) if name not in _PEOPLE), None):
            return Route(Place.REASONING, refused=refused)
        if reading.channel == "analysis":
            return Route(Place.REASONING)
        return Route(Place.CONTENT, phase="commentary" if reading.channel == "commentary" else "final_answer")

    def _find_tool(self, recipient: str) -> str | None:
        name = recipient.removeprefix(NAMESPACE)
        if name in self._syntaxes:
            return name
        if recipient in self._syntaxes:
            return recipient
        return name if name != recipient else None
