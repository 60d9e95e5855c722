"""Items as texts in the file, and back.

Stage: 2 validate and 7 SSE.
Owns: how an item is written; what of one is not kept; by which ids items are found.
Does not know: tables, what an item means.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Final

from pydantic import TypeAdapter

from gptoss_adapter.responses.ids import is_unguessable
from gptoss_adapter.responses.keeping.conversation_tables import StoredItem
from gptoss_adapter.schemas.response_answers import ListedItem
from gptoss_adapter.schemas.response_items import Item, MessageItem, MessagePart

_ITEM: Final[TypeAdapter[Item]] = TypeAdapter(ListedItem)
_ITEMS: Final[TypeAdapter[list[Item]]] = TypeAdapter(list[ListedItem])


def text_of(item: Item) -> str:
    """Return one item's JSON."""
    return _ITEM.dump_json(item, exclude_unset=True, ensure_ascii=True).decode()


def text_of_all(items: Iterable[Item]) -> str:
    """Return a JSON list of the items."""
    return _ITEMS.dump_json(list(items), exclude_unset=True, ensure_ascii=True).decode()


def stored_items(items: Iterable[Item]) -> list[StoredItem]:
    """Return the items, all with ids, as a conversation holds them."""
    return [StoredItem(one.id or "", text_of(one)) for one in items]


def item_of(text: str) -> Item:
    """Return what `text_of` has written."""
    return _ITEM.validate_json(text)


def items_of(lists: Iterable[str]) -> list[Item]:
    """Return the items of several lists that `text_of_all` has written, in one."""
    return [item for text in lists for item in _ITEMS.validate_json(text)]


def bare(item: Item) -> Item:
    """Return an item of an input without what nothing here reads: its texts' log probabilities."""
    if not isinstance(item, MessageItem) or isinstance(item.content, str):
        return item
    parts = [
        part.model_copy(update={"logprobs": []}) if isinstance(part, MessagePart) and part.logprobs else part
        for part in item.content
    ]
    return item.model_copy(update={"content": parts})


def ids_to_find(items: Sequence[Item]) -> list[str]:
    """Return the ids by which items are found."""
    # by an id that anybody may think of, another client's item could be had, or put in this one's place
    return [item.id for item in items if item.id and is_unguessable(item.id)]
