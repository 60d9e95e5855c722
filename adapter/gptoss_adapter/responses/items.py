"""The items a request adds to a conversation.

Stage: 2 validate.
Owns: how what a client wrote becomes items as they are kept and listed: whole, with ids, references looked up, and
results that a client was not told.
Does not know: what items mean.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import suppress

from gptoss_adapter.errors import InvalidRequestError, ServiceUnavailableError
from gptoss_adapter.responses.ids import is_unguessable, new_item_id
from gptoss_adapter.responses.keeping.store import ResponseStore
from gptoss_adapter.schemas.chat import RefusalPart
from gptoss_adapter.schemas.compaction import CompactionItem
from gptoss_adapter.schemas.hosted_items import CodeInterpreterCallItem, HostedItem, WebSearchCallItem
from gptoss_adapter.schemas.mcp_items import McpApprovalRequestItem, McpApprovalResponseItem, McpListToolsItem
from gptoss_adapter.schemas.response_items import (
    Content,
    InputItem,
    Item,
    ItemReference,
    MessageItem,
    MessagePart,
)


async def own_items(given: str | Sequence[InputItem] | None, store: ResponseStore) -> list[Item]:
    """Return the items of a request's `input`. Raises NotFoundError for a reference to what is not kept."""
    if isinstance(given, str):
        given = [MessageItem(role="user", content=given)]
    references = {item.id for item in given or () if isinstance(item, ItemReference)}
    kept = await store.items(references) if references else {}
    own = [kept[item.id] if isinstance(item, ItemReference) else _completed(item) for item in given or ()]
    return await _with_results(own, store)


async def _with_results(items: list[Item], store: ResponseStore) -> list[Item]:
    """Return the items; calls of hosted tools that came without results, as they were told, with those that are kept.

    Only behind the user's last message: the model sees no others again.
    """
    asked_at = max(
        (at for at, item in enumerate(items) if isinstance(item, MessageItem) and item.role == "user"), default=0
    )
    bare = {item.id for item in items[asked_at:] if isinstance(item, HostedItem) and item.id and _lacks_result(item)}
    if made_here := {item_id for item_id in bare if is_unguessable(item_id)}:
        # too much to read, or no store: the results stay unknown
        with suppress(InvalidRequestError, ServiceUnavailableError):
            kept = await store.remembered(made_here)
            return [_with_result(item, kept.get(item.id or "")) for item in items]
    return items


def _lacks_result(item: HostedItem) -> bool:
    return (item.results if isinstance(item, WebSearchCallItem) else item.outputs) is None


def _with_result(item: Item, kept: Item | None) -> Item:
    match item, kept:
        case WebSearchCallItem(), WebSearchCallItem():
            return item.model_copy(update={"arguments": kept.arguments, "results": kept.results})
        case CodeInterpreterCallItem(), CodeInterpreterCallItem():
            return item.model_copy(update={"outputs": kept.outputs})
    return item


def _completed(item: Item) -> Item:
    """Return the item as it is listed: with id, type and status, a message's content in parts."""
    fields: dict[str, object] = {"id": item.id or new_item_id(type(item)), "type": item.type}
    if not isinstance(item, CompactionItem | McpListToolsItem | McpApprovalRequestItem | McpApprovalResponseItem):
        fields["status"] = item.status or "completed"
    if isinstance(item, MessageItem):
        fields["content"] = _parts(item.content, is_answer=item.role == "assistant")
    return item.model_copy(update=fields)


def _parts(content: Content, *, is_answer: bool) -> list[MessagePart | RefusalPart]:
    if not isinstance(content, str):
        return content
    if is_answer:
        return [MessagePart(type="output_text", text=content, annotations=[])]
    return [MessagePart(type="input_text", text=content)]
