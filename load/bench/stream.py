"""A streaming client that costs next to nothing, so that on two cores the server is what is measured.

Stage: before 1 route and behind 7 SSE.
Owns: the request's bytes, which bytes of an answer are a token, when an answer is over.
Does not know: what is asked, which server answers, what is made of the figures.

It looks for tokens and counts with regular expressions in the raw bytes, where `load.sse` and `load.answer` would parse
every event. Each request has its own connection, which the server closes.
"""

from __future__ import annotations

import asyncio
import json
import re
from collections.abc import Mapping, Sequence
from time import perf_counter
from typing import Any, Final

from load.bench.figures import Reply

# an empty text is no token for a reader: chats begin with one, and a character that is not whole yet gives one
_TOKEN: Final = re.compile(rb'"(?:text|content|reasoning|reasoning_content)": ?"(?!")')
_COMPLETION_TOKENS: Final = re.compile(rb'"completion_tokens": ?(\d+)')
_DONE: Final = b"data: [DONE]"


class PeerError(Exception):
    """A server did not start, or did not answer as it should. The message says which and why."""


class _Stream(asyncio.Protocol):
    """One request and its answer; `reply` is set when the answer is over."""

    def __init__(self, request: bytes) -> None:
        self._request = request
        self._pieces: list[bytes] = []
        self._first_s = self._last_s = 0.0
        self.reply: asyncio.Future[Reply] = asyncio.get_running_loop().create_future()
        self._started_s = perf_counter()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)  # noqa: S101 (what create_connection makes)
        transport.write(self._request)

    def data_received(self, data: bytes) -> None:
        self._pieces.append(data)
        if _TOKEN.search(data):
            self._last_s = perf_counter() - self._started_s
            self._first_s = self._first_s or self._last_s
        if _DONE in data:
            self._finish()

    def connection_lost(self, exc: Exception | None) -> None:
        self._finish()

    def _finish(self) -> None:
        if self.reply.done():
            return
        raw = b"".join(self._pieces)
        num_tokens = _last(_COMPLETION_TOKENS, raw)
        if not raw.startswith(b"HTTP/1.1 200") or not self._first_s or num_tokens is None:
            words = " ".join(raw[-400:].decode(errors="replace").split())
            self.reply.set_exception(PeerError(f"no whole answer, but: {words}"))
            return
        self.reply.set_result(Reply(self._first_s, self._last_s, num_tokens))


async def ask(port: int, request: bytes) -> Reply:
    """Send one request to this machine and wait for its answer's end. Raises PeerError."""
    try:
        connected = asyncio.get_running_loop().create_connection(lambda: _Stream(request), "127.0.0.1", port)
        transport, stream = await connected
    except OSError as error:
        raise PeerError(f"nothing listens on port {port}: {error.strerror}") from error
    try:
        return await stream.reply
    finally:
        transport.close()


async def ask_all(port: int, requests: Sequence[bytes], concurrency: int, limit_s: float) -> tuple[list[Reply], float]:
    """Send all requests, `concurrency` at a time; returns the replies and the seconds until the last token.

    Raises PeerError, also where it took longer than `limit_s`.
    """
    left = iter(requests)
    ends_s: list[float] = []
    started_s = perf_counter()

    async def one_after_another() -> list[Reply]:
        replies = []
        for request in left:
            sent_s = perf_counter() - started_s
            reply = await ask(port, request)
            ends_s.append(sent_s + reply.last_token_s)
            replies.append(reply)
        return replies

    try:
        async with asyncio.timeout(limit_s), asyncio.TaskGroup() as group:
            streams = [group.create_task(one_after_another()) for _ in range(concurrency)]
    except TimeoutError:
        raise PeerError(f"a round was not over after {limit_s:.0f} s") from None
    except ExceptionGroup as errors:
        raise errors.exceptions[0] from None
    return [reply for stream in streams for reply in stream.result()], max(ends_s)


def post(port: int, path: str, body: Mapping[str, Any]) -> bytes:
    """Return the bytes of a request whose connection ends with it."""
    raw = json.dumps(body, ensure_ascii=False).encode()
    head = (
        f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Type: application/json\r\n"
        f"Content-Length: {len(raw)}\r\nConnection: close\r\n\r\n"
    )
    return head.encode() + raw


def _last(pattern: re.Pattern[bytes], raw: bytes) -> int | None:
    found = pattern.findall(raw)
    return int(found[-1]) if found else None
