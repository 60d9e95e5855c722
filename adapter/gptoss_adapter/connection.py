"""One client's connection: what it may send before there is a request, and how long it may leave its answer lying.

Stage: before 1 route, and after 7 SSE.
Owns: the limits on a request's head and trailers, in bytes and seconds; the end of a client that takes nothing.
Does not know: bodies (edge.py), what is sent.

uvicorn bounds neither. Once it is over, a request whose client was cut off here looks like any whose client went away.
"""

from __future__ import annotations

import asyncio
import socket
from dataclasses import dataclass
from typing import Final

from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from gptoss_adapter.errors import ApiError, HeadersTooLargeError, InvalidRequestError

_MAX_UNSENT_BYTES: Final = 64 * 1024


@dataclass(frozen=True, slots=True)
class ConnectionLimits:
    """What a client is allowed."""

    max_header_bytes: int
    header_timeout_s: float
    write_timeout_s: float


def connection_class(limits: ConnectionLimits) -> type[asyncio.Protocol]:
    """Return the class of which uvicorn makes one instance a connection."""
    return type("LimitedConnection", (Connection,), {"limits": limits})


class _RefusedError(Exception):
    """Leaves the parser, which has no other way to stop."""


class Connection(HttpToolsProtocol):
    """uvicorn's connection, with limits."""

    limits: ConnectionLimits

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin to wait for the first request's head."""
        self._head_timer: asyncio.TimerHandle | None = None
        self._write_timer: asyncio.TimerHandle | None = None
        self._bare_bytes = 0
        """Of what has arrived since a head was complete or a part of a body came."""
        self._has_advanced = False
        self._is_head_over = self._is_message_over = False
        self._refusal: ApiError = InvalidRequestError("This is not a request in HTTP/1.1.", code="invalid_http")
        super().connection_made(transport)  # type: ignore[arg-type]
        if hasattr(socket, "TCP_NOTSENT_LOWAT"):
            # else Linux holds megabytes back for each reader, and takes more only once a third of them have gone
            connection = transport.get_extra_info("socket")
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, _MAX_UNSENT_BYTES)
        self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """Let go of the timers."""
        self._head_arrived()
        self._stop_watching()
        super().connection_lost(exc)

    # --- the head ---------------------------------------------------------------------------------------------------

    def data_received(self, data: bytes) -> None:
        """Take what has arrived."""
        self._has_advanced = False
        super().data_received(data)
        # chunks' sizes, trailers, line ends before a head: each read of them is small, but they need never end
        self._bare_bytes = 0 if self._has_advanced else self._bare_bytes + len(data)
        if self._bare_bytes > self.limits.max_header_bytes and not self.transport.is_closing():
            self._refuse_head()
            self.send_400_response("")
        if self._is_idle and self._head_timer is None and self.timeout_keep_alive_task is None:
            self._await_head()  # what has arrived begins no head, but has ended uvicorn's wait for one

    def on_message_begin(self) -> None:
        """A head begins, on a connection that was idle or behind the request before."""
        super().on_message_begin()
        self._is_head_over = self._is_message_over = False
        if self._head_timer is None:
            self._await_head()

    def on_header(self, name: bytes, value: bytes) -> None:
        """A field has arrived: of the head, or behind a body, where nobody asks for it."""
        if not self._is_head_over:
            super().on_header(name, value)

    def on_headers_complete(self) -> None:
        """A head has arrived. Raises what the parser passes on as an error in the request."""
        self._head_arrived()
        self._is_head_over = self._has_advanced = True
        length = len(self.url) + sum(len(name) + len(text) for name, text in self.headers)
        if length > self.limits.max_header_bytes:
            self._refuse_head()
            raise _RefusedError
        self._stop_watching()
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """A part of a body has arrived."""
        self._has_advanced = True
        super().on_body(body)

    def on_message_complete(self) -> None:
        """A request is at its end."""
        self._is_message_over = True
        super().on_message_complete()

    @property
    def _is_idle(self) -> bool:
        return self._is_message_over and self.cycle.response_complete and not self.transport.is_closing()

    def send_400_response(self, msg: str) -> None:
        """Refuse a request that never became one, and close."""
        if self.cycle is not None and not self.cycle.response_complete:
            self.transport.abort()  # an answer is under way: nothing can be said in the midst of it
            return
        body = self._refusal.body()
        fields = {"content-type": "application/json", "content-length": len(body), "connection": "close"}
        head = "".join(f"{name}: {value}\r\n" for name, value in fields.items())
        self.transport.write(STATUS_LINE[self._refusal.status] + head.encode() + b"\r\n" + body)
        self.transport.close()

    def _await_head(self) -> None:
        self._bare_bytes = 0
        self._head_timer = self.loop.call_later(self.limits.header_timeout_s, self._head_is_late)

    def _head_arrived(self) -> None:
        if self._head_timer is not None:
            self._head_timer.cancel()
            self._head_timer = None

    def _head_is_late(self) -> None:
        self._head_timer = None
        self.transport.abort()

    def _refuse_head(self) -> None:
        self._refusal = HeadersTooLargeError(self.limits.max_header_bytes)

    # --- the answer -------------------------------------------------------------------------------------------------

    def pause_writing(self) -> None:
        """Answers pile up here, because the client does not take them."""
        super().pause_writing()
        self._watch_writing()

    def resume_writing(self) -> None:
        """The client took most of what lay here."""
        super().resume_writing()
        self._stop_watching()
        if self.cycle.response_complete:
            self._watch_writing()

    def on_response_complete(self) -> None:
        """An answer is written, though its end may lie here."""
        super().on_response_complete()
        self._watch_writing()

    def _watch_writing(self) -> None:
        num_bytes = self.transport.get_write_buffer_size()
        if num_bytes and self._write_timer is None:
            self._write_timer = self.loop.call_later(self.limits.write_timeout_s, self._look_at_writing, num_bytes)

    def _stop_watching(self) -> None:
        if self._write_timer is not None:
            self._write_timer.cancel()
            self._write_timer = None

    def _look_at_writing(self, num_bytes_before: int) -> None:
        self._write_timer = None
        # a paused writer adds nothing, nor does one that is done: what is no less was not touched
        if self.transport.get_write_buffer_size() >= num_bytes_before:
            self.transport.abort()
        else:
            self._watch_writing()
