"""Items that are being written, and the events that tell of them.

Stage: 7 SSE.
Owns: the order and the fields of the events of an item.
Does not know: where one item ends and the next begins (output.py).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, TypeAlias

from pydantic import JsonValue

from gptoss_adapter.chunks import new_call_id
from gptoss_adapter.content import ContentToken
from gptoss_adapter.logprobs import chat_logprobs
from gptoss_adapter.mcp_servers.tools import CallResult
from gptoss_adapter.responses.ids import new_item_id
from gptoss_adapter.responses.server_tools.pages import CitationReader, Pages
from gptoss_adapter.schemas.carried_text import carried
from gptoss_adapter.schemas.chat import RefusalPart
from gptoss_adapter.schemas.hosted_items import UrlCitation
from gptoss_adapter.schemas.response_answers import OutputItem
from gptoss_adapter.schemas.response_items import (
    CustomToolCallItem,
    FunctionCallItem,
    Item,
    ItemStatus,
    MessageItem,
    MessagePart,
    ReasoningItem,
    ReasoningText,
    SummaryText,
)
from gptoss_backend.contract import Phase

Event: TypeAlias = tuple[str, dict[str, Any]]
"""Its type and its fields, without the sequence number."""


class OpenItem(ABC):
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
        """What was written so far."""
        return "".join(self._pieces)

    def grow(self, text: str, tokens: Sequence[ContentToken]) -> Iterator[Event]:
        """Take more text and yield what tells of it. tokens: those it is of, where they are told."""
        self._pieces.append(text)
        yield f"{self.text_event}.delta", {**self._place(), "delta": text, **self._told_of(tokens)}

    @abstractmethod
    def item(self, status: ItemStatus) -> OutputItem:
        """Return the item as it is now; one in progress has no content yet."""

    def is_told(self, status: ItemStatus) -> bool:
        """Say whether one that ends so is an item of the response."""
        return True

    def opening(self) -> Iterator[Event]:
        """Yield what tells that it begins."""
        yield "response.output_item.added", self._whole("in_progress")

    def closing(self, status: ItemStatus) -> Iterator[Event]:
        """Yield what tells that it has been written."""
        yield "response.output_item.done", self._whole(status)

    def _whole(self, status: ItemStatus) -> dict[str, Any]:
        item = self.item(status).model_dump(mode="json", exclude_unset=True)
        return {"output_index": self.output_index, "item": item}

    def _place(self) -> dict[str, Any]:
        return {"item_id": self.id, "output_index": self.output_index}

    def _told_of(self, tokens: Sequence[ContentToken]) -> dict[str, Any]:
        """Return the fields of a delta that tell of its tokens."""
        return {}


class OpenServerCall(OpenItem):
    """A call that an MCP server runs once it is written."""

    def __init__(self, output_index: int, label: str, name: str) -> None:
        super().__init__(output_index)
        self.label = label
        self.name = name
        """Of the server's tool."""
        self.is_running = False
        """Whether the server has been asked."""

    @property
    def arguments(self) -> str:
        """What the tool takes, as JSON."""
        return self.text

    def running(self) -> Iterator[Event]:
        """Yield what tells that the server is asked."""
        self.is_running = True
        yield from ()

    @abstractmethod
    def settling(self, result: CallResult | None) -> Iterator[Event]:
        """Take the result, None where it is not run, and yield what tells of it."""

    @abstractmethod
    def given_up(self) -> OutputItem:
        """Return the item where the response ends without its result."""


class OpenText(OpenItem):
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


class OpenReasoning(OpenText):
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


class OpenMessage(OpenText):
    kind = MessageItem
    text_event = "response.output_text"

    def __init__(self, output_index: int, pages: Pages, phase: Phase) -> None:
        """pages: those that the text may cite."""
        super().__init__(output_index)
        self.phase = phase
        self._logprobs: list[JsonValue] = []
        self._citations: list[UrlCitation] = []
        self._reader = CitationReader(pages)

    def grow(self, text: str, tokens: Sequence[ContentToken]) -> Iterator[Event]:
        yield from super().grow(text, tokens)
        for citation in self._reader.read(text):
            fields = {"annotation_index": len(self._citations), "annotation": citation.model_dump(mode="json")}
            self._citations.append(citation)
            yield "response.output_text.annotation.added", {**self._place(), **fields}

    def item(self, status: ItemStatus) -> MessageItem:
        content: list[MessagePart | RefusalPart] = [] if status == "in_progress" else [self._part()]
        return MessageItem(
            id=self.id, type="message", status=status, role="assistant", content=content, phase=self.phase
        )

    def _part(self) -> MessagePart:
        citations, logprobs = self._citations, self._logprobs
        return MessagePart(type="output_text", text=self.text, annotations=citations, logprobs=logprobs)

    def _told_of(self, tokens: Sequence[ContentToken]) -> dict[str, Any]:
        logprobs: list[JsonValue] = [entry.model_dump(mode="json") for entry in chat_logprobs(tokens)]
        self._logprobs += logprobs
        return {"logprobs": logprobs}

    def _told_of_all(self) -> dict[str, Any]:
        return {"logprobs": self._logprobs}


class _OpenToolCall(OpenItem):
    """A call that the client runs."""

    def __init__(self, output_index: int, name: str, namespace: str | None = None) -> None:
        super().__init__(output_index)
        self._name = name
        self._namespace = {"namespace": namespace} if namespace is not None else {}
        self._call_id = new_call_id()


class OpenCall(_OpenToolCall):
    kind = FunctionCallItem
    text_event = "response.function_call_arguments"

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


class OpenCustomCall(_OpenToolCall):
    kind = CustomToolCallItem
    text_event = "response.custom_tool_call_input"

    def item(self, status: ItemStatus) -> CustomToolCallItem:
        return CustomToolCallItem(
            id=self.id,
            type="custom_tool_call",
            status=status,
            call_id=self._call_id,
            name=self._name,
            input=self.text,
            **self._namespace,
        )

    def closing(self, status: ItemStatus) -> Iterator[Event]:
        yield f"{self.text_event}.done", {**self._place(), "input": self.text}
        yield from super().closing(status)
