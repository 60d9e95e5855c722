"""Server-sent events.

Stage: 7 SSE.
Owns: framing, when a silent stream says that it lives, and how a stream begins, fails and ends on the HTTP connection.
Does not know: what the events say.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncGenerator, Callable
from contextlib import aclosing
from typing import Any, Final

from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from gptoss_adapter.context import current_request_id
from gptoss_adapter.disconnect import until_disconnect
from gptoss_adapter.errors import ApiError, DrainingError, InternalError

logger = logging.getLogger(__name__)

DONE: Final = b"data: [DONE]\n\n"
KEEP_ALIVE: Final = b": keep-alive\n\n"
STREAMED: Final[dict[str, Any]] = {
    "description": "The answer, whole, or with `stream` as events that end with `[DONE]` or an error",
    "content": {"text/event-stream": {"schema": {"type": "string"}}},
}
"""What /openapi.json says of a route that can stream, beside the whole answer's model."""


def error_event(error: ApiError) -> bytes:
    """Return the event that ends a stream which cannot go on."""
    return b"data: " + error.body() + b"\n\n"


class EventStream(Response):
    """A response of events that are sent as they come.

    The first event is awaited before the headers go out, so an error until then is an ordinary error response. A later
    one becomes an error event, and so does one after a silence so long that a comment opened the stream. When the
    client goes away, the generator is cancelled where it waits. What says that a silent stream lives goes out between
    two events, and is asked for only then: it can be numbered with them.
    """

    media_type = "text/event-stream"

    def __init__(
        self,
        events: AsyncGenerator[bytes, None],
        keepalive_s: float,
        failure: Callable[[ApiError], bytes] = error_event,
        keep_alive: Callable[[], bytes] = lambda: KEEP_ALIVE,
        *,
        opens_itself: bool = False,
    ) -> None:
        """events: framed, one or more whole events an item; closed by this response.

        keepalive_s: `keep_alive` is sent when nothing else was for so long, so that no proxy takes the stream for dead.
        failure: how this kind of stream tells of the error that ends it.
        opens_itself: no silence before the first event, or the error in its place, is too long.
        """
        self.status_code = 200
        self.background = None
        self._events = events
        self._keepalive_s = keepalive_s
        self._failure = failure
        self._keep_alive = keep_alive
        self._opens_itself = opens_itself
        self._sending = asyncio.Lock()
        self._last_sent_at = 0.0
        # X-Accel-Buffering: nginx otherwise gathers events until its buffer is full
        self.init_headers({"Cache-Control": "no-cache", "X-Accel-Buffering": "no"})

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer the request. Raises ApiError, with nothing sent, if there is no first event."""
        async with until_disconnect(receive), aclosing(self._events):
            first = await self._begin()
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            keep_alive = asyncio.create_task(self._speak_when_silent(send), name="sse-keep-alive")
            try:
                await self._send_all(first, send)
            except asyncio.CancelledError:
                # either the client has gone and hears nothing, or this process is ending and says so
                await self._send(self._failure(DrainingError()), send)
            except ApiError as error:
                await self._send(self._failure(error), send)
            except Exception:
                logger.exception("a stream failed")
                await self._send(self._failure(InternalError(current_request_id())), send)
            finally:
                keep_alive.cancel()
            await send({"type": "http.response.body", "body": b"", "more_body": False})

    async def _begin(self) -> asyncio.Task[bytes]:
        """Wait for the first event, though no longer than a silence may last. Raises what comes in its place."""
        first = asyncio.create_task(self._next_event())
        try:
            await asyncio.wait({first}, timeout=None if self._opens_itself else self._keepalive_s)
        except asyncio.CancelledError:
            first.cancel()
            await asyncio.gather(first, return_exceptions=True)
            raise
        if first.done():
            first.result()
        return first

    async def _next_event(self) -> bytes:
        return await anext(self._events)

    async def _send_all(self, first: asyncio.Task[bytes], send: Send) -> None:
        if not first.done():
            await self._send(self._keep_alive(), send)
        await self._send(await first, send)
        async for event in self._events:
            await self._send(event, send)

    async def _send(self, event: bytes, send: Send) -> None:
        async with self._sending:
            await self._put(event, send)

    async def _put(self, event: bytes, send: Send) -> None:
        await send({"type": "http.response.body", "body": event, "more_body": True})
        self._last_sent_at = asyncio.get_running_loop().time()

    async def _speak_when_silent(self, send: Send) -> None:
        now = asyncio.get_running_loop().time
        self._last_sent_at = now()
        while True:
            await asyncio.sleep(self._last_sent_at + self._keepalive_s - now())
            async with self._sending:  # behind what a slow client is still to read there has been no silence
                if now() - self._last_sent_at >= self._keepalive_s:
                    await self._put(self._keep_alive(), send)
