"""Responses that are made whether or not their clients stay.

Stage: 2 validate … 7 SSE, in tasks of their own.
Owns: which are under way in this process, how many may be; their end, by a client's wish or the process's.
Does not know: HTTP; how an answer is made (answering.py) and kept (keeping/store.py).
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Coroutine
from typing import Any, Final

from gptoss_adapter.context import RequestRecord
from gptoss_adapter.drain import Drain
from gptoss_adapter.errors import ApiError, DrainingError, ServiceUnavailableError, TooManyRequestsError
from gptoss_adapter.logs import fields
from gptoss_adapter.responses.answering import Answering
from gptoss_adapter.responses.event_log import EventLog
from gptoss_adapter.responses.keeping.progress import RENEWAL_PERIOD_S
from gptoss_adapter.responses.keeping.store import ResponseStore

logger = logging.getLogger(__name__)

_TASK_NAME: Final = "background-response"


class BackgroundResponse:
    """One response."""

    def __init__(self, answering: Answering, *, streamed: bool) -> None:
        self.answering = answering
        self.events = answering.events = EventLog() if streamed else None
        self._task: asyncio.Task[None] | None = None
        self._is_cancelled = False
        self._is_ending = False

    async def begin(self) -> None:
        """Keep it as queued, its conversation held. Raises ApiError."""
        await self.answering.hold_conversation()
        for kind in ("response.created", "response.queued"):
            self._tell(kind)
        try:
            await self.answering.begin_to_keep()
        except BaseException:
            await self.answering.let_conversation_go()
            raise

    def run(self, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run `work`, which calls `make`, in a task, and return that."""
        self._task = asyncio.create_task(work, name=_TASK_NAME)
        return self._task

    async def make(self) -> None:
        """Make it, whatever comes of that."""
        try:
            async with self.answering:
                await self._answer_or_end()
        except ApiError:
            pass  # the response tells of it
        except asyncio.CancelledError:
            if not self._is_cancelled:
                raise
        except Exception:
            logger.exception("a response in the background failed")
        finally:
            if self.events is not None:
                self.events.end(self.answering.response)

    async def cancel(self) -> None:
        """End it, unless it is about to end by itself, and wait until it has."""
        if self._task is not None:
            if not self._is_ending:
                self._is_cancelled = True
                self._task.cancel()
            await asyncio.wait({self._task})

    async def stop(self) -> None:
        """End it with the process, and wait until it has."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait({self._task})

    async def _answer_or_end(self) -> None:
        try:
            await self._answer()
        except asyncio.CancelledError:
            if self._is_cancelled:
                raise
            raise DrainingError from None  # nobody else ends it

    async def _answer(self) -> None:
        answering = self.answering
        await answering.start()
        await answering.leave_queue()
        self._tell("response.in_progress")
        async for told in answering:
            if self.events is not None:
                self.events.write(told)
        ended = answering.end()
        if self.events is not None:
            self.events.write(ended)
        self._is_ending = True
        await answering.kept()

    def _tell(self, kind: str) -> None:
        if self.events is not None:
            self.events.lifecycle(kind, self.answering.response)


class BackgroundResponses:
    """Those under way in this process. Used by the event loop's thread only."""

    def __init__(self, store: ResponseStore, drain: Drain, max_under_way: int) -> None:
        self._store = store
        self._drain = drain
        self._max_under_way = max_under_way
        self._under_way: dict[str, BackgroundResponse] = {}

    async def begin(self, answering: Answering, record: RequestRecord, *, streamed: bool) -> BackgroundResponse:
        """Begin to make a response and return it once it is kept as queued.

        record: of its request, whose place among those of its key it takes over.
        Raises ApiError: TooManyRequestsError, ServiceUnavailableError, and where its conversation is not to be had.
        """
        if len(self._under_way) >= self._max_under_way:
            message = (
                f"{len(self._under_way)} responses are under way in the background, as many as may be "
                "(adapter.max_background_responses). Try again when one ends."
            )
            raise TooManyRequestsError(message)
        response_id, begun = answering.response.id, BackgroundResponse(answering, streamed=streamed)
        self._under_way[response_id] = begun
        try:
            await begun.begin()
        except BaseException:
            del self._under_way[response_id]
            raise
        counted = record.counted.pop_all()
        record.goes_on = task = begun.run(self._make(begun, record))

        def end(_: asyncio.Task[None]) -> None:
            # not in the task itself, which runs none of its lines where it is cancelled before the first
            counted.close()
            del self._under_way[response_id]

        task.add_done_callback(end)
        return begun

    def find(self, response_id: str) -> BackgroundResponse | None:
        """Return a response if it is under way here."""
        return self._under_way.get(response_id)

    async def watch(self) -> None:
        """Say, for ever, that what is under way here still is; end what was deleted or cancelled elsewhere."""
        while True:
            await asyncio.sleep(RENEWAL_PERIOD_S)
            with contextlib.suppress(ServiceUnavailableError):  # the store has told of it
                for response_id in await self._store.renew():
                    if (lost := self.find(response_id)) is not None:
                        await lost.cancel()

    async def close(self) -> None:
        """End what is under way, with the process."""
        await asyncio.gather(*(one.stop() for one in self._under_way.values()))

    async def _make(self, response: BackgroundResponse, record: RequestRecord) -> None:
        with self._drain.request():
            await response.make()
        ended = response.answering.response
        told = {"duration_ms": round((time.perf_counter() - record.started_at) * 1000, 1), **record.notes}
        del told["response_id"]
        head = {"response_id": ended.id, "status": ended.status}
        logger.info("background response %s %s", *head.values(), extra=fields(told, in_message=head))
