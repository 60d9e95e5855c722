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
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Final, Self, TypeVar

from pydantic import TypeAdapter

from gptoss_adapter.errors import InvalidRequestError, NotFoundError, ServiceUnavailableError
from gptoss_adapter.responses.database import ResponseDatabase, StoredResponse
from gptoss_adapter.responses.ids import is_unguessable
from gptoss_adapter.schemas.response_answers import ListedItem, ResponseObject
from gptoss_adapter.schemas.response_items import Item
from gptoss_backend.settings import Settings

logger = logging.getLogger(__name__)

T = TypeVar("T")

FILE_NAME: Final = "responses.sqlite"
"""In the run directory, where no path is set."""
_SECONDS_A_DAY: Final = 24 * 60 * 60
_ITEMS: Final[TypeAdapter[list[Item]]] = TypeAdapter(list[ListedItem])


class ResponseStore:
    """Responses by id. Every method but `close` raises ApiError; none blocks the event loop.

    The file is opened on first use, and again on the next use where that failed.
    """

    def __init__(self, open_database: Callable[[], ResponseDatabase]) -> None:
        """open_database: called in the store's own thread. Raises sqlite3.Error or OSError."""
        self._open_database = open_database
        self._database: ResponseDatabase | None = None  # touched by the thread only
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="response-store")

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """Return the store that `settings` ask for."""
        adapter = settings.adapter
        path = adapter.responses_path or settings.server.run_dir / FILE_NAME
        keep_s = adapter.responses_keep_days * _SECONDS_A_DAY
        return cls(lambda: ResponseDatabase(path, keep_s=keep_s, max_bytes=adapter.responses_max_bytes))

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
            input=_ITEMS.dump_json(list(own_input), exclude_unset=True, ensure_ascii=True).decode(),
        )
        # by an id that anybody may think of, another client's item could be had, or put in this one's place
        item_ids = [item.id for item in (*own_input, *response.output) if item.id and is_unguessable(item.id)]
        await self._run(lambda database: database.save(stored, item_ids))

    async def response(self, response_id: str) -> bytes:
        """Return a response as it was answered, as JSON. Raises NotFoundError."""
        stored = await self._run(lambda database: database.load(response_id))
        if stored is None:
            raise _response_not_found(response_id)
        return f'{stored.response[:-1]},"output":{stored.output}}}'.encode()

    async def conversation(self, response_id: str) -> list[Item]:
        """Return what the response was made from and what it gave. Raises InvalidRequestError where some is missing."""
        links = await self._run(lambda database: database.chain(response_id))
        missing = links[0].previous_id if links else response_id
        if missing is not None:
            raise InvalidRequestError(
                f"Previous response with id '{missing}' not found.",
                param="previous_response_id",
                code="previous_response_not_found",
            )
        return [item for link in links for text in (link.input, link.output) for item in _ITEMS.validate_json(text)]

    async def input_items(self, response_id: str) -> list[Item]:
        """Return what the response was made from, as far as it is kept. Raises NotFoundError."""
        links = await self._run(lambda database: database.chain(response_id))
        if not links:
            raise _response_not_found(response_id)
        texts = [text for link in links for text in (link.input, link.output)][:-1]  # without its own output
        return [item for text in texts for item in _ITEMS.validate_json(text)]

    async def item(self, item_id: str) -> Item:
        """Return an item of a response that is kept. Raises NotFoundError."""
        link = await self._run(lambda database: database.holder(item_id))
        for text in (link.output, link.input) if link else ():
            for item in _ITEMS.validate_json(text):
                if item.id == item_id:
                    return item
        message = (
            f"Item with id '{item_id}' not found. An item is found by an id that was made here, "
            "while a response that holds it is kept ('store')."
        )
        raise NotFoundError(message, param="input", code="item_not_found")

    async def delete(self, response_id: str) -> None:
        """Forget a response. Raises NotFoundError."""
        if not await self._run(lambda database: database.delete(response_id)):
            raise _response_not_found(response_id)

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


def _response_not_found(response_id: str) -> NotFoundError:
    return NotFoundError(f"Response with id '{response_id}' not found.", param="response_id", code="response_not_found")
