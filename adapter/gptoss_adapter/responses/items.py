"""The items a request adds to a conversation.

Stage: 2 validate.
Owns: how what a client wrote becomes items as they are kept and listed: whole, with ids, references looked up.
Does not know: what items mean.
"""

from __future__ import annotations

from collections.abc import Sequence

from gptoss_adapter.responses.ids import new_item_id
from gptoss_adapter.responses.store import ResponseStore
from gptoss_adapter.schemas.chat import RefusalPart
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
    return [kept[item.id] if isinstance(item, ItemReference) else _completed(item) for item in given or ()]


def _completed(item: Item) -> Item:
    """Return the item as it is listed: with id, type and status, a message's content in parts."""
    fields: dict[str, object] = {"id": item.id or new_item_id(type(item)), "type": item.type}
    if not isinstance(item, McpListToolsItem | McpApprovalRequestItem | McpApprovalResponseItem):
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
