"""A response's stream, taken up where a client left it.

Stage: 7 SSE.
Owns: where the events come from: the maker's memory while it is under way here, then the file; who may ask for them.
Does not know: how events are remembered and packed (event_log.py), HTTP.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from contextlib import aclosing
from typing import Final

from gptoss_adapter.errors import ApiError, InvalidRequestError, invalid_value
from gptoss_adapter.responses.background import BackgroundResponses
from gptoss_adapter.responses.event_log import EventLog, NumberedEvents, events_after
from gptoss_adapter.responses.events import EventWriter
from gptoss_adapter.responses.keeping.store import ResponseStore
from gptoss_adapter.responses.told_again import Telling
from gptoss_adapter.sse import KEEP_ALIVE

_LOOK_PERIOD_S: Final = 0.5
"""At a response that another process makes."""


class ResumedStream:
    """The events of one response after a given one."""

    def __init__(self, events: AsyncGenerator[NumberedEvents, None], after: int) -> None:
        self._events = events
        self._last_number = after
        self._has_told = False

    @classmethod
    def of_log(cls, log: EventLog, after: int = -1) -> ResumedStream:
        """Return the stream of a response under way here. Raises InvalidRequestError."""
        if after >= log.next_number:
            message = f"'starting_after' is {after}; the response has come to event {log.next_number - 1}."
            raise invalid_value(message, "starting_after")
        return cls(log.after(after), after)

    @classmethod
    async def of(
        cls, response_id: str, after: int, telling: Telling, background: BackgroundResponses, store: ResponseStore
    ) -> ResumedStream:
        """Return the stream of a response that is kept. Raises ApiError.

        telling: what its end tells where it is read from the file; other events are as they were.
        """
        await store.response(response_id)  # there may be none, or it is another's
        made_here = background.find(response_id)
        if made_here is not None and made_here.events is not None:
            return cls.of_log(made_here.events, after)
        if not await store.events(response_id):
            message = (
                "Only a response that was created with 'background' and 'stream' can be streamed again; "
                "retrieve it without 'stream'."
            )
            raise InvalidRequestError(message, param="stream", code="unsupported_parameter")
        return cls(_kept_events(response_id, after, telling, store), after)

    async def framed(self) -> AsyncGenerator[bytes, None]:
        """Yield the events. Raises ApiError."""
        async with aclosing(self._events) as events:
            async for framed, number in events:
                self._last_number, self._has_told = number, True
                yield framed

    def keep_alive(self) -> bytes:
        """Return what says that the stream lives: a comment before its first event, which OpenAI's clients need first.

        Its number is that of the last event before it, as in `failure`.
        """
        return EventWriter(self._last_number).keep_alive() if self._has_told else KEEP_ALIVE

    def failure(self, error: ApiError) -> bytes:
        """Return the event that ends the stream before the response has ended.

        Its number is that of the last event before it: by any number that it has seen a client can take the stream up.
        """
        return EventWriter(max(0, self._last_number)).error(error)


async def _kept_events(
    response_id: str, after: int, telling: Telling, store: ResponseStore
) -> AsyncGenerator[NumberedEvents, None]:
    """Yield the events of a response once it has ended: another process that makes it does not share them before."""
    while (kept := await store.response(response_id)).is_under_way:
        await asyncio.sleep(_LOOK_PERIOD_S)
    number = after
    for chunk in await store.events(response_id):
        framed, last = events_after(number, chunk)
        if framed:
            yield framed, last
        number = max(number, last)
    # what a process that is gone did not keep is in no chunk: who has seen it is told the end all the same
    writer = EventWriter(number + 1)
    error = b"" if kept.given_up_by is None else writer.error(kept.given_up_by)
    yield error + writer.last(kept.document(telling)), writer.next_number - 1
