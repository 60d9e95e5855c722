"""Deltas → output items, and the events that tell of them.

Stage: 7 SSE.
Owns: where one item ends and the next begins; the order and the fields of the events of an item.
Does not know: how an event is framed and numbered (events.py), the response around the items.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar, TypeAlias

from pydantic import JsonValue

from gptoss_adapter.chunks import new_call_id
from gptoss_adapter.content import ContentToken, ScoredContent
from gptoss_adapter.logprobs import chat_logprobs
from gptoss_adapter.responses.ids import new_item_id
from gptoss_adapter.responses.tools import Offer
from gptoss_adapter.schemas.carried_reasoning import carried
from gptoss_adapter.schemas.chat import RefusalPart
from gptoss_adapter.schemas.response_answers import OutputItem
from gptoss_adapter.schemas.response_items import (
    FunctionCallItem,
    Item,
    ItemStatus,
    MessageItem,
    MessagePart,
    ReasoningItem,
    ReasoningText,
    SummaryText,
)
from gptoss_backend.harmony.channels import ContentDelta, Delta, ReasoningDelta, ToolCallDelta

Event: TypeAlias = tuple[str, dict[str, Any]]
"""Its type and its fields, without the sequence number."""


class Output:
    """The output items of one answer, as they grow."""

    def __init__(self, offered: Mapping[str, Offer], *, carries_reasoning: bool, tells_summary: bool) -> None:
        """offered: the functions, by the names that the model knows them by.

        carries_reasoning: items of reasoning have `encrypted_content`.
        tells_summary: they have a `summary`, too, which says the same.
        """
        self.items: list[OutputItem] = []
        """Those that have ended."""
        self._offered = offered
        self._carries_reasoning = carries_reasoning
        self._tells_summary = tells_summary
        self._open: _OpenItem | None = None

    def add(self, deltas: Iterable[Delta]) -> list[Event]:
        """Take the next deltas and return the events that tell of them."""
        return [event for delta in deltas for event in self._place(delta)]

    def end(self, *, cut: bool) -> list[Event]:
        """End the last item and return the events that tell of it. cut: the answer ended before the model ended it."""
        return list(self._close(self._open, "incomplete" if cut else "completed")) if self._open else []

    @property
    def _next_index(self) -> int:
        return len(self.items) + (self._open is not None)

    def _place(self, delta: Delta) -> Iterator[Event]:
        match delta:
            case ReasoningDelta():
                yield from self._add_text(_OpenReasoning, delta)
            case ContentDelta():
                tokens = delta.tokens if isinstance(delta, ScoredContent) else ()
                yield from self._add_text(_OpenMessage, delta, tokens)
            case ToolCallDelta(_, name, arguments):
                if name is not None:
                    yield from self._begin(self._called(name))
                yield from self._grow(arguments)

    def _called(self, name: str) -> _OpenCall:
        """Return the call's item. The model may call what nobody has offered."""
        offer = self._offered.get(name)
        if offer is None or offer.namespace is None:
            return _OpenCall(self._next_index, name)
        return _OpenCall(self._next_index, offer.function.name, offer.namespace.name)

    def _text_item(self, kind: type[_OpenReasoning] | type[_OpenMessage]) -> _OpenItem:
        if kind is _OpenReasoning:
            return _OpenReasoning(self._next_index, is_carried=self._carries_reasoning, has_summary=self._tells_summary)
        return _OpenMessage(self._next_index)

    def _add_text(
        self,
        kind: type[_OpenReasoning] | type[_OpenMessage],
        delta: ReasoningDelta | ContentDelta,
        tokens: Sequence[ContentToken] = (),
    ) -> Iterator[Event]:
        text = delta.text
        if not isinstance(self._open, kind):
            if not text:
                return  # tokens without text are no item
            text = text[delta.num_inserted :]  # items of their own need nothing to keep them apart
            yield from self._begin(self._text_item(kind))
        yield from self._grow(text, tokens)

    def _begin(self, item: _OpenItem) -> Iterator[Event]:
        if self._open is not None:
            yield from self._close(self._open, "completed")
        self._open = item
        yield from item.opening()

    def _grow(self, text: str, tokens: Sequence[ContentToken] = ()) -> Iterator[Event]:
        if self._open is not None and (text or tokens):
            yield from self._open.grow(text, tokens)

    def _close(self, item: _OpenItem, status: ItemStatus) -> Iterator[Event]:
        yield from item.closing(status)
        self.items.append(item.item(status))
        self._open = None


# --- items that are being written -----------------------------------------------------------------------------------


class _OpenItem(ABC):
    """An item that is being written."""

    kind: ClassVar[type[Item]]
    text_event: ClassVar[str]
    """Its deltas' type, without `.delta`."""

    def __init__(self, output_index: int) -> None:
        self.id = new_item_id(self.kind)
        self.output_index = output_index
        self._pieces: list[str] = []

    @property
    def text(self) -> str:
        return "".join(self._pieces)

    def grow(self, text: str, tokens: Sequence[ContentToken]) -> Iterator[Event]:
        self._pieces.append(text)
        yield f"{self.text_event}.delta", {**self._place(), "delta": text, **self._told_of(tokens)}

    @abstractmethod
    def item(self, status: ItemStatus) -> OutputItem:
        """Return the item as it is now; one in progress has no content yet."""

    def opening(self) -> Iterator[Event]:
        yield "response.output_item.added", self._whole("in_progress")

    def closing(self, status: ItemStatus) -> Iterator[Event]:
        yield "response.output_item.done", self._whole(status)

    def _whole(self, status: ItemStatus) -> dict[str, Any]:
        item = self.item(status).model_dump(mode="json", exclude_unset=True)
        return {"output_index": self.output_index, "item": item}

    def _place(self) -> dict[str, Any]:
        return {"item_id": self.id, "output_index": self.output_index}

    def _told_of(self, tokens: Sequence[ContentToken]) -> dict[str, Any]:
        """Return the fields of a delta that tell of its tokens."""
        return {}


class _OpenText(_OpenItem):
    """An item of one part, which holds its text."""

    @abstractmethod
    def _part(self) -> MessagePart | ReasoningText: ...

    def opening(self) -> Iterator[Event]:
        yield from super().opening()
        yield "response.content_part.added", self._part_fields()

    def closing(self, status: ItemStatus) -> Iterator[Event]:
        yield f"{self.text_event}.done", {**self._place(), "text": self.text, **self._told_of_all()}
        yield "response.content_part.done", self._part_fields()
        yield from self._closing_more()
        yield from super().closing(status)

    def _closing_more(self) -> Iterator[Event]:
        """Yield what comes between the part's end and the item's."""
        yield from ()

    def _part_fields(self) -> dict[str, Any]:
        return {**self._place(), "part": self._part().model_dump(mode="json", exclude_unset=True)}

    def _place(self) -> dict[str, Any]:
        return {**super()._place(), "content_index": 0}

    def _told_of_all(self) -> dict[str, Any]:
        """Return the fields of the text's end that tell of its tokens."""
        return {}


class _OpenReasoning(_OpenText):
    kind = ReasoningItem
    text_event = "response.reasoning_text"

    def __init__(self, output_index: int, *, is_carried: bool, has_summary: bool) -> None:
        super().__init__(output_index)
        self._is_carried = is_carried
        self._has_summary = has_summary

    def opening(self) -> Iterator[Event]:
        yield from super().opening()
        if self._has_summary:
            yield "response.reasoning_summary_part.added", self._summary_fields(part=self._summary())

    def grow(self, text: str, tokens: Sequence[ContentToken]) -> Iterator[Event]:
        yield from super().grow(text, tokens)
        if self._has_summary:
            yield "response.reasoning_summary_text.delta", self._summary_fields(delta=text)

    def _closing_more(self) -> Iterator[Event]:
        if self._has_summary:
            yield "response.reasoning_summary_text.done", self._summary_fields(text=self.text)
            yield "response.reasoning_summary_part.done", self._summary_fields(part=self._summary())

    def item(self, status: ItemStatus) -> ReasoningItem:
        whole = status != "in_progress"
        return ReasoningItem(
            id=self.id,
            type="reasoning",
            status=status,
            summary=[self._summary()] if whole and self._has_summary else [],
            content=[self._part()] if whole else [],
            **({"encrypted_content": carried(self.text)} if whole and self._is_carried else {}),
        )

    def _part(self) -> ReasoningText:
        return ReasoningText(type="reasoning_text", text=self.text)

    def _summary(self) -> SummaryText:
        return SummaryText(type="summary_text", text=self.text)

    def _summary_fields(self, **more: str | SummaryText) -> dict[str, Any]:
        told = {name: one if isinstance(one, str) else one.model_dump(mode="json") for name, one in more.items()}
        return {"item_id": self.id, "output_index": self.output_index, "summary_index": 0, **told}


class _OpenMessage(_OpenText):
    kind = MessageItem
    text_event = "response.output_text"

    def __init__(self, output_index: int) -> None:
        super().__init__(output_index)
        self._logprobs: list[JsonValue] = []

    def item(self, status: ItemStatus) -> MessageItem:
        content: list[MessagePart | RefusalPart] = [] if status == "in_progress" else [self._part()]
        return MessageItem(id=self.id, type="message", status=status, role="assistant", content=content)

    def _part(self) -> MessagePart:
        return MessagePart(type="output_text", text=self.text, annotations=[], logprobs=self._logprobs)

    def _told_of(self, tokens: Sequence[ContentToken]) -> dict[str, Any]:
        logprobs: list[JsonValue] = [entry.model_dump(mode="json") for entry in chat_logprobs(tokens)]
        self._logprobs += logprobs
        return {"logprobs": logprobs}

    def _told_of_all(self) -> dict[str, Any]:
        return {"logprobs": self._logprobs}


class _OpenCall(_OpenItem):
    kind = FunctionCallItem
    text_event = "response.function_call_arguments"

    def __init__(self, output_index: int, name: str, namespace: str | None = None) -> None:
        super().__init__(output_index)
        self._name = name
        self._namespace = {"namespace": namespace} if namespace is not None else {}
        self._call_id = new_call_id()

    def item(self, status: ItemStatus) -> FunctionCallItem:
        return FunctionCallItem(
            id=self.id,
            type="function_call",
            status=status,
            call_id=self._call_id,
            name=self._name,
            arguments=self.text,
            **self._namespace,
        )

    def closing(self, status: ItemStatus) -> Iterator[Event]:
        yield f"{self.text_event}.done", {**self._place(), "name": self._name, "arguments": self.text}
        yield from super().closing(status)
