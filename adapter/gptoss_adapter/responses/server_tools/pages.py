"""The pages that the model has seen, and what in a text cites them.

Stage: 7 SSE.
Owns: how a page's address is read off what the browser showed; where a mark begins and ends.
Does not know: how the browser is called; events.

The browser heads each page it shows with `[cursor] title (address)`, and the model cites by `【cursor†lines】`. A list
of search results has no address, and links in it tell sites only: `【id†title†site】`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final
from urllib.parse import quote

from pydantic import JsonValue

from gptoss_adapter.responses.server_tools.hosted_conversation import call_of
from gptoss_adapter.schemas.hosted_items import UrlCitation, WebSearchCallItem
from gptoss_adapter.schemas.response_items import Item
from gptoss_backend.harmony.builtin_tools import BROWSER_FIND

_HEAD: Final = re.compile(r"\[(\d{1,9})\] ([^\n]*)")
_ADDRESS_BEGINS: Final = re.compile(r" \((?:view-source:)?(?=https?://..)")
_LINK: Final = re.compile(r"【\d+†[^†】\n]*†([^†】\s]+)】")
_ADDRESS: Final = re.compile(r"https?://[^\s<>\"'【】()\[\]]+")
_UNQUOTED: Final = "%/:?#[]@!$&'()*+,;=~"
"""Of an address; the browser shows others as they read."""
_CUT: Final = "..."
"""Ends an address that the browser has cut."""
_MARK: Final = re.compile(r"【(\d{1,9})†[^【】\n]{1,64}】")
_MARK_BEGINS: Final = "【"
_LONGEST_MARK: Final = 80


@dataclass(frozen=True, slots=True)
class Page:
    """Something that the browser has shown."""

    url: str
    title: str


class Pages:
    """What the browser has shown, by cursor."""

    def __init__(self) -> None:
        self._pages: dict[int, Page | None] = {}
        self._latest: int | None = None

    @classmethod
    def of(cls, items: Iterable[Item]) -> Pages:
        """Return those of a conversation."""
        pages = cls()
        for item in items:
            if isinstance(item, WebSearchCallItem) and item.results is not None:
                call = call_of(item)
                pages.add(call.name, call.arguments, item.results)
        return pages

    def add(self, recipient: str, arguments: str, result: str) -> Page | None:
        """Take note of what a call has shown, and return that; None: no page, or one without an address."""
        head = _HEAD.match(result)
        if head is None:
            return None
        page = self.at(arguments) if recipient == BROWSER_FIND else _page(head[2])
        self._latest = int(head[1])
        self._pages[self._latest] = page
        return page

    def at(self, arguments: str) -> Page | None:
        """Return the page that a call works on: that of its cursor, else the latest."""
        cursor = argument(arguments, "cursor")
        is_named = isinstance(cursor, int) and cursor >= 0
        return self.get(cursor if is_named else self._latest)

    def get(self, cursor: JsonValue) -> Page | None:
        """Return a page whose address is known."""
        return self._pages.get(cursor) if isinstance(cursor, int) else None


def argument(arguments: str, name: str) -> JsonValue:
    """Return one argument of a call, None where there is none such."""
    try:
        parsed: JsonValue = json.loads(arguments)
    except (ValueError, RecursionError):
        return None
    return parsed.get(name) if isinstance(parsed, dict) else None


def sources(result: str) -> list[str]:
    """Return the addresses in a list of search results; of a link that tells its site only, the site's."""
    found = [address.rstrip(".,;:!?") for address in _ADDRESS.findall(result)]
    return list(dict.fromkeys(found or [f"https://{site}" for site in _LINK.findall(result)]))


def _page(head: str) -> Page | None:
    """Return the page of the line that is shown first. It may be long: a client may have written it."""
    begun = _ADDRESS_BEGINS.search(head)
    if begun is None or not head.endswith(")") or head.endswith(f"{_CUT})"):
        return None
    return Page(quote(head[begun.end() : -1], safe=_UNQUOTED), head[: begun.start()])


class CitationReader:
    """Finds marks in a text as it grows."""

    def __init__(self, pages: Pages) -> None:
        self._pages = pages
        self._unread = ""  # may be the beginning of a mark
        self._num_read = 0

    def read(self, text: str) -> list[UrlCitation]:
        """Take more of the text, and return the citations that are whole now, of pages whose addresses are known."""
        if not self._unread and _MARK_BEGINS not in text:  # as nearly always
            self._num_read += len(text)
            return []
        self._unread += text
        found = [
            UrlCitation(
                type="url_citation",
                start_index=self._num_read + mark.start(),
                end_index=self._num_read + mark.end(),
                url=page.url,
                title=page.title,
            )
            for mark in _MARK.finditer(self._unread)
            if (page := self._pages.get(int(mark[1]))) is not None
        ]
        self._forget()
        return found

    def _forget(self) -> None:
        """Keep only what may become a mark."""
        begun_at = self._unread.rfind(_MARK_BEGINS)
        is_open = begun_at >= 0 and "】" not in self._unread[begun_at:] and len(self._unread) - begun_at < _LONGEST_MARK
        num_read = begun_at if is_open else len(self._unread)
        self._unread, self._num_read = self._unread[num_read:], self._num_read + num_read
