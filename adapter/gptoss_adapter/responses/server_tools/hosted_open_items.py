"""Items of OpenAI's own tools, while they are being written, and the events that tell of them.

Stage: 7 SSE.
Owns: the order and the fields of these events; what is told of a page that was opened or found.
Does not know: how a call is made; what of an item a client asked to see (told_again.py).
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from typing import Any, ClassVar, Final, Literal, TypeAlias

from gptoss_adapter.content import ContentToken
from gptoss_adapter.mcp_servers.tools import CallResult
from gptoss_adapter.responses.open_items import Event, OpenServerCall
from gptoss_adapter.responses.server_tools.hosted_tools import tool_of
from gptoss_adapter.responses.server_tools.mcp_conversation import words_of
from gptoss_adapter.responses.server_tools.pages import Page, Pages, argument, sources
from gptoss_adapter.responses.told_again import Telling
from gptoss_adapter.schemas.hosted_items import (
    CodeImage,
    CodeInterpreterCallItem,
    CodeLogs,
    FindAction,
    OpenPageAction,
    SearchAction,
    SearchingAction,
    SearchSource,
    WebSearchCallItem,
)
from gptoss_adapter.schemas.response_items import ItemStatus
from gptoss_backend.harmony.builtin_tools import BROWSER_FIND, BROWSER_OPEN, PYTHON

_Settled: TypeAlias = Literal["completed", "failed"]
_INTERRUPTED: Final = "The call was interrupted; whether it has done its work is not known."


class OpenHostedCall(OpenServerCall):
    """A call of a built-in tool."""

    begun_event: ClassVar[str]
    """Its type, as of the other two."""
    running_event: ClassVar[str]
    done_event: ClassVar[str]

    def __init__(self, output_index: int, label: str, recipient: str, telling: Telling) -> None:
        super().__init__(output_index, label, tool_of(recipient))
        self._telling = telling
        self._outcome: _Settled | None = None
        self._told: str | None = None
        """What the model is told."""

    def running(self) -> Iterator[Event]:
        """Yield what tells that the server is asked."""
        yield from super().running()
        yield self.running_event, self._place()

    def settling(self, result: CallResult | None) -> Iterator[Event]:
        """Take the result, None where it is not run, and yield what tells of it."""
        if result is not None:
            self._outcome = "completed" if result.error is None else "failed"
            self._told = result.text if result.error is None else words_of(result.error)
            self._take(self._told)
        if self._outcome == "completed":
            yield self.done_event, self._place()
        yield from super().closing("incomplete")

    def _take(self, told: str) -> None:
        """Take note of what the model is told."""

    def _whole(self, status: ItemStatus) -> dict[str, Any]:
        item = self._telling.item(self.item(status)).model_dump(mode="json", exclude_unset=True)
        return {"output_index": self.output_index, "item": item}


class OpenWebSearch(OpenHostedCall):
    """A use of the browser: told once its arguments are whole, which say what it is."""

    kind = WebSearchCallItem
    begun_event = "response.web_search_call.in_progress"
    running_event = "response.web_search_call.searching"
    done_event = "response.web_search_call.completed"

    def __init__(self, output_index: int, label: str, recipient: str, telling: Telling, pages: Pages) -> None:
        """pages: those that were shown before; this one is added."""
        super().__init__(output_index, label, recipient, telling)
        self._recipient = recipient
        self._pages = pages
        self._page: Page | None = None
        self._sources: list[str] = []

    def is_told(self, status: ItemStatus) -> bool:
        """Say whether it is whole: half a call says nothing."""
        return status == "completed"

    def item(self, status: ItemStatus) -> WebSearchCallItem:
        """Return the item as it is now; status: unless the server has answered."""
        told = {} if self._told is None else {"results": self._told}
        return WebSearchCallItem(
            id=self.id,
            type="web_search_call",
            status=self._outcome or status,
            action=self._action(),
            arguments=self.text,
            **told,
        )

    def given_up(self) -> WebSearchCallItem:
        """Return the item where the response ends without its result."""
        if not self.is_running:
            return self.item("incomplete")
        return self.item("incomplete").model_copy(update={"status": "failed", "results": _INTERRUPTED})

    def opening(self) -> Iterator[Event]:
        """Yield nothing."""
        yield from ()

    def grow(self, text: str, tokens: Sequence[ContentToken]) -> Iterator[Event]:
        """Take more of the arguments."""
        self._pieces.append(text)
        yield from ()

    def closing(self, status: ItemStatus) -> Iterator[Event]:
        """Yield what tells that it has been written."""
        if self.is_told(status):
            if self._recipient == BROWSER_FIND or argument(self.text, "id") in (None, -1):
                self._page = self._pages.at(self.text)
            yield "response.output_item.added", self._whole("in_progress")
            yield self.begun_event, self._place()

    def _take(self, told: str) -> None:
        if self._outcome == "completed":
            self._page = self._pages.add(self._recipient, self.text, told) or self._page
            self._sources = sources(told)

    def _action(self) -> SearchingAction:
        url = self._page.url if self._page is not None else None
        if self._recipient == BROWSER_OPEN:
            link = argument(self.text, "id")
            return OpenPageAction(type="open_page", url=url or (link if isinstance(link, str) else None))
        if self._recipient == BROWSER_FIND:
            pattern = str(argument(self.text, "pattern") or "")
            return FindAction(type="find_in_page", pattern=pattern, url=url or "")
        found = [SearchSource(type="url", url=one) for one in self._sources]
        query = str(argument(self.text, "query") or "")
        return SearchAction(type="search", query=query, queries=[query], sources=found)


class OpenCodeCall(OpenHostedCall):
    """Code that is run once it is written."""

    kind = CodeInterpreterCallItem
    text_event = "response.code_interpreter_call_code"
    begun_event = "response.code_interpreter_call.in_progress"
    running_event = "response.code_interpreter_call.interpreting"
    done_event = "response.code_interpreter_call.completed"

    def __init__(self, output_index: int, label: str, telling: Telling, container_id: str) -> None:
        super().__init__(output_index, label, PYTHON, telling)
        self._container_id = container_id

    @property
    def arguments(self) -> str:
        """What the server's tool takes, as JSON."""
        return json.dumps({"code": self.text})

    def item(self, status: ItemStatus) -> CodeInterpreterCallItem:
        """Return the item as it is now; status: unless the server has answered."""
        return CodeInterpreterCallItem(
            id=self.id,
            type="code_interpreter_call",
            status=self._outcome or status,
            code=self.text,
            container_id=self._container_id,
            outputs=_logs(self._told) if self._told is not None else None,
        )

    def given_up(self) -> CodeInterpreterCallItem:
        """Return the item where the response ends without its result."""
        if not self.is_running:
            return self.item("incomplete")
        return self.item("incomplete").model_copy(update={"status": "failed", "outputs": _logs(_INTERRUPTED)})

    def opening(self) -> Iterator[Event]:
        """Yield what tells that it begins."""
        yield from super().opening()
        yield self.begun_event, self._place()

    def closing(self, status: ItemStatus) -> Iterator[Event]:
        """Yield what tells that it has been written, or cut."""
        yield f"{self.text_event}.done", {**self._place(), "code": self.text}
        if status != "completed":
            yield from super().closing(status)


def _logs(text: str) -> list[CodeLogs | CodeImage]:
    return [CodeLogs(type="logs", logs=text)]
