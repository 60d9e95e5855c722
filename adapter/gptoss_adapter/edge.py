"""The outermost layer of the app: what every HTTP request goes through, whatever its route.

Stage: 1 route.
Owns: the request id in and out, the limits on bodies, the answer to every error, the log line.
Does not know: what a route does.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Final

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gptoss_adapter.admission import Admission
from gptoss_adapter.context import KEY_NOTE, PROFILE_HEADER, REQUEST_ID_HEADER, RequestRecord, begin_record
from gptoss_adapter.drain import Drain
from gptoss_adapter.error_answers import error_response
from gptoss_adapter.errors import (
    ApiError,
    BodyTimeoutError,
    BodyTooLargeError,
    ClientGoneError,
    DrainingError,
    TooManyRequestsError,
)
from gptoss_adapter.logs import fields
from gptoss_adapter.metrics import Metrics
from gptoss_adapter.paths import OPERATORS, speaks_anthropic
from gptoss_adapter.stats_activity import COMPLETED
from gptoss_backend.settings import AdapterSettings

logger = logging.getLogger(__name__)

_MAX_LOGGED_BYTES: Final = 64 * 1024
_BODIES_ARRIVING: Final = 16
"""Of the largest size, that one client may have arriving at once."""
_FREE_BYTES: Final = 64 * 1024
"""Of each body, that are not counted: what others send slowly keeps no chat out."""
_LINGER_S: Final = 1.0
"""For the rest of a refused request's body: a client that is amid sending it would not read the answer."""
# a client may send any word for a method; the metrics keep to these
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Edge:
    """ASGI middleware around the whole app."""

    def __init__(
        self, app: ASGIApp, settings: AdapterSettings, admission: Admission, drain: Drain, metrics: Metrics
    ) -> None:
        self._app = app
        self._settings = settings
        self._admission = admission
        self._drain = drain
        self._metrics = metrics
        self._num_arriving: Counter[str] = Counter()
        """Bytes of bodies that are not whole yet, by their key's name."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        record = begin_record(headers.get(REQUEST_ID_HEADER))
        content = Content() if self._settings.log_content and scope["method"] == "POST" else None
        incoming = Incoming(receive)
        send = self._with_headers(send, record, scope, content, incoming)
        try:
            await self._serve(scope, headers, record, content, incoming, send)
        except asyncio.CancelledError:
            if record.status or not self._drain.has_cut:
                raise
            await self._answer(DrainingError(), record, scope, incoming, send)
        except ApiError as error:
            await self._answer(error, record, scope, incoming, send)
        except Exception as error:
            logger.exception("unexpected error")
            await self._answer(error, record, scope, incoming, send)
        finally:
            self._tell(record, scope, content)

    async def _serve(
        self,
        scope: Scope,
        headers: Headers,
        record: RequestRecord,
        content: Content | None,
        receive: Incoming,
        send: Send,
    ) -> None:
        key = self._admission.key_of(scope, headers)
        if key is not None:
            record.notes[KEY_NOTE] = key.name
            record.may_hurry = key.is_urgent
        self._admission.check_room(scope, key)
        body = await self._read_in_time(headers, receive, "" if key is None else key.name)
        if content is not None:
            content.request.add(body)
        replay = _replay(body, receive)
        del body  # whoever reads it has it then: an answer may take minutes
        with self._admission.request(scope, key, record):
            await self._app(scope, replay, send)
        if record.notes.get("outcome") in COMPLETED:
            self._admission.note_duration(time.perf_counter() - record.started_at)

    async def _read_in_time(self, headers: Headers, receive: Receive, client: str) -> bytes:
        """Return the whole body. client: whose it is.

        Raises BodyTimeoutError, BodyTooLargeError before reading more than is allowed, TooManyRequestsError,
        ClientGoneError.
        """
        try:
            async with asyncio.timeout(self._settings.body_timeout_s):
                return await self._read_body(headers, receive, client)
        except TimeoutError:
            raise BodyTimeoutError(self._settings.body_timeout_s) from None

    async def _read_body(self, headers: Headers, receive: Receive, client: str) -> bytes:
        declared = headers.get("content-length", "0")
        if declared.isascii() and declared.isdigit() and int(declared) > self._settings.max_body_bytes:
            raise BodyTooLargeError(self._settings.max_body_bytes)
        body = bytearray()
        more = True
        num_counted = 0
        try:
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    raise ClientGoneError
                body += message.get("body", b"")
                more = message.get("more_body", False)
                if len(body) > self._settings.max_body_bytes:
                    raise BodyTooLargeError(self._settings.max_body_bytes)
                num_new = max(0, len(body) - _FREE_BYTES) - num_counted
                num_counted += num_new
                self._num_arriving[client] += num_new
                if more and self._num_arriving[client] > _BODIES_ARRIVING * self._settings.max_body_bytes:
                    raise TooManyRequestsError("Too many large request bodies are arriving at once.", retry_after_s=1)
            return bytes(body)
        finally:
            self._num_arriving[client] -= num_counted
            body.clear()  # an error's traceback holds on to it for as long as the refusal takes

    async def _answer(
        self, error: Exception, record: RequestRecord, scope: Scope, receive: Incoming, send: Send
    ) -> None:
        if record.status:
            raise error  # the response has begun: all that is left is to break the connection
        if isinstance(error, TooManyRequestsError) and error.retry_after_s is None:
            error.headers["Retry-After"] = str(self._admission.retry_after_s())
        if not isinstance(error, BodyTimeoutError) and b"expect" not in dict(scope["headers"]):
            await receive.drop_rest(_LINGER_S)
        await error_response(error, Request(scope))(scope, receive, send)

    def _tell(self, record: RequestRecord, scope: Scope, content: Content | None) -> None:
        route = getattr(scope.get("route"), "path", "unmatched")
        method = scope["method"] if scope["method"] in _METHODS else "other"
        self._metrics.http_responses.labels(route, method, record.status).inc()
        level = logging.DEBUG if route in OPERATORS else logging.INFO
        if logger.isEnabledFor(level):
            told = {"duration_ms": round((time.perf_counter() - record.started_at) * 1000, 1), **record.notes}
            if content is not None:
                told |= {"request": content.request.text, "answer": content.answer.text}
            # as it was sent: decoded, it could hold a line's end, and what looks like another line
            path = scope.get("raw_path", b"").decode("ascii", "backslashreplace")
            head = {"method": scope["method"], "path": path, "status": record.status}
            logger.log(level, "%s %s %d", *head.values(), extra=fields(told, in_message=head))

    def _with_headers(
        self, send: Send, record: RequestRecord, scope: Scope, content: Content | None, incoming: Incoming
    ) -> Send:
        """Return the channel of the response, which takes note of what passes and adds what every response says."""

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                headers_before = message["headers"]
                message["headers"] = [*headers_before, *self._headers(record, scope, incoming, dict(headers_before))]
            elif content is not None:
                content.answer.add(message.get("body", b""))
            await send(message)

        return send_with_headers

    def _headers(
        self, record: RequestRecord, scope: Scope, incoming: Incoming, said: Mapping[bytes, bytes]
    ) -> Iterator[tuple[bytes, bytes]]:
        """Yield what every response says of itself. The time is that until its head: a stream has just begun.

        said: the headers that it has anyway.
        """
        processing_ms = round((time.perf_counter() - record.started_at) * 1000)
        yield REQUEST_ID_HEADER.encode(), record.request_id.encode()
        if speaks_anthropic(scope["path"]):
            yield b"request-id", record.request_id.encode()  # where its clients look
        yield b"openai-processing-ms", str(processing_ms).encode()
        if (profile := record.notes.get("profile")) is not None:
            yield PROFILE_HEADER.encode(), str(profile).encode()
        if record.status >= 400 and not record.may_be_repeated and b"x-should-retry" not in said:
            yield b"x-should-retry", b"false"  # OpenAI's clients go by it
        if self._drain.has_begun or not incoming.is_over:
            # another server behind the same address may take the next request: not on this connection; nor is a body
            # waited for that nobody reads
            yield b"connection", b"close"


class Incoming:
    """The channel of a request's body, and whether it has been read to its end."""

    def __init__(self, receive: Receive) -> None:
        self._receive = receive
        self.is_over = False

    async def __call__(self) -> Message:
        """Return the next message."""
        message = await self._receive()
        self.is_over = self.is_over or not message.get("more_body", False)
        return message

    async def drop_rest(self, timeout_s: float) -> None:
        """Read what is left of the body and keep nothing of it; give up after a while."""
        with suppress(TimeoutError):
            async with asyncio.timeout(timeout_s):
                while not self.is_over:
                    await self()


class Excerpt:
    """The beginning of a body, for the log."""

    def __init__(self) -> None:
        self._kept = bytearray()
        self._num_more = 0

    def add(self, part: bytes) -> None:
        """Take the next part."""
        room = _MAX_LOGGED_BYTES - len(self._kept)
        self._kept += part[:room]
        self._num_more += max(0, len(part) - room)

    @property
    def text(self) -> str:
        """As far as it is kept."""
        more = f" … {self._num_more} bytes more" if self._num_more else ""
        return self._kept.decode(errors="replace") + more


@dataclass(slots=True)
class Content:
    """What a request said and what it was told, where `adapter.log_content` asks for that."""

    request: Excerpt = field(default_factory=Excerpt)
    answer: Excerpt = field(default_factory=Excerpt)


def _replay(body: bytes, receive: Receive) -> Receive:
    """Return a channel that gives the body, then whatever `receive` gives."""
    pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return pending.pop() if pending else await receive()

    return replay
