"""The stream of a response that is made while its client reads.

Stage: 7 SSE.
Owns: which events tell of its beginning, its end and its failure; what is told before there is an answer.
Does not know: HTTP; how an answer is made (answering.py), how an event is framed (events.py).
"""

from __future__ import annotations

from collections.abc import AsyncGenerator

from gptoss_adapter.errors import ApiError, ContextLengthExceededError
from gptoss_adapter.responses.answering import Answering
from gptoss_adapter.responses.events import EventWriter


class ResponseStream:
    """The events of one response."""

    def __init__(self, answering: Answering) -> None:
        self._answering = answering
        self._events = EventWriter()

    async def framed(self) -> AsyncGenerator[bytes, None]:
        """Yield the events. Raises ApiError: before the first one, where the request itself is to be refused."""
        async with self._answering as answering:
            try:
                await answering.start()
            except ContextLengthExceededError:
                # Codex makes its conversation shorter where a response has failed by this, and gives up on a 400
                yield await self._begun()
                raise
            yield await self._begun()
            async for told in answering:
                if told:
                    yield self._events.write(told)
            ended = answering.end()
            response = await answering.kept()
            yield self._events.write(ended) + self._events.lifecycle(f"response.{response.status}", response)

    def failure(self, error: ApiError) -> bytes:
        """Return the events that end a stream: the error, and the failed response, where one was created."""
        if self._events.has_begun:
            return self._events.failure(error, self._answering.failed(error))
        return self._events.error(error)

    async def _begun(self) -> bytes:
        """Keep the response, where it is to be kept, and return the events that tell its id."""
        await self._answering.begin_to_keep()
        created = self._events.lifecycle("response.created", self._answering.response)
        return created + self._events.lifecycle("response.in_progress", self._answering.response)
