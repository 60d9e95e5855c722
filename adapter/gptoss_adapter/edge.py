"""The outermost layer of the app: what every HTTP request goes through, whatever its route.

Stage: 1 route.
Owns: the request id in and out, the limits on bodies, the last resort for errors, the log line.
Does not know: any route.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Iterator
from typing import Final

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gptoss_adapter.context import REQUEST_ID_HEADER, RequestRecord, begin_record
from gptoss_adapter.errors import ApiError, BodyTimeoutError, BodyTooLargeError, ClientGoneError
from gptoss_adapter.metrics import Metrics
from gptoss_adapter.validation import api_error_of

logger = logging.getLogger(__name__)

_QUIET_ROUTES: Final = frozenset({"/health", "/health/live", "/metrics"})
# a client may send any word for a method; the metrics keep to these
_METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})


class Edge:
    """ASGI middleware around the whole app."""

    def __init__(self, app: ASGIApp, max_body_bytes: int, body_timeout_s: float, metrics: Metrics) -> None:
        self._app = app
        self._max_body_bytes = max_body_bytes
        self._body_timeout_s = body_timeout_s
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        record = begin_record(headers.get(REQUEST_ID_HEADER))

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                record.status = message["status"]
                message["headers"] = [*message["headers"], *_headers(record)]
            await send(message)

        try:
            try:
                async with asyncio.timeout(self._body_timeout_s):
                    body = await self._read_body(headers, receive)
            except TimeoutError:
                raise BodyTimeoutError(self._body_timeout_s) from None
            await self._app(scope, _replay(body, receive), send_with_headers)
        except ApiError as error:
            await self._answer(error, record, scope, receive, send_with_headers)
        except Exception as error:
            logger.exception("unexpected error")
            await self._answer(error, record, scope, receive, send_with_headers)
        finally:
            self._tell(record, scope)

    async def _read_body(self, headers: Headers, receive: Receive) -> bytes:
        """Return the whole body. Raises BodyTooLargeError before reading more than is allowed, ClientGoneError."""
        declared = headers.get("content-length", "0")
        if declared.isascii() and declared.isdigit() and int(declared) > self._max_body_bytes:
            raise BodyTooLargeError(self._max_body_bytes)
        body = bytearray()
        more = True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientGoneError
            body += message.get("body", b"")
            more = message.get("more_body", False)
            if len(body) > self._max_body_bytes:
                raise BodyTooLargeError(self._max_body_bytes)
        return bytes(body)

    async def _answer(
        self, error: Exception, record: RequestRecord, scope: Scope, receive: Receive, send: Send
    ) -> None:
        if record.status:
            raise error  # the response has begun: all that is left is to break the connection
        await api_error_of(error, Request(scope)).response()(scope, receive, send)

    def _tell(self, record: RequestRecord, scope: Scope) -> None:
        route = getattr(scope.get("route"), "path", "unmatched")
        method = scope["method"] if scope["method"] in _METHODS else "other"
        self._metrics.http_responses.labels(route, method, record.status).inc()
        level = logging.DEBUG if route in _QUIET_ROUTES else logging.INFO
        if logger.isEnabledFor(level):
            duration_ms = round((time.perf_counter() - record.started_at) * 1000, 1)
            notes = "".join(f" {name}={value}" for name, value in record.notes.items())
            line = "%s %s %d duration_ms=%s%s"
            logger.log(level, line, scope["method"], scope["path"], record.status, duration_ms, notes)


def _headers(record: RequestRecord) -> Iterator[tuple[bytes, bytes]]:
    """Yield what every response says of itself. The time is that until its head: a stream's answer has just begun."""
    processing_ms = round((time.perf_counter() - record.started_at) * 1000)
    yield REQUEST_ID_HEADER.encode(), record.request_id.encode()
    yield b"openai-processing-ms", str(processing_ms).encode()


def _replay(body: bytes, receive: Receive) -> Receive:
    """Return a channel that gives the body, then whatever `receive` gives."""
    pending: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def replay() -> Message:
        return pending.pop() if pending else await receive()

    return replay
