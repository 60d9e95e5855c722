"""The responses that are kept, seen from the event loop.

Stage: 2 validate (what came before) and 7 SSE (what is to be kept).
Owns: responses to texts and back; what it means that something is not kept.
Does not know: tables (database.py), the thread that works on them (store_thread.py), HTTP routes.
"""

from __future__ import annotations

import json
import math
from collections.abc import Sequence, Set
from dataclasses import replace
from typing import Final, Self

from pydantic import JsonValue

from gptoss_adapter.errors import InvalidRequestError, NotFoundError
from gptoss_adapter.responses.conversation_store import ConversationStore
from gptoss_adapter.responses.database import Ended, ResponseDatabase, StoredResponse
from gptoss_adapter.responses.holds import Place
from gptoss_adapter.responses.ids import is_conversation_id, is_unguessable
from gptoss_adapter.responses.item_texts import bare, ids_to_find, item_of, items_of, stored_items, text_of_all
from gptoss_adapter.responses.links import StoredLink
from gptoss_adapter.responses.progress import EventChunk
from gptoss_adapter.responses.reading import check_readable
from gptoss_adapter.responses.store_thread import StoreThread
from gptoss_adapter.responses.told_again import NOTHING_MORE, Telling
from gptoss_adapter.schemas.response_answers import ResponseObject
from gptoss_adapter.schemas.response_items import Item
from gptoss_backend.settings import Settings

FILE_NAME: Final = "responses.sqlite"
"""In the run directory, where no path is set."""
_BODIES_READ: Final = 2
"""Of the largest size, that one request may have read: parsed they take some five times their size in memory."""
_SECONDS_A_DAY: Final = 24 * 60 * 60
_GIVEN_UP: Final = "The server ended before this response did."


class KeptResponse:
    """A response as it is now, as far as the file tells."""

    def __init__(self, stored: StoredResponse) -> None:
        self._stored = stored

    @property
    def is_under_way(self) -> bool:
        """Whether somebody, here or in another process, is making it."""
        return self._stored.is_under_way

    @property
    def is_background(self) -> bool:
        """Whether it was asked for in the background. Does not read its output."""
        return bool(self._head()["background"])

    def json(self, telling: Telling = NOTHING_MORE) -> str:
        """Return it as it is answered."""
        if self._stored.is_given_up:
            return json.dumps(self.document(telling))
        head, conversation = self._stored.response[:-1], json.dumps(self._conversation())
        return f'{head},"conversation":{conversation},"output":{self._output(telling)}}}'

    def document(self, telling: Telling = NOTHING_MORE) -> dict[str, JsonValue]:
        """Return it parsed. One whose maker is gone has failed."""
        document = self._head() | {
            "conversation": self._conversation(),
            "output": json.loads(self._output(telling)),
        }
        if self._stored.is_given_up:
            document |= {"status": "failed", "error": {"code": "server_error", "message": _GIVEN_UP}}
        return document

    def cancelled(self) -> StoredResponse:
        """Return it as it is kept once it is cancelled."""
        return replace(self._stored, response=json.dumps(self._head() | {"status": "cancelled"}))

    def _conversation(self) -> dict[str, JsonValue] | None:
        place = self._stored.place
        return None if place is None else {"id": place.conversation_id}

    def _output(self, telling: Telling) -> str:
        kept = self._stored.output
        return text_of_all(telling.items(items_of([kept]))) if telling.changes(kept) else kept

    def _head(self) -> dict[str, JsonValue]:
        head: dict[str, JsonValue] = json.loads(self._stored.response)
        return head


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
        stored, item_ids = _stored(response, own_input, place), ids_to_find([*own_input, *response.output])
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
        stored, item_ids = _stored(response, own_input, place), ids_to_find(own_input)
        await self._thread.run(lambda database: database.begin(stored, item_ids, chunks))
        self._under_way.add(response.id)

    async def change(self, response: ResponseObject) -> None:
        """Keep how far a response under way has come."""
        stored = _stored(response, ())
        await self._thread.run(lambda database: database.change(stored.id, stored.response))

    async def end(
        self, response: ResponseObject, place: Place | None, added: Sequence[Item] | None, chunks: Sequence[EventChunk]
    ) -> Ended:
        """Keep how a response under way ended, and its events, and add to its conversation as `save` does.

        It is not kept where that is not for us to say any more: it was deleted or cancelled, maybe in another process.
        """
        stored, item_ids = _stored(response, (), place), ids_to_find(response.output)
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


def _stored(response: ResponseObject, own_input: Sequence[Item], place: Place | None = None) -> StoredResponse:
    document = response.model_dump(mode="json", exclude_unset=True, exclude={"conversation"})
    return StoredResponse(
        id=response.id,
        previous_id=response.previous_response_id,
        output=json.dumps(document.pop("output")),
        response=json.dumps(document),
        input=text_of_all(map(bare, own_input)),
        place=place,
    )


def _item_not_found(item_id: str) -> NotFoundError:
    message = (
        f"Item with id '{item_id}' not found. An item is found by an id that was made here, "
        "while a response ('store') or a conversation that holds it is kept."
    )
    return NotFoundError(message, param="input", code="item_not_found")


def _response_not_found(response_id: str) -> NotFoundError:
    return NotFoundError(f"Response with id '{response_id}' not found.", param="response_id", code="response_not_found")
