"""Deltas → output items, and the events that tell of them.

Stage: 7 SSE.
Owns: where one item ends and the next begins; which calls wait for a server to run them.
Does not know: how an event is framed and numbered (events.py), the events of one item (open_items.py), the response.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

from gptoss_adapter.content import ContentToken, ScoredContent
from gptoss_adapter.mcp_servers.tools import CallResult
from gptoss_adapter.responses.ids import new_container_id
from gptoss_adapter.responses.open_items import (
    Event,
    OpenCall,
    OpenCustomCall,
    OpenItem,
    OpenMessage,
    OpenReasoning,
    OpenServerCall,
)
from gptoss_adapter.responses.server_tools.hosted_open_items import OpenCodeCall, OpenHostedCall, OpenWebSearch
from gptoss_adapter.responses.server_tools.hosted_tools import HostedOffer
from gptoss_adapter.responses.server_tools.mcp_open_items import OpenApprovalRequest, OpenMcpCall, OpenToolList
from gptoss_adapter.responses.server_tools.pages import Pages
from gptoss_adapter.responses.told_again import Telling
from gptoss_adapter.responses.tools import Offer
from gptoss_adapter.schemas.custom_tools import ResponseCustomTool
from gptoss_adapter.schemas.mcp_items import McpApprovalRequestItem
from gptoss_adapter.schemas.response_answers import OutputItem
from gptoss_adapter.schemas.response_items import ItemStatus
from gptoss_backend.harmony.builtin_tools import PYTHON, recipients
from gptoss_backend.harmony.deltas import ContentDelta, Delta, ReasoningDelta, ToolCallDelta


class Output:
    """The output items of one answer, as they grow."""

    def __init__(self, telling: Telling, pages: Pages, *, tells_summary: bool) -> None:
        """telling: what of the items events tell. pages: those that the conversation has come to.

        tells_summary: items of reasoning have a `summary`, too, which says the same.
        """
        self._items: list[OutputItem] = []
        self._waiting: dict[int, OpenServerCall] = {}  # by their places among the items
        self._offered: Mapping[str, Offer] = {}
        self._hosted: Mapping[str, HostedOffer] = {}
        self._telling = telling
        self._pages = pages
        self._container_id = new_container_id()
        self._tells_summary = tells_summary
        self._open: OpenItem | None = None

    @property
    def items(self) -> list[OutputItem]:
        """Those that have been written, with all that is kept of them; a call that still waits is given up."""
        given_up = {at: call.given_up() for at, call in self._waiting.items()}
        return [given_up.get(at, item) for at, item in enumerate(self._items)]

    @property
    def waiting(self) -> list[OpenServerCall]:
        """Calls that have been written, and that their servers have not answered."""
        return list(self._waiting.values())

    def offer(self, offered: Iterable[Offer], hosted: Iterable[HostedOffer] = ()) -> None:
        """Take note of the functions, and tools of OpenAI's, that the model may call in the turn that comes."""
        self._offered = {offer.name: offer for offer in offered}
        self._hosted = {name: offer for offer in hosted for name in recipients([offer.builtin.name])}

    def add(self, deltas: Iterable[Delta]) -> list[Event]:
        """Take the next deltas and return the events that tell of them."""
        return [event for delta in deltas for event in self._place(delta)]

    def end(self, *, cut: bool) -> list[Event]:
        """End the last item and return the events that tell of it. cut: the answer ended before the model ended it."""
        return list(self._close(self._open, "incomplete" if cut else "completed")) if self._open else []

    def add_tools(self, tools: OpenToolList) -> list[Event]:
        """Add a server's tools and return the events that tell of them."""
        self._items.append(tools.item("completed"))
        return list(tools.told())

    def add_approved(self, request: McpApprovalRequestItem) -> list[Event]:
        """Add the call that was asked about and return the events that tell of it. It waits then."""
        label, name = request.server_label, request.name
        call = OpenMcpCall(self.next_index, label, name, approval_request_id=request.id)
        return [*self._begin(call), *self._grow(request.arguments), *self._close(call, "completed")]

    def settle(self, call: OpenServerCall, result: CallResult | None) -> list[Event]:
        """Note what came of a call that waits and return the events that tell of it. None: it is not run."""
        del self._waiting[call.output_index]
        events = list(call.settling(result))
        self._items[call.output_index] = call.item("incomplete")
        return events

    @property
    def next_index(self) -> int:
        """The place of the next item."""
        return len(self._items) + (self._open is not None)

    def _place(self, delta: Delta) -> Iterator[Event]:
        match delta:
            case ReasoningDelta():
                yield from self._add_text(delta, goes_on=isinstance(self._open, OpenReasoning))
            case ContentDelta(phase=phase):
                goes_on = isinstance(self._open, OpenMessage) and self._open.phase == phase
                tokens = delta.tokens if isinstance(delta, ScoredContent) else ()
                yield from self._add_text(delta, tokens, goes_on=goes_on)
            case ToolCallDelta(_, name, arguments, is_builtin):
                if name is not None:
                    yield from self._begin(self._called_builtin(name) if is_builtin else self._called(name))
                yield from self._grow(arguments)

    def _called(self, name: str) -> OpenItem:
        """Return the call's item. The model may call what nobody has offered."""
        offer = self._offered.get(name)
        if offer is not None and offer.server is not None:
            kind = OpenApprovalRequest if offer.needs_approval else OpenMcpCall
            return kind(self.next_index, offer.server.server_label, offer.function.name)
        call = OpenCustomCall if offer is not None and isinstance(offer.function, ResponseCustomTool) else OpenCall
        if offer is None or offer.namespace is None:
            return call(self.next_index, name)
        return call(self.next_index, offer.function.name, offer.namespace.name)

    def _called_builtin(self, recipient: str) -> OpenHostedCall:
        """Return the call's item. The model can call only what was offered."""
        label = self._hosted[recipient].label
        if recipient == PYTHON:
            return OpenCodeCall(self.next_index, label, self._telling, self._container_id)
        return OpenWebSearch(self.next_index, label, recipient, self._telling, self._pages)

    def _text_item(self, delta: ReasoningDelta | ContentDelta) -> OpenItem:
        if isinstance(delta, ContentDelta):
            return OpenMessage(self.next_index, self._pages, delta.phase)
        is_carried = self._telling.carries_reasoning
        return OpenReasoning(self.next_index, is_carried=is_carried, has_summary=self._tells_summary)

    def _add_text(
        self, delta: ReasoningDelta | ContentDelta, tokens: Sequence[ContentToken] = (), *, goes_on: bool
    ) -> Iterator[Event]:
        """goes_on: the text is more of the open item."""
        text = delta.text
        if not goes_on:
            if not text:
                return  # tokens without text are no item
            text = text[delta.num_inserted :]  # items of their own need nothing to keep them apart
            yield from self._begin(self._text_item(delta))
        yield from self._grow(text, tokens)

    def _begin(self, item: OpenItem) -> Iterator[Event]:
        if self._open is not None:
            yield from self._close(self._open, "completed")
        self._open = item
        yield from item.opening()

    def _grow(self, text: str, tokens: Sequence[ContentToken] = ()) -> Iterator[Event]:
        if self._open is not None and (text or tokens):
            yield from self._open.grow(text, tokens)

    def _close(self, item: OpenItem, status: ItemStatus) -> Iterator[Event]:
        yield from item.closing(status)
        if isinstance(item, OpenServerCall) and status == "completed":
            self._waiting[item.output_index] = item
        if item.is_told(status):
            self._items.append(item.item(status))
        self._open = None
