"""Generated token ids → reasoning, content and tool calls, as they stream.

Stage: 6 split channels.
Owns: the state of one answer: whether a header or a text is being read, also where markers are missing.
Does not know: the OpenAI API, Triton; which text goes where (routes.py), what becomes of it (message_text.py).

Models write malformed Harmony in a few percent of turns, random weights always. Nothing here raises, no text is lost:

- Text where a header should be is content. A header that never reaches `<|message|>` gives its stray text up to the
  place it named, after 64 bytes of it or at the next message.
- `<|start|>` and `<|channel|>` end a message whose `<|end|>` is missing. Other special tokens in a text are dropped.
- What else routes.py and message_text.py say of such messages.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

from gptoss_backend.contract import Tool
from gptoss_backend.harmony.deltas import Delta
from gptoss_backend.harmony.header import Header, Section
from gptoss_backend.harmony.message_text import MessageText
from gptoss_backend.harmony.routes import Place, Route, Routes
from gptoss_backend.harmony.vocabulary import CALL, CHANNEL, CONSTRAIN, ENDS, FIRST_SPECIAL, MESSAGE, START, token_bytes


class ChannelSplitter:
    """Splits one answer. It begins where the prompt ended: after `<|start|>assistant`."""

    def __init__(
        self, tools: Iterable[Tool] = (), builtins: Collection[str] = (), *, allows_calls: bool = True
    ) -> None:
        """tools: those that may be called; these are recognised also where `functions.` is missing.

        builtins: the same, as recipients, of built-in tools. allows_calls: False where a call must not come out,
        whatever the model writes.
        """
        self._routes = Routes(tools, builtins, allows_calls=allows_calls)
        self._text = MessageText()
        self._route = Route(Place.CONTENT)
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
        is_reasoning = self._header is None and self._route.place is Place.REASONING
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

    def begin_with(self, token_ids: Sequence[int]) -> None:
        """Take what of the answer stands in the prompt, before all else: it is neither told nor counted."""
        self.push(token_ids)
        self._message_tokens = 0

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
        self._has_cut_call = self._header is None and self._route.place is Place.CALL
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
            self._begin_text(self._routes.find(header.close()))
        elif token == CHANNEL:
            header.open(Section.CHANNEL)
        elif token == CONSTRAIN:
            header.open(Section.TYPE)

    # --- messages ---------------------------------------------------------------------------------------------------

    def _begin_text(self, route: Route) -> None:
        self._header = None
        self._route = route
        self._text.begin(route)

    def _abandon_header(self, header: Header) -> Route:
        """Give up waiting for `<|message|>`: show the header's stray text, if any, where the header says."""
        reading = header.abandon()
        route = self._routes.find(reading)
        if reading.stray:
            self._begin_text(route)
            self._text.add(reading.stray)
        return route

    def _end_message(self, *, ended: bool) -> Route:
        """Close the message now open, whether its text or only its header has come, and return where it went.

        ended: an end token came; else the message is cut, and a call in it may lack arguments.
        """
        route = self._route if self._header is None else self._abandon_header(self._header)
        if self._header is not None and ended and route.tool:
            self._begin_text(route)  # a call without arguments may come without <|message|>
        if self._header is None:
            self._text.end(ended=ended)
        if route.place is Place.REASONING:
            self._reasoning_tokens += self._message_tokens
        self._message_tokens = 0
        return route
