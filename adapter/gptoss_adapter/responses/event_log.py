"""The events of a response whose stream can be taken up again.

Stage: 7 SSE.
Owns: which events are remembered, how they are packed, who waits for the next ones.
Does not know: what an event says; where packed events are kept (keeping/progress.py).
"""

from __future__ import annotations

import asyncio
import zlib
from bisect import bisect_right
from collections.abc import AsyncGenerator, Iterable, Iterator
from typing import Final, TypeAlias

from gptoss_adapter.errors import ApiError, invalid_value
from gptoss_adapter.responses.events import EventWriter
from gptoss_adapter.responses.keeping.progress import EventChunk
from gptoss_adapter.responses.open_items import Event
from gptoss_adapter.schemas.response_answers import ResponseObject

_CHUNK_BYTES: Final = 32 * 1024
"""Packing as much takes half a millisecond."""
_MAX_PACKED_BYTES: Final = 4 * 1024 * 1024
"""Of one response. An event of a token takes some 20 bytes packed: a whole context of them fits."""
_END: Final = b"\n\n"
"""Of an event; nowhere within one, since JSON escapes it."""
_LEVEL: Final = 1

NumberedEvents: TypeAlias = tuple[bytes, int]
"""Some events, framed, and the number of the last."""


class EventLog:
    """The events of one response, as they come. Used by the event loop's thread only.

    The first ones are forgotten where all of them would be too many.
    """

    def __init__(self) -> None:
        self._writer = EventWriter()
        self._packed: list[EventChunk] = []
        self._num_packed_bytes = 0
        self._newest: list[bytes] = []
        self._newest_first = 0
        self._num_newest_bytes = 0
        self._is_over = False
        self._changed = asyncio.Event()

    @property
    def next_number(self) -> int:
        """The number that the next event will have."""
        return self._writer.next_number

    def write(self, events: Iterable[Event]) -> None:
        """Add events."""
        self._add(self._writer.write(events))

    def lifecycle(self, kind: str, response: ResponseObject) -> None:
        """Add the event that shows the whole response as it is now."""
        self._add(self._writer.lifecycle(kind, response))

    def error(self, error: ApiError) -> None:
        """Add the event that tells why the response is about to end."""
        self._add(self._writer.error(error))

    def end(self, response: ResponseObject) -> None:
        """Add the event that shows how the response ended: nothing follows."""
        self._is_over = True
        self._add(self._writer.last(response.model_dump(mode="json", exclude_unset=True)))

    def chunks(self) -> list[EventChunk]:
        """Return all that is remembered, packed."""
        return [*self._packed, *self._newest_packed()]

    async def after(self, number: int) -> AsyncGenerator[NumberedEvents, None]:
        """Yield the events after that one, then those that come, to the last. Raises InvalidRequestError."""
        while True:
            changed = self._changed
            while number < self.next_number - 1:
                framed, number = self._some_after(number)
                yield framed, number
            if self._is_over:
                return
            await changed.wait()

    def _some_after(self, number: int) -> NumberedEvents:
        if number + 1 >= self._newest_first:
            return b"".join(self._newest[number + 1 - self._newest_first :]), self.next_number - 1
        at = bisect_right(self._packed, number + 1, key=lambda chunk: chunk.first_number)
        return events_after(number, self._packed[max(0, at - 1)])

    def _add(self, framed: bytes) -> None:
        self._newest += _events_of(framed)
        self._num_newest_bytes += len(framed)
        if self._num_newest_bytes >= _CHUNK_BYTES:
            self._pack()
        self._changed.set()
        self._changed = asyncio.Event()

    def _pack(self) -> None:
        for chunk in self._newest_packed():
            self._packed.append(chunk)
            self._num_packed_bytes += len(chunk.packed)
        self._newest, self._newest_first, self._num_newest_bytes = [], self.next_number, 0
        while self._num_packed_bytes > _MAX_PACKED_BYTES:
            self._num_packed_bytes -= len(self._packed.pop(0).packed)

    def _newest_packed(self) -> Iterator[EventChunk]:
        if self._newest:
            yield EventChunk(self._newest_first, zlib.compress(b"".join(self._newest), _LEVEL))


def events_after(number: int, chunk: EventChunk) -> NumberedEvents:
    """Return those events of a chunk that come after one.

    Raises InvalidRequestError where some between are forgotten.
    """
    if number + 1 < chunk.first_number:
        message = (
            f"The events from {number + 1} to {chunk.first_number - 1} are not kept: the response had too many. "
            "Retrieve it without 'stream'."
        )
        raise invalid_value(message, "starting_after")
    events = _events_of(zlib.decompress(chunk.packed))
    return b"".join(events[number + 1 - chunk.first_number :]), chunk.first_number + len(events) - 1


def _events_of(framed: bytes) -> list[bytes]:
    return [event + _END for event in framed.split(_END)[:-1]]
