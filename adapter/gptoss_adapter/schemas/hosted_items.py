"""Items that tell of OpenAI's own tools, and what cites their pages.

Stage: 2 validate, and 7 SSE.
Owns: their shapes. They go both ways, as those of response_items.py do.
Does not know: what an item means to the model (responses/server_tools/hosted_conversation.py); who runs the tools.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from gptoss_adapter.schemas.fields import ItemId, ListOf, RequestModel


class UrlCitation(RequestModel):
    """Says which page a place in a text cites."""

    type: Literal["url_citation"]
    start_index: int
    end_index: int
    """Behind the last character."""
    url: str
    title: str


class SearchSource(RequestModel):
    """A page that a search found."""

    type: Literal["url"]
    url: str


class SearchAction(RequestModel):
    """A search."""

    type: Literal["search"]
    query: str | None = None
    queries: ListOf[str] | None = None
    sources: ListOf[SearchSource] | None = None


class OpenPageAction(RequestModel):
    """A page is opened, or another part of it shown."""

    type: Literal["open_page"]
    url: str | None = None


class FindAction(RequestModel):
    """A text is looked for in a page."""

    type: Literal["find_in_page"]
    pattern: str
    url: str


SearchingAction: TypeAlias = SearchAction | OpenPageAction | FindAction


class WebSearchCallItem(RequestModel):
    """One use of the browser. The last two fields are ours: with them the model sees it again as it was."""

    id: ItemId | None = None
    type: Literal["web_search_call"]
    status: Literal["in_progress", "searching", "completed", "failed", "incomplete"] | None = None
    action: Annotated[SearchingAction, Field(discriminator="type")]
    arguments: str | None = None
    """JSON text, as the model wrote it."""
    results: str | None = None
    """What the model was told."""


class CodeLogs(RequestModel):
    """What code has printed."""

    type: Literal["logs"]
    logs: str


class CodeImage(RequestModel):
    """A picture that code has made, elsewhere."""

    type: Literal["image"]
    url: str


class CodeInterpreterCallItem(RequestModel):
    """Code that the model had run."""

    id: ItemId | None = None
    type: Literal["code_interpreter_call"]
    status: Literal["in_progress", "completed", "incomplete", "interpreting", "failed"] | None = None
    code: str | None = None
    container_id: str
    """Where it ran: no two responses share one."""
    outputs: ListOf[Annotated[CodeLogs | CodeImage, Field(discriminator="type")]] | None = None
    """What the model was told."""


HostedItem: TypeAlias = WebSearchCallItem | CodeInterpreterCallItem
