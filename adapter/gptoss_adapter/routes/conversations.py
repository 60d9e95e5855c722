"""/v1/conversations and what is under it.

Stage: 1 route, 2 validate.
Owns: what is answered of a conversation and its items.
Does not know: responses, tables; how a response goes on from a conversation (responses/history.py).
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Body
from starlette.responses import Response

from gptoss_adapter.field_names import naming_fields
from gptoss_adapter.responses.items import own_items
from gptoss_adapter.responses.keeping.item_texts import bare
from gptoss_adapter.responses.keeping.store import ResponseStore
from gptoss_adapter.responses.told_again import Telling
from gptoss_adapter.routes.keeping import After, Include, Limit, Order, Store
from gptoss_adapter.schemas.answers import ErrorBody
from gptoss_adapter.schemas.conversations import (
    ConversationObject,
    CreateConversation,
    CreateItems,
    DeletedConversation,
    UpdateConversation,
)
from gptoss_adapter.schemas.response_answers import ListedItem, ResponseItemList
from gptoss_adapter.schemas.response_items import InputItem, Item
from gptoss_adapter.schemas.responses import Includable
from gptoss_adapter.strict_routes import StrictQueryRoute

router = APIRouter(
    tags=["conversations"],
    route_class=StrictQueryRoute,
    responses={"4XX": {"model": ErrorBody}, "5XX": {"model": ErrorBody}},
)


@router.post("/v1/conversations")
async def create_conversation(
    store: Store, body: Annotated[CreateConversation | None, Body()] = None
) -> ConversationObject:
    """Keep a new conversation, with the items that it begins with."""
    asked = body or CreateConversation()
    items = await _added(asked.items or [], store)
    return await store.conversations.create(asked.metadata or {}, items)


@router.get("/v1/conversations/{conversation_id}")
async def get_conversation(conversation_id: str, store: Store) -> ConversationObject:
    """Return a conversation, without its items."""
    return await store.conversations.conversation(conversation_id)


@router.post("/v1/conversations/{conversation_id}")
async def update_conversation(conversation_id: str, body: UpdateConversation, store: Store) -> ConversationObject:
    """Put other metadata in place of a conversation's."""
    return await store.conversations.describe(conversation_id, body.metadata or {})


@router.delete("/v1/conversations/{conversation_id}")
async def delete_conversation(conversation_id: str, store: Store) -> DeletedConversation:
    """Forget a conversation and its items."""
    await store.conversations.delete(conversation_id)
    return DeletedConversation(id=conversation_id, object="conversation.deleted", deleted=True)


# --- its items ------------------------------------------------------------------------------------------------------


@router.post("/v1/conversations/{conversation_id}/items", response_model=ResponseItemList)
async def create_items(conversation_id: str, body: CreateItems, store: Store, include: Include = None) -> Response:
    """Add items behind the others of a conversation, and return them."""
    items = await _added(body.items, store)
    await store.conversations.add(conversation_id, items)
    return _page(items, include, has_more=False)


@router.get("/v1/conversations/{conversation_id}/items", response_model=ResponseItemList)
async def list_items(
    conversation_id: str,
    store: Store,
    limit: Limit = 20,
    order: Order = "desc",
    after: After = None,
    include: Include = None,
) -> Response:
    """List the items of a conversation, the newest first. A page ends early where they are long."""
    items, has_more = await store.conversations.page(conversation_id, after, newest_first=order == "desc", limit=limit)
    return _page(items, include, has_more=has_more)


@router.get("/v1/conversations/{conversation_id}/items/{item_id:path}", response_model=ListedItem)
async def get_item(conversation_id: str, item_id: str, store: Store, include: Include = None) -> Response:
    """Return an item of a conversation."""
    item = Telling.of(include).item(await store.conversations.item(conversation_id, item_id))
    return Response(item.model_dump_json(exclude_unset=True), media_type="application/json")


@router.delete("/v1/conversations/{conversation_id}/items/{item_id:path}")
async def delete_item(conversation_id: str, item_id: str, store: Store) -> ConversationObject:
    """Take an item out of a conversation, and return that."""
    return await store.conversations.remove(conversation_id, item_id)


async def _added(given: list[InputItem], store: ResponseStore) -> list[Item]:
    """Return the items as they are kept. Raises NotFoundError for a reference to what is not."""
    with naming_fields({"input": "items"}):
        return [bare(item) for item in await own_items(given, store)]


def _page(items: list[Item], include: list[Includable] | None, *, has_more: bool) -> Response:
    answer = ResponseItemList.page(Telling.of(include).items(items), has_more=has_more)
    return Response(answer.json_bytes(), media_type="application/json")
