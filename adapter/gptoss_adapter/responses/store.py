"""The responses that are kept, seen from the event loop.

Stage: 2 validate (what came before) and 7 SSE (what is to be kept).
Owns: the one thread that works on the file; items to texts and back; what it means that something is not kept.
Does not know: tables (database.py), HTTP routes.
"""

from __future__ import annotations

import asyncio
import json
import logging
import sqlite3
from collections.abc import Callable, Iterable, Sequence, Set
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Final, Self, TypeVar

from pydantic import JsonValue, TypeAdapter

from gptoss_adapter.context import current_key_name
from gptoss_adapter.errors import InvalidRequestError, NotFoundError, ServiceUnavailableError, invalid_value
from gptoss_adapter.responses.database import ResponseDatabase, StoredLink, StoredResponse
from gptoss_adapter.responses.ids import is_unguessable
from gptoss_adapter.responses.owners import NOBODY
from gptoss_adapter.responses.progress import EventChunk
from gptoss_adapter.responses.told_again import NOTHING_MORE, Telling
from gptoss_adapter.schemas.response_answers import ListedItem, ResponseObject
from gptoss_adapter.schemas.response_items import Item, MessageItem, MessagePart
from gptoss_backend.settings import Settings

logger = logging.getLogger(__name__)

T = TypeVar("T")

FILE_NAME: Final = "responses.sqlite"
"""In the run directory, where no path is set."""
_BODIES_READ: Final = 2
"""Of the largest size, that one request may have read: parsed they take some five times their size in memory."""
_SECONDS_A_DAY: Final = 24 * 60 * 60
_GIVEN_UP: Final = "The server ended before this response did."
_ITEMS: Final[TypeAdapter[list[Item]]] = TypeAdapter(list[ListedItem])


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
        return f'{self._stored.response[:-1]},"output":{self._output(telling)}}}'

    def document(self, telling: Telling = NOTHING_MORE) -> dict[str, JsonValue]:
        """Return it parsed. One whose maker is gone has failed."""
        document = self._head() | {"output": json.loads(self._output(telling))}
        if self._stored.is_given_up:
            document |= {"status": "failed", "error": {"code": "server_error", "message": _GIVEN_UP}}
        return document

    def cancelled(self) -> StoredResponse:
        """Return it as it is kept once it is cancelled."""
        return replace(self._stored, response=json.dumps(self._head() | {"status": "cancelled"}))

    def _output(self, telling: Telling) -> str:
        kept = self._stored.output
        return _json_of(telling.items(_items_of([kept]))) if telling.changes(kept) else kept

    def _head(self) -> dict[str, JsonValue]:
        head: dict[str, JsonValue] = json.loads(self._stored.response)
        return head


class ResponseStore:
    """Responses by id, of the key that asks. Every method but `close` raises ApiError; none blocks the event loop.

    The file is opened on first use, and again on the next use where that failed.
    """

    def __init__(self, open_database: Callable[[], ResponseDatabase], max_read_bytes: int) -> None:
        """open_database: called in the store's own thread. Raises sqlite3.Error or OSError.

        max_read_bytes: of the texts that one request may have read.
        """
        self._open_database = open_database
        self._max_read_bytes = max_read_bytes
        self._database: ResponseDatabase | None = None  # touched by the thread only
        self._under_way: set[str] = set()  # begun here; touched by the event loop only
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="response-store")

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """Return the store that `settings` ask for."""
        adapter = settings.adapter
        path = adapter.responses_path or settings.server.run_dir / FILE_NAME
        keep_s = adapter.responses_keep_days * _SECONDS_A_DAY
        return cls(
            lambda: ResponseDatabase(path, keep_s=keep_s, max_bytes=adapter.responses_max_bytes),
            max_read_bytes=_BODIES_READ * adapter.max_body_bytes,
        )

    async def close(self) -> None:
        """Finish what was asked for, and close the file."""

        def close() -> None:
            if self._database is not None:
                self._database.close()

        await asyncio.get_running_loop().run_in_executor(self._thread, close)
        self._thread.shutdown()

    async def save(self, response: ResponseObject, own_input: Sequence[Item]) -> None:
        """Keep a response that is over and the items that it added to the conversation, all with ids."""
        stored, item_ids = _stored(response, own_input), _ids_of([*own_input, *response.output])
        await self._run(lambda database: database.save(stored, item_ids))

    async def begin(
        self, response: ResponseObject, own_input: Sequence[Item], chunks: Sequence[EventChunk] = ()
    ) -> None:
        """Keep a response that is not over yet, with its events so far. It stays under way until `end`."""
        stored, item_ids = _stored(response, own_input), _ids_of(own_input)
        await self._run(lambda database: database.begin(stored, item_ids, chunks))
        self._under_way.add(response.id)

    async def change(self, response: ResponseObject) -> None:
        """Keep how far a response under way has come."""
        stored = _stored(response, ())
        await self._run(lambda database: database.change(stored.id, stored.response))

    async def end(self, response: ResponseObject, chunks: Sequence[EventChunk] = ()) -> bool:
        """Keep how a response under way ended, and its events.

        False where that is not for us to say any more: it was deleted or cancelled, maybe in another process.
        """
        stored, item_ids = _stored(response, ()), _ids_of(response.output)
        # where this fails the lease runs out: the response was given up
        self._under_way.discard(response.id)
        return await self._run(lambda database: database.end(stored, item_ids, chunks))

    async def renew(self) -> set[str]:
        """Say that those under way here still are; returns the ids of the ones that were deleted or cancelled."""
        ids = frozenset(self._under_way)
        if not ids:
            return set()
        lost = await self._run(lambda database: database.progress.renew(ids))
        return lost & self._under_way  # others have ended meanwhile

    async def cancel(self, response_id: str) -> None:
        """Keep a response that is under way, here or in another process, as cancelled: its maker learns of it."""
        response = await self.response(response_id)
        if response.is_under_way:
            await self._run(lambda database: database.end(response.cancelled(), (), ()))

    async def response(self, response_id: str) -> KeptResponse:
        """Return a response as it is now. Raises NotFoundError."""
        stored = await self._run(lambda database: database.load(response_id))
        if stored is None:
            raise _response_not_found(response_id)
        return KeptResponse(stored)

    async def events(self, response_id: str) -> list[EventChunk]:
        """Return the events that are kept of a response; none where its stream cannot be taken up again."""
        return await self._run(lambda database: database.progress.events(response_id))

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
                raise InvalidRequestError(
                    f"Previous response with id '{missing}' not found.",
                    param="previous_response_id",
                    code="previous_response_not_found",
                )
            return _items_of(text for link in links for text in (link.input, link.output))

        return await self._run(read)

    async def input_items(self, response_id: str) -> list[Item]:
        """Return what the response was made from, as far as it is kept.

        Raises NotFoundError, and InvalidRequestError as `conversation` does.
        """

        def read(database: ResponseDatabase) -> list[Item]:
            links = self._chain(database, response_id, "response_id")
            if not links:
                raise _response_not_found(response_id)
            texts = [text for link in links for text in (link.input, link.output)]
            return _items_of(texts[:-1])  # without its own output

        return await self._run(read)

    async def items(self, item_ids: Set[str]) -> dict[str, Item]:
        """Return items of responses that are kept, by id.

        Raises NotFoundError where one is not, and InvalidRequestError where they stand among more than one request may
        have read.
        """
        found = await self.remembered(item_ids)
        if missing := item_ids - found.keys():
            raise _item_not_found(min(missing))
        return found

    async def remembered(self, item_ids: Set[str]) -> dict[str, Item]:
        """Return those that are kept of these items, by id. Raises InvalidRequestError as `items` does."""
        return await self._run(lambda database: self._look_up(database, item_ids))

    async def delete(self, response_id: str) -> None:
        """Forget a response. Raises NotFoundError."""
        if not await self._run(lambda database: database.delete(response_id)):
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
            self._check_size(num_bytes, "input")
            for item in _items_of(texts):
                if item.id in ids:
                    found.setdefault(item.id, item)
        return found

    def _chain(self, database: ResponseDatabase, response_id: str, param: str) -> list[StoredLink]:
        self._check_size(database.chain_bytes(response_id), param)
        return database.chain(response_id)

    def _check_size(self, num_bytes: int, param: str) -> None:
        if num_bytes > self._max_read_bytes:
            message = (
                f"What is kept of it is {num_bytes} bytes of JSON; one request may have {self._max_read_bytes} read."
            )
            raise invalid_value(message, param)

    async def _run(self, work: Callable[[ResponseDatabase], T]) -> T:
        owner = current_key_name() or NOBODY

        def work_in_thread() -> T:
            if self._database is None:
                self._database = self._open_database()
            self._database.owner = owner
            return work(self._database)

        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work_in_thread)
        except (sqlite3.Error, OSError) as error:
            logger.error("the store of responses failed: %s", error)
            raise ServiceUnavailableError("The store of responses is not available; its log says why.") from error


def _json_of(items: Iterable[Item]) -> str:
    return _ITEMS.dump_json(list(items), exclude_unset=True, ensure_ascii=True).decode()


def _stored(response: ResponseObject, own_input: Sequence[Item]) -> StoredResponse:
    document = response.model_dump(mode="json", exclude_unset=True)
    return StoredResponse(
        id=response.id,
        previous_id=response.previous_response_id,
        output=json.dumps(document.pop("output")),
        response=json.dumps(document),
        input=_json_of(map(_bare, own_input)),
    )


def _bare(item: Item) -> Item:
    """Return an item of an input without what nothing here reads: its texts' log probabilities."""
    if not isinstance(item, MessageItem) or isinstance(item.content, str):
        return item
    parts = [
        part.model_copy(update={"logprobs": []}) if isinstance(part, MessagePart) and part.logprobs else part
        for part in item.content
    ]
    return item.model_copy(update={"content": parts})


def _ids_of(items: Sequence[Item]) -> list[str]:
    """Return the ids by which items are found."""
    # by an id that anybody may think of, another client's item could be had, or put in this one's place
    return [item.id for item in items if item.id and is_unguessable(item.id)]


def _items_of(texts: Iterable[str]) -> list[Item]:
    return [item for text in texts for item in _ITEMS.validate_json(text)]


def _item_not_found(item_id: str) -> NotFoundError:
    message = (
        f"Item with id '{item_id}' not found. An item is found by an id that was made here, "
        "while a response that holds it is kept ('store')."
    )
    return NotFoundError(message, param="input", code="item_not_found")


def _response_not_found(response_id: str) -> NotFoundError:
    return NotFoundError(f"Response with id '{response_id}' not found.", param="response_id", code="response_not_found")
