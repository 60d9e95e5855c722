"""The responses that are kept, seen from the event loop.

Stage: 2 validate (what came before) and 7 SSE (what is to be kept).
Owns: what it means that something is not kept; how much one request may have read.
Does not know: how a response is written (kept_response.py), tables (database.py), the thread that works on them
(store_thread.py), HTTP routes.
"""

from __future__ import annotations

import math
from collections.abc import Sequence, Set
from typing import Final, Self

from gptoss_adapter.errors import InvalidRequestError, NotFoundError
from gptoss_adapter.responses.ids import is_conversation_id, is_unguessable
from gptoss_adapter.responses.keeping.conversation_store import ConversationStore
from gptoss_adapter.responses.keeping.database import Ended, ResponseDatabase
from gptoss_adapter.responses.keeping.holds import Place
from gptoss_adapter.responses.keeping.item_texts import ids_to_find, item_of, items_of, stored_items
from gptoss_adapter.responses.keeping.kept_response import KeptResponse, stored_response
from gptoss_adapter.responses.keeping.links import StoredLink
from gptoss_adapter.responses.keeping.progress import EventChunk
from gptoss_adapter.responses.keeping.reading import check_readable
from gptoss_adapter.responses.keeping.store_thread import StoreThread
from gptoss_adapter.schemas.response_answers import ResponseObject
from gptoss_adapter.schemas.response_items import Item
from gptoss_backend.settings import Settings

FILE_NAME: Final = "responses.sqlite"
"""In the run directory, where no path is set."""
_BODIES_READ: Final = 2
"""Of the largest size, that one request may have read: parsed they take some five times their size in memory."""
_SECONDS_A_DAY: Final = 24 * 60 * 60


class ResponseStore:
    """Responses by id, of the key that asks. Every method but `close` raises ApiError; none blocks the event loop."""

    def __init__(self, thread: StoreThread, max_read_bytes: int) -> None:
        """max_read_bytes: of the texts that one request may have read."""
        self._thread = thread
        self._max_read_bytes = max_read_bytes
        self.conversations = ConversationStore(thread, max_read_bytes)
        self._under_way: set[str] = set()  # begun here; touched by the event loop only

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """Return the store that `settings` ask for."""
        adapter = settings.adapter
        path = adapter.responses_path or settings.server.run_dir / FILE_NAME
        keep_s = adapter.responses_keep_days * _SECONDS_A_DAY
        keep_days = adapter.conversations_keep_days
        keep_conversations_s = math.inf if keep_days is None else keep_days * _SECONDS_A_DAY

        def open_database() -> ResponseDatabase:
            return ResponseDatabase(
                path,
                keep_s=keep_s,
                keep_conversations_s=keep_conversations_s,
                max_bytes=adapter.responses_max_bytes,
            )

        return cls(StoreThread(open_database), max_read_bytes=_BODIES_READ * adapter.max_body_bytes)

    async def close(self) -> None:
        """Finish what was asked for, and close the file."""
        await self._thread.close()

    async def save(
        self, response: ResponseObject, own_input: Sequence[Item], place: Place | None, added: Sequence[Item] | None
    ) -> Ended:
        """Keep a response that is over and the items that it added to those it continues, all with ids.

        place: where it goes on from a conversation. added: what it adds to that.
        """
        stored, item_ids = stored_response(response, own_input, place), ids_to_find([*own_input, *response.output])
        items = None if added is None else stored_items(added)
        is_added = await self._thread.run(lambda database: database.save(stored, item_ids, items))
        self.conversations.has_let_go(response.id)
        return Ended(is_kept=True, is_added=is_added)

    async def begin(
        self,
        response: ResponseObject,
        own_input: Sequence[Item],
        place: Place | None = None,
        chunks: Sequence[EventChunk] = (),
    ) -> None:
        """Keep a response that is not over yet, with its events so far. It stays under way until `end`."""
        stored, item_ids = stored_response(response, own_input, place), ids_to_find(own_input)
        await self._thread.run(lambda database: database.begin(stored, item_ids, chunks))
        self._under_way.add(response.id)

    async def change(self, response: ResponseObject) -> None:
        """Keep how far a response under way has come."""
        stored = stored_response(response, ())
        await self._thread.run(lambda database: database.change(stored.id, stored.response))

    async def end(
        self, response: ResponseObject, place: Place | None, added: Sequence[Item] | None, chunks: Sequence[EventChunk]
    ) -> Ended:
        """Keep how a response under way ended, and its events, and add to its conversation as `save` does.

        It is not kept where that is not for us to say any more: it was deleted or cancelled, maybe in another process.
        """
        stored, item_ids = stored_response(response, (), place), ids_to_find(response.output)
        items = None if added is None else stored_items(added)
        # where this fails the lease runs out: the response was given up
        self._under_way.discard(response.id)
        ended = await self._thread.run(lambda database: database.end(stored, item_ids, chunks, items))
        self.conversations.has_let_go(response.id)
        return ended

    async def renew(self) -> set[str]:
        """Say that those under way here still are; returns, once, the ids of those that were deleted or cancelled."""
        await self.conversations.renew()
        ids = frozenset(self._under_way)
        if not ids:
            return set()
        lost = await self._thread.run(lambda database: database.progress.renew(ids))
        lost &= self._under_way  # others have ended meanwhile
        self._under_way -= lost
        return lost

    async def cancel(self, response_id: str) -> None:
        """Keep a response that is under way, here or in another process, as cancelled: its maker learns of it."""
        response = await self.response(response_id)
        if response.is_under_way:
            await self._thread.run(lambda database: database.end(response.cancelled(), (), ()))

    async def response(self, response_id: str) -> KeptResponse:
        """Return a response as it is now. Raises NotFoundError."""
        stored = await self._thread.run(lambda database: database.load(response_id))
        if stored is None:
            raise _response_not_found(response_id)
        return KeptResponse(stored)

    async def events(self, response_id: str) -> list[EventChunk]:
        """Return the events that are kept of a response; none where its stream cannot be taken up again."""
        return await self._thread.run(lambda database: database.progress.events(response_id))

    async def conversation(self, response_id: str) -> list[Item]:
        """Return what the response was made from and what it gave.

        Raises InvalidRequestError where it is not over yet, where some is missing, or there is more than one request
        may have read.
        """

        def read(database: ResponseDatabase) -> list[Item]:
            links = self._chain(database, response_id, "previous_response_id")
            if links and database.progress.is_under_way(response_id):  # of another's, not even that is told
                raise InvalidRequestError(
                    f"Previous response with id '{response_id}' is still in progress; continue it once it has ended.",
                    param="previous_response_id",
                    code="previous_response_in_progress",
                )
            missing = links[0].previous_id if links else response_id
            if missing is not None:
                what = "Conversation" if is_conversation_id(missing) else "Previous response"
                raise InvalidRequestError(
                    f"{what} with id '{missing}' not found.",
                    param="previous_response_id",
                    code="previous_response_not_found",
                )
            return items_of(text for link in links for text in (link.input, link.output))

        return await self._thread.run(read)

    async def input_items(self, response_id: str) -> list[Item]:
        """Return what the response was made from, as far as it is kept.

        Raises NotFoundError, and InvalidRequestError as `conversation` does.
        """

        def read(database: ResponseDatabase) -> list[Item]:
            links = self._chain(database, response_id, "response_id")
            if not links:
                raise _response_not_found(response_id)
            texts = [text for link in links for text in (link.input, link.output)]
            return items_of(texts[:-1])  # without its own output

        return await self._thread.run(read)

    async def items(self, item_ids: Set[str]) -> dict[str, Item]:
        """Return items of responses and conversations that are kept, by id.

        Raises NotFoundError where one is not, and InvalidRequestError where they stand among more than one request may
        have read.
        """
        found = await self.remembered(item_ids)
        if missing := item_ids - found.keys():
            raise _item_not_found(min(missing))
        return found

    async def remembered(self, item_ids: Set[str]) -> dict[str, Item]:
        """Return those that are kept of these items, by id. Raises InvalidRequestError as `items` does."""
        return await self._thread.run(lambda database: self._look_up(database, item_ids))

    async def delete(self, response_id: str) -> None:
        """Forget a response. Raises NotFoundError."""
        if not await self._thread.run(lambda database: database.delete(response_id)):
            raise _response_not_found(response_id)

    def _look_up(self, database: ResponseDatabase, item_ids: Set[str]) -> dict[str, Item]:
        wanted: dict[str, set[str]] = {}
        for item_id in item_ids:
            if (holder := database.holder(item_id)) is not None:
                wanted.setdefault(holder, set()).add(item_id)
        found: dict[str, Item] = {}
        num_bytes = 0
        for holder, ids in wanted.items():  # each is read once, whatever is wanted of it
            stored = database.load(holder)
            texts = (stored.output, stored.input) if stored else ()
            num_bytes += sum(map(len, texts))
            check_readable(num_bytes, self._max_read_bytes, "input")
            for item in items_of(texts):
                if item.id in ids:
                    found.setdefault(item.id, item)
        for item_id in filter(is_unguessable, item_ids - found.keys()):
            text = database.conversations.find_item(item_id)
            if text is not None:
                num_bytes += len(text)
                check_readable(num_bytes, self._max_read_bytes, "input")
                found[item_id] = item_of(text)
        return found

    def _chain(self, database: ResponseDatabase, response_id: str, param: str) -> list[StoredLink]:
        check_readable(database.links.chain_bytes(response_id), self._max_read_bytes, param)
        return database.links.chain(response_id)


def _item_not_found(item_id: str) -> NotFoundError:
    message = (
        f"Item with id '{item_id}' not found. An item is found by an id that was made here, "
        "while a response ('store') or a conversation that holds it is kept."
    )
    return NotFoundError(message, param="input", code="item_not_found")


def _response_not_found(response_id: str) -> NotFoundError:
    return NotFoundError(f"Response with id '{response_id}' not found.", param="response_id", code="response_not_found")
