"""Generated token ids → reasoning, content and tool calls, as they stream.

Stage: 6 split channels.
Owns: the state of one answer; where each message's text goes, also of malformed ones; the pieces of a tool call.
Does not know: the OpenAI API, Triton; of the tools it is given more than names and how their calls are written.

Models write malformed Harmony in a few percent of turns, random weights always. Nothing here raises, no text is lost:

- A recipient `functions.f`, or an offered built-in tool, on any channel is a call. A message to another tool, or in the
  name of the user, the system or a tool, is reasoning: nothing that the user was told. Else the channel decides:
  `analysis` is reasoning; `final`, `commentary` (a preamble), an unknown channel or none is content.
- Text where a header should be is content. A header that never reaches `<|message|>` gives its stray text up to the
  place it named, after 64 bytes of it or at the next message.
- `<|start|>` and `<|channel|>` end a message whose `<|end|>` is missing. Other special tokens in a text are dropped.
- Two messages that go to the same place are kept apart by an empty line.
- A call of a function that ends without arguments has the arguments `{}`.
- Of a quoted input the string is told, as far as it is one; else the text as it stands.
- Where no calls are allowed, no tool is known: what would have been arguments is reasoning.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import Final

from gptoss_backend.contract import CallSyntax, Tool
from gptoss_backend.harmony.builtin_tools import PYTHON
from gptoss_backend.harmony.custom_tools import QuotedInput
from gptoss_backend.harmony.header import NAMESPACE, Header, Reading, Section
from gptoss_backend.harmony.vocabulary import (
    CALL,
    CHANNEL,
    CONSTRAIN,
    ENDS,
    FIRST_SPECIAL,
    MESSAGE,
    START,
    TextDecoder,
    token_bytes,
)


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    """More of the model's reasoning."""

    text: str
    num_inserted: int = field(default=0, kw_only=True, compare=False)
    """Its first characters that the model has not written: what keeps two messages apart."""


@dataclass(frozen=True, slots=True)
class ContentDelta:
    """More of what the user is told."""

    text: str
    num_inserted: int = field(default=0, kw_only=True, compare=False)
    """As of reasoning."""


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """More of a call to a tool, be it the request's or built in."""

    index: int
    """Calls of one answer count from 0."""
    name: str | None
    """On the first delta of an index only; of a built-in tool the recipient."""
    arguments: str
    """JSON text as the model writes it, of a custom tool its input, for `python` the code: whole only once the call has
    ended."""
    is_builtin: bool = False
    """On the first delta of an index: whether the name is a built-in tool's."""
    syntax: CallSyntax = field(default=CallSyntax.JSON, kw_only=True)
    """The same on all deltas of an index."""


Delta = ReasoningDelta | ContentDelta | ToolCallDelta


class _Place(Enum):
    REASONING = "reasoning"
    CONTENT = "content"
    CALL = "call"


@dataclass(frozen=True, slots=True)
class _Route:
    """Where a message's text goes."""

    place: _Place
    tool: str | None = None
    """Of a call, as is what follows."""
    syntax: CallSyntax = CallSyntax.JSON
    is_builtin: bool = False
    refused: str | None = None
    """Whom a call is meant for that may not come out."""


# recipients that are no tools
_PEOPLE: Final = frozenset({"user", "assistant", "all"})
_BETWEEN_MESSAGES: Final = "\n\n"
_NO_ARGUMENTS: Final = "{}"


class ChannelSplitter:
    """Splits one answer. It begins where the prompt ended: after `<|start|>assistant`."""

    def __init__(
        self, tools: Iterable[Tool] = (), builtins: Collection[str] = (), *, allows_calls: bool = True
    ) -> None:
        """tools: those that may be called; these are recognised also where `functions.` is missing.

        builtins: the same, as recipients, of built-in tools. allows_calls: False where a call must not come out,
        whatever the model writes.
        """
        self._syntaxes = {tool.name: tool.syntax for tool in tools}
        self._builtins = frozenset(builtins)
        self._allows_calls = allows_calls
        self._text = _MessageText()
        self._route = _Route(_Place.CONTENT)
        self._header: Header | None = Header()  # None: inside a message's text
        self._message_tokens = 0
        self._reasoning_tokens = 0  # of ended messages
        self._has_cut_call = False
        self._refused_call: str | None = None

    @property
    def is_in_text(self) -> bool:
        """Whether a message's text is being read, rather than a header."""
        return self._header is None

    @property
    def reasoning_tokens(self) -> int:
        """Tokens spent on reasoning so far, the headers and ends of its messages included."""
        is_reasoning = self._header is None and self._route.place is _Place.REASONING
        return self._reasoning_tokens + (self._message_tokens if is_reasoning else 0)

    @property
    def num_tool_calls(self) -> int:
        """Calls begun so far."""
        return self._text.num_calls

    @property
    def has_cut_call(self) -> bool:
        """Whether the answer broke off inside a call, whose arguments may therefore be half. After `finish`."""
        return self._has_cut_call

    @property
    def refused_call(self) -> str | None:
        """The tool that the message that ended last called, where that is none that may be called; None: no such call.

        As the model names it, `functions.` included.
        """
        return self._refused_call

    def push(self, token_ids: Sequence[int]) -> list[Delta]:
        """Take the next tokens, stop tokens included, and return what is new. Joined, any chunking gives the same."""
        for token in token_ids:
            if token >= FIRST_SPECIAL:
                self._take_special(token)
            else:
                self._message_tokens += 1
                self._take_text(token_bytes(token))
        return self._text.take_deltas()

    def finish(self) -> list[Delta]:
        """Return what was held back. Call once, when no token follows."""
        self._end_message(ended=False)
        self._has_cut_call = self._header is None and self._route.place is _Place.CALL
        return self._text.take_deltas()

    # --- tokens -----------------------------------------------------------------------------------------------------

    def _take_text(self, raw: bytes) -> None:
        if self._header is None:
            self._text.add(raw)
            return
        self._header.add(raw)
        if self._header.is_overrun():
            self._abandon_header(self._header)

    def _take_special(self, token: int) -> None:
        if token == START or (token == CHANNEL and (self._header is None or self._header.is_broken())):
            self._end_message(ended=False)
            self._header = Header(Section.ROLE if token == START else Section.CHANNEL)
        self._message_tokens += 1
        if token in ENDS:
            route = self._end_message(ended=True)
            self._refused_call = route.refused if token == CALL else None
            self._header = Header()
        elif self._header is not None:
            self._take_header_marker(self._header, token)

    def _take_header_marker(self, header: Header, token: int) -> None:
        if token == MESSAGE:
            self._begin_text(self._find_route(header.close()))
        elif token == CHANNEL:
            header.open(Section.CHANNEL)
        elif token == CONSTRAIN:
            header.open(Section.TYPE)

    # --- messages ---------------------------------------------------------------------------------------------------

    def _begin_text(self, route: _Route) -> None:
        self._header = None
        self._route = route
        self._text.begin(route)

    def _abandon_header(self, header: Header) -> _Route:
        """Give up waiting for `<|message|>`: show the header's stray text, if any, where the header says."""
        reading = header.abandon()
        route = self._find_route(reading)
        if reading.stray:
            self._begin_text(route)
            self._text.add(reading.stray)
        return route

    def _end_message(self, *, ended: bool) -> _Route:
        """Close the message now open, whether its text or only its header has come, and return where it went.

        ended: an end token came; else the message is cut, and a call in it may lack arguments.
        """
        route = self._route if self._header is None else self._abandon_header(self._header)
        if self._header is not None and ended and route.tool:
            self._begin_text(route)  # a call without arguments may come without <|message|>
        if self._header is None:
            self._text.end(ended=ended)
        if route.place is _Place.REASONING:
            self._reasoning_tokens += self._message_tokens
        self._message_tokens = 0
        return route

    def _find_route(self, reading: Reading) -> _Route:
        if reading.is_foreign:
            return _Route(_Place.REASONING)
        for recipient in reversed(reading.recipients if self._allows_calls else ()):
            if recipient in self._builtins:
                syntax = CallSyntax.PLAIN if recipient == PYTHON else CallSyntax.JSON
                return _Route(_Place.CALL, recipient, syntax, is_builtin=True)
            if tool := self._find_tool(recipient):
                return _Route(_Place.CALL, tool, self._syntaxes.get(tool, CallSyntax.JSON))
        if refused := next((name for name in reversed(reading.recipients) if name not in _PEOPLE), None):
            return _Route(_Place.REASONING, refused=refused)
        return _Route(_Place.REASONING if reading.channel == "analysis" else _Place.CONTENT)

    def _find_tool(self, recipient: str) -> str | None:
        name = recipient.removeprefix(NAMESPACE)
        if name in self._syntaxes:
            return name
        if recipient in self._syntaxes:
            return recipient
        return name if name != recipient else None


class _MessageText:
    """Turns messages' bytes into deltas."""

    def __init__(self) -> None:
        self.num_calls = 0
        self._route = _Route(_Place.CONTENT)
        self._has_text = False  # the message now open has shown some
        self._shown: set[_Place] = set()  # where an earlier message has shown some
        self._undecoded = bytearray()
        self._decoder = TextDecoder()
        self._quoted: QuotedInput | None = None
        """Of the call now open, where its text is one."""
        self._deltas: list[Delta] = []

    def begin(self, route: _Route) -> None:
        self._route = route
        self._has_text = False
        self._quoted = QuotedInput() if route.syntax is CallSyntax.QUOTED else None
        if route.place is _Place.CALL:
            self._append(ToolCallDelta(self.num_calls, route.tool, "", route.is_builtin, syntax=route.syntax))
            self.num_calls += 1

    def add(self, raw: bytes) -> None:
        self._undecoded += raw

    def end(self, *, ended: bool) -> None:
        self._decode()
        self._show(self._decoder.finish())
        is_json_call = self._route.place is _Place.CALL and self._route.syntax is CallSyntax.JSON
        if ended and is_json_call and not self._has_text:
            self._show(_NO_ARGUMENTS)
        if self._has_text:
            self._shown.add(self._route.place)

    def take_deltas(self) -> list[Delta]:
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
        if place is _Place.CALL:
            self._append(ToolCallDelta(self.num_calls - 1, None, text, syntax=self._route.syntax))
        else:
            apart = _BETWEEN_MESSAGES if place in self._shown and not self._has_text else ""
            kind = ReasoningDelta if place is _Place.REASONING else ContentDelta
            self._append(kind(apart + text, num_inserted=len(apart)))
        self._has_text = True

    def _append(self, delta: Delta) -> None:
        joined = _join(self._deltas[-1], delta) if self._deltas else None
        if joined is None:
            self._deltas.append(delta)
        else:
            self._deltas[-1] = joined


def _join(first: Delta, second: Delta) -> Delta | None:
    """Return one delta for two of a kind, None for two that differ."""
    match first, second:
        case ReasoningDelta(text, num_inserted=count), ReasoningDelta(more):
            return ReasoningDelta(text + more, num_inserted=count)
        case ContentDelta(text, num_inserted=count), ContentDelta(more):
            return ContentDelta(text + more, num_inserted=count)
        case ToolCallDelta(index, name, text, is_builtin), ToolCallDelta(same, None, more) if index == same:
            return ToolCallDelta(index, name, text + more, is_builtin, syntax=first.syntax)
    return None
