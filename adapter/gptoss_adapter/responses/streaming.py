"""The stream of a response that is made while its client reads.

Stage: 7 SSE.
Owns: which events tell of its beginning, its end and its failure; when it is told before there is an answer.
Does not know: HTTP; how an answer is made (answering.py), how an event is framed (events.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

from gptoss_adapter.errors import ApiError, ContextLengthExceededError
from gptoss_adapter.responses.answering import Answering
from gptoss_adapter.responses.events import EventWriter


class ResponseStream:
    """The events of one response."""

    def __init__(self, answering: Answering, opens_within_s: float) -> None:
        """opens_within_s: so long a request may still be refused; then the response is told, whatever comes of it."""
        self._answering = answering
        self._opens_within_s = opens_within_s
        self._events = EventWriter()

    async def framed(self) -> AsyncGenerator[bytes, None]:
        """Yield the events. Raises ApiError: before the first one, where the request itself is to be refused."""
        async with self._answering as answering, _running(answering) as starting:
            await asyncio.wait({starting}, timeout=self._opens_within_s)
            if not _is_refused(starting):
                await answering.begin_to_keep()
                created = self._events.lifecycle("response.created", answering.response)
                yield created + self._events.lifecycle("response.in_progress", answering.response)
            await starting
            async for told in answering:
                if told:
                    yield self._events.write(told)
            ended = answering.end()
            response = await answering.kept()
            yield self._events.write(ended) + self._events.lifecycle(f"response.{response.status}", response)

    def keep_alive(self) -> bytes:
        """Return the event that says that the stream lives, behind the first ones."""
        return self._events.keep_alive()

    def failure(self, error: ApiError) -> bytes:
        """Return the events that end a stream, behind the first ones: the error, and the response that it ended."""
        return self._events.failure(error, self._answering.failed(error))


@asynccontextmanager
async def _running(answering: Answering) -> AsyncIterator[asyncio.Task[None]]:
    """Start the answer in a task that does not outlive this."""
    starting = asyncio.create_task(answering.start(), name="response-start")
    try:
        yield starting
    finally:
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)


def _is_refused(starting: asyncio.Task[None]) -> bool:
    """Return whether there is no response to tell of, since its request is an error.

    One that is too long is a response that failed, as OpenAI's server has it: not every Codex knows that of a 400.
    """
    error = starting.exception() if starting.done() else None
    return error is not None and not isinstance(error, ContextLengthExceededError)
