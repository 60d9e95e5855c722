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
from collections.abc import Callable, Collection, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Self, TypeVar

from pydantic import TypeAdapter

from gptoss_adapter.errors import InvalidRequestError, NotFoundError, ServiceUnavailableError
from gptoss_adapter.responses.database import ResponseDatabase, StoredLink, StoredResponse
from gptoss_adapter.responses.ids import is_unguessable
from gptoss_adapter.responses.told_again import telling_reasoning_again
from gptoss_adapter.schemas.response_answers import ListedItem, ResponseObject
from gptoss_adapter.schemas.response_items import Item
from gptoss_backend.settings import Settings

logger = logging.getLogger(__name__)

T = TypeVar("T")

FILE_NAME: Final = "responses.sqlite"
"""In the run directory, where no path is set."""
_BODIES_READ: Final = 8
"""Of the largest size, that one request may have read: parsed they take some five times their size in memory."""
_SECONDS_A_DAY: Final = 24 * 60 * 60
_ITEMS: Final[TypeAdapter[list[Item]]] = TypeAdapter(list[ListedItem])


class ResponseStore:
    """Responses by id. Every method but `close` raises ApiError; none blocks the event loop.

    The file is opened on first use, and again on the next use where that failed.
    """

    def __init__(self, open_database: Callable[[], ResponseDatabase], max_read_bytes: int) -> None:
        """open_database: called in the store's own thread. Raises sqlite3.Error or OSError.

        max_read_bytes: of the texts that one request may have read.
        """
        self._open_database = open_database
        self._max_read_bytes = max_read_bytes
        self._database: ResponseDatabase | None = None  # touched by the thread only
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
        """Keep a response and the items that it added to the conversation, all with ids."""
        document = response.model_dump(mode="json", exclude_unset=True)
        stored = StoredResponse(
            id=response.id,
            previous_id=response.previous_response_id,
            output=json.dumps(document.pop("output")),
            response=json.dumps(document),
            input=_json_of(own_input),
        )
        # by an id that anybody may think of, another client's item could be had, or put in this one's place
        item_ids = [item.id for item in (*own_input, *response.output) if item.id and is_unguessable(item.id)]
        await self._run(lambda database: database.save(stored, item_ids))

    async def response(self, response_id: str, *, carries_reasoning: bool = False) -> bytes:
        """Return a response as it was answered, as JSON. Raises NotFoundError.

        carries_reasoning: its items of reasoning tell their text again, as `telling_reasoning_again` does.
        """
        stored = await self._run(lambda database: database.load(response_id))
        if stored is None:
            raise _response_not_found(response_id)
        output = stored.output
        if carries_reasoning:
            output = _json_of(telling_reasoning_again(_items_of([output])))
        return f'{stored.response[:-1]},"output":{output}}}'.encode()

    async def conversation(self, response_id: str) -> list[Item]:
        """Return what the response was made from and what it gave.

        Raises InvalidRequestError where some is missing, or there is more than one request may have read.
        """

        def read(database: ResponseDatabase) -> list[Item]:
            links = self._chain(database, response_id, "previous_response_id")
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

    async def items(self, item_ids: Collection[str]) -> dict[str, Item]:
        """Return items of responses that are kept, by id.

        Raises NotFoundError where one is not, and InvalidRequestError where they stand among more than one request may
        have read.
        """
        return await self._run(lambda database: self._look_up(database, set(item_ids)))

    async def delete(self, response_id: str) -> None:
        """Forget a response. Raises NotFoundError."""
        if not await self._run(lambda database: database.delete(response_id)):
            raise _response_not_found(response_id)

    def _look_up(self, database: ResponseDatabase, item_ids: set[str]) -> dict[str, Item]:
        wanted: dict[str, set[str]] = {}
        for item_id in item_ids:
            holder = database.holder(item_id)
            if holder is None:
                raise _item_not_found(item_id)
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
        if missing := item_ids - found.keys():
            raise _item_not_found(min(missing))
        return found

    def _chain(self, database: ResponseDatabase, response_id: str, param: str) -> list[StoredLink]:
        self._check_size(database.chain_bytes(response_id), param)
        return database.chain(response_id)

    def _check_size(self, num_bytes: int, param: str) -> None:
        if num_bytes > self._max_read_bytes:
            message = (
                f"What is kept of it is {num_bytes} bytes of JSON; one request may have {self._max_read_bytes} read."
            )
            raise InvalidRequestError(message, param=param, code="invalid_value")

    async def _run(self, work: Callable[[ResponseDatabase], T]) -> T:
        def work_in_thread() -> T:
            if self._database is None:
                self._database = self._open_database()
            return work(self._database)

        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work_in_thread)
        except (sqlite3.Error, OSError) as error:
            logger.error("the store of responses failed: %s", error)
            raise ServiceUnavailableError("The store of responses is not available; its log says why.") from error


def _json_of(items: Iterable[Item]) -> str:
    return _ITEMS.dump_json(list(items), exclude_unset=True, ensure_ascii=True).decode()


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
