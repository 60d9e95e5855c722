"""Messages' bytes → deltas.

Stage: 6 split channels.
Owns: characters that are not whole yet, the pieces of a tool call, what stands between two messages.
Does not know: tokens, headers; where a text goes, which it is told (routes.py).

- Two messages that go to the same place are kept apart by an empty line.
- A call of a function that ends without arguments has the arguments `{}`.
- Of a quoted input the string is told, as far as it is one; else the text as it stands.
"""

from __future__ import annotations

from typing import Final

from gptoss_backend.contract import CallSyntax
from gptoss_backend.harmony.custom_tools import QuotedInput
from gptoss_backend.harmony.deltas import ContentDelta, Delta, ReasoningDelta, ToolCallDelta, joined
from gptoss_backend.harmony.routes import Place, Route
from gptoss_backend.harmony.vocabulary import TextDecoder

_BETWEEN_MESSAGES: Final = "\n\n"
_NO_ARGUMENTS: Final = "{}"


class MessageText:
    """Turns messages' bytes into deltas."""

    def __init__(self) -> None:
        self.num_calls = 0
        """Calls begun so far."""
        self._route = Route(Place.CONTENT)
        self._has_text = False  # the message now open has shown some
        self._shown: set[Place] = set()  # where an earlier message has shown some
        self._undecoded = bytearray()
        self._decoder = TextDecoder()
        self._quoted: QuotedInput | None = None
        """Of the call now open, where its text is one."""
        self._deltas: list[Delta] = []

    def begin(self, route: Route) -> None:
        """A message's text begins, and goes where the route says."""
        self._route = route
        self._has_text = False
        self._quoted = QuotedInput() if route.syntax is CallSyntax.QUOTED else None
        if route.place is Place.CALL:
            self._append(ToolCallDelta(self.num_calls, route.tool, "", route.is_builtin, syntax=route.syntax))
            self.num_calls += 1

    def add(self, raw: bytes) -> None:
        """More of the text."""
        self._undecoded += raw

    def end(self, *, ended: bool) -> None:
        """The text is over. ended: an end token came; else it is cut, and a call may lack its arguments."""
        self._decode()
        self._show(self._decoder.finish())
        is_json_call = self._route.place is Place.CALL and self._route.syntax is CallSyntax.JSON
        if ended and is_json_call and not self._has_text:
            self._show(_NO_ARGUMENTS)
        if self._has_text:
            self._shown.add(self._route.place)

    def take_deltas(self) -> list[Delta]:
        """Return what is new since this was last asked."""
        self._decode()
        deltas, self._deltas = self._deltas, []
        return deltas

    def _decode(self) -> None:
        if self._undecoded:
            self._show(self._decoder.push_bytes(bytes(self._undecoded)))
            self._undecoded.clear()

    def _show(self, text: str) -> None:
        if self._quoted is not None:
            text = self._quoted.push(text)
        if not text:
            return
        place = self._route.place
        if place is Place.CALL:
            self._append(ToolCallDelta(self.num_calls - 1, None, text, syntax=self._route.syntax))
        else:
            apart = _BETWEEN_MESSAGES if place in self._shown and not self._has_text else ""
            if place is Place.REASONING:
                self._append(ReasoningDelta(apart + text, num_inserted=len(apart)))
            else:
                self._append(ContentDelta(apart + text, num_inserted=len(apart), phase=self._route.phase))
        self._has_text = True

    def _append(self, delta: Delta) -> None:
        merged = joined(self._deltas[-1], delta) if self._deltas else None
        if merged is None:
            self._deltas.append(delta)
        else:
            self._deltas[-1] = merged
