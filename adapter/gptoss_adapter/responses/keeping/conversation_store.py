"""The conversations that are kept, seen from the event loop.

Stage: 2 validate (what came before) and 7 SSE (what is to be kept).
Owns: what it means that a conversation is not kept, is held by a response, or has an item already.
Does not know: tables (conversation_tables.py, holds.py), the thread that works on them (store_thread.py), HTTP routes.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress

from gptoss_adapter.errors import InvalidRequestError, NotFoundError, ServiceUnavailableError, invalid_value
from gptoss_adapter.responses.ids import new_conversation_id
from gptoss_adapter.responses.keeping.conversation_tables import StoredConversation, StoredItem
from gptoss_adapter.responses.keeping.database import ResponseDatabase
from gptoss_adapter.responses.keeping.holds import Place
from gptoss_adapter.responses.keeping.item_texts import item_of, stored_items
from gptoss_adapter.responses.keeping.reading import check_readable
from gptoss_adapter.responses.keeping.store_thread import StoreThread
from gptoss_adapter.schemas.conversations import ConversationObject
from gptoss_adapter.schemas.response_items import Item


class ConversationStore:
    """Conversations by id, of the key that asks. Every method raises ApiError; none blocks the event loop."""

    def __init__(self, thread: StoreThread, max_read_bytes: int) -> None:
        """max_read_bytes: of the texts that one request may have read."""
        self._thread = thread
        self._max_read_bytes = max_read_bytes
        self._holding: set[str] = set()  # responses made here; touched by the event loop only

    async def create(self, metadata: Mapping[str, str], items: Sequence[Item]) -> ConversationObject:
        """Keep a new conversation that begins with those items, all with ids."""
        check_no_duplicates(items, (), "items")
        text = json.dumps(dict(metadata))
        conversation = StoredConversation(new_conversation_id(), int(time.time()), text)
        added = stored_items(items)

        def create(database: ResponseDatabase) -> None:
            with database.writing():
                database.room.make(len(text) + _num_bytes(added))
                database.conversations.create(conversation)
                database.conversations.add(conversation.id, added)

        await self._thread.run(create)
        return _told(conversation)

    async def conversation(self, conversation_id: str) -> ConversationObject:
        """Return a conversation. Raises NotFoundError."""
        return _told(await self._thread.run(lambda database: _find(database, conversation_id)))

    async def describe(self, conversation_id: str, metadata: Mapping[str, str]) -> ConversationObject:
        """Keep other metadata of a conversation and return it. Raises NotFoundError."""
        text = json.dumps(dict(metadata))

        def describe(database: ResponseDatabase) -> StoredConversation:
            with database.writing():
                _find(database, conversation_id)
                database.room.make(len(text), spared=conversation_id)
                database.conversations.describe(conversation_id, text)
                return _find(database, conversation_id)

        return _told(await self._thread.run(describe))

    async def delete(self, conversation_id: str) -> None:
        """Forget a conversation and its items; responses that belong to it stay. Raises NotFoundError."""
        if not await self._thread.run(lambda database: database.conversations.delete(conversation_id)):
            raise _not_found(conversation_id)

    # --- its items --------------------------------------------------------------------------------------------------

    async def add(self, conversation_id: str, items: Sequence[Item]) -> None:
        """Add items, all with ids, behind the others.

        Raises NotFoundError, and InvalidRequestError while a response holds it or where an id is in it already.
        """
        check_no_duplicates(items, (), "items")
        added = stored_items(items)

        def add(database: ResponseDatabase) -> None:
            with database.writing():
                _find_free(database, conversation_id)
                for item in added:
                    if database.conversations.item(conversation_id, item.id) is not None:
                        raise _duplicate(item.id, "items")
                database.room.make(_num_bytes(added), spared=conversation_id)
                database.conversations.add(conversation_id, added)

        await self._thread.run(add)

    async def page(
        self, conversation_id: str, after: str | None, *, newest_first: bool, limit: int
    ) -> tuple[list[Item], bool]:
        """Return at most so many items behind that one, fewer where they are long, and whether there are more.

        Raises NotFoundError, and InvalidRequestError where `after` is not there.
        """

        def read(database: ResponseDatabase) -> tuple[list[Item], bool]:
            _find(database, conversation_id)
            page = database.conversations.page(
                conversation_id, after, newest_first=newest_first, limit=limit, max_bytes=self._max_read_bytes
            )
            if page is None:
                message = f"'after' names the item '{after}', which is not in this conversation."
                raise invalid_value(message, "after")
            texts, has_more = page
            return [item_of(text) for text in texts], has_more

        return await self._thread.run(read)

    async def item(self, conversation_id: str, item_id: str) -> Item:
        """Return an item of a conversation. Raises NotFoundError."""

        def read(database: ResponseDatabase) -> Item:
            _find(database, conversation_id)
            text = database.conversations.item(conversation_id, item_id)
            if text is None:
                raise _item_not_found(item_id)
            return item_of(text)

        return await self._thread.run(read)

    async def remove(self, conversation_id: str, item_id: str) -> ConversationObject:
        """Take an item out of a conversation and return that.

        Raises NotFoundError, and InvalidRequestError while a response holds it.
        """

        def remove(database: ResponseDatabase) -> StoredConversation:
            with database.writing():
                conversation = _find_free(database, conversation_id)
                if not database.conversations.remove(conversation_id, item_id):
                    raise _item_not_found(item_id)
                return conversation

        return _told(await self._thread.run(remove))

    # --- responses that go on from it -------------------------------------------------------------------------------

    async def read(self, conversation_id: str) -> tuple[list[Item], Place]:
        """Return all items, and where a response goes on that is made from them.

        Raises NotFoundError, and InvalidRequestError where they are more than one request may have read.
        """

        def read(database: ResponseDatabase) -> tuple[list[Item], Place]:
            conversation = _find(database, conversation_id, "conversation")
            check_readable(conversation.num_bytes, self._max_read_bytes, "conversation")
            place = Place(conversation_id, conversation.next_position)
            return [item_of(text) for text in database.conversations.items(conversation_id, place.position)], place

        return await self._thread.run(read)

    async def hold(self, place: Place, response_id: str) -> None:
        """Let nobody but a response add to a conversation, until `let_go` or its end. Does nothing where that is so.

        Raises NotFoundError, and InvalidRequestError where another holds it or it does not go on at `place` any more.
        """
        if response_id in self._holding:
            return

        def hold(database: ResponseDatabase) -> None:
            with database.writing():
                conversation = _find_free(database, place.conversation_id, "conversation")
                if conversation.next_position != place.position:
                    raise _locked()
                database.conversations.use(place.conversation_id)
                database.holds.take(place.conversation_id, response_id)

        self._holding.add(response_id)
        try:
            await self._thread.run(hold)
        except asyncio.CancelledError:  # the thread goes on, and may have it already or get it yet
            with suppress(ServiceUnavailableError):  # the lease runs out
                await self.let_go(response_id)
            raise
        except Exception:
            self._holding.discard(response_id)
            raise

    async def add_turn(self, place: Place, response_id: str, items: Sequence[Item]) -> bool:
        """Add what a response that is not kept adds to the conversation it holds, and let go; whether it could."""
        added = stored_items(items)
        is_added = await self._thread.run(lambda database: database.add_turn(response_id, place, added))
        self.has_let_go(response_id)
        return is_added

    async def let_go(self, response_id: str) -> None:
        """End a response's hold where it has one."""
        if response_id in self._holding:
            self._holding.discard(response_id)  # where the rest fails the lease runs out
            await self._thread.run(lambda database: database.holds.let_go(response_id))

    def has_let_go(self, response_id: str) -> None:
        """Note that a response holds nothing any more."""
        self._holding.discard(response_id)

    async def renew(self) -> None:
        """Say that the responses made here that hold a conversation are still under way."""
        ids = frozenset(self._holding)
        if ids:
            self._holding -= await self._thread.run(lambda database: database.holds.renew(ids))


def check_no_duplicates(items: Sequence[Item], earlier: Sequence[Item], param: str) -> None:
    """Raise InvalidRequestError where an id would be in a conversation twice: each item is found by its own there."""
    known = {item.id for item in earlier}
    for item in items:
        if item.id in known:
            raise _duplicate(item.id, param)
        known.add(item.id)


def _find(database: ResponseDatabase, conversation_id: str, param: str = "conversation_id") -> StoredConversation:
    conversation = database.conversations.load(conversation_id)
    if conversation is None:
        raise _not_found(conversation_id, param)
    return conversation


def _find_free(database: ResponseDatabase, conversation_id: str, param: str = "conversation_id") -> StoredConversation:
    conversation = _find(database, conversation_id, param)
    if database.holds.is_held(conversation_id):
        raise _locked(param)
    return conversation


def _num_bytes(items: Sequence[StoredItem]) -> int:
    return sum(len(one.item) for one in items)


def _told(conversation: StoredConversation) -> ConversationObject:
    return ConversationObject(
        id=conversation.id,
        object="conversation",
        created_at=conversation.created_at,
        metadata=json.loads(conversation.metadata),
    )


def _not_found(conversation_id: str, param: str = "conversation_id") -> NotFoundError:
    message = f"Conversation with id '{conversation_id}' not found."
    return NotFoundError(message, param=param, code="conversation_not_found")


def _item_not_found(item_id: str) -> NotFoundError:
    return NotFoundError(f"Item with id '{item_id}' not found.", param="item_id", code="item_not_found")


def _locked(param: str = "conversation") -> InvalidRequestError:
    message = "Another process is currently operating on this conversation. Please retry in a few seconds."
    return InvalidRequestError(message, param=param, code="conversation_locked")


def _duplicate(item_id: str | None, param: str) -> InvalidRequestError:
    message = f"Duplicate item found with id {item_id}. Remove duplicate items from your input and try again."
    return InvalidRequestError(message, param=param, code="duplicate_item")
