"""Server-sent events out of raw bytes.

Stage: the client's end of a request's way, behind 7 SSE.
Owns: the event stream format (WHATWG HTML, section 9.2.6).
Does not know: sockets, OpenAI's chunks, time.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class SseEvent:
    """One dispatched event. `data` is its data lines joined by newlines."""

    data: str
    event: str = "message"


class SseParser:
    """Bytes in, events out, however the bytes were cut. Comments, ids and retry hints are passed over.

    An event that the stream ends in the middle of is never dispatched, as the format demands.
    """

    def __init__(self) -> None:
        self._line = bytearray()
        self._after_cr = False
        self._event = ""
        self._data: list[str] = []

    def feed(self, raw: bytes) -> list[SseEvent]:
        """Take the next bytes and return the events they complete, in order."""
        if not raw:
            return []
        if self._after_cr:
            raw = raw.removeprefix(b"\n")  # the second half of a \r\n that was cut in two
        self._line += raw
        self._after_cr = raw.endswith(b"\r")
        # bytes.splitlines() breaks at \n, \r and \r\n only, which is the format's own list
        lines = bytes(self._line).splitlines(keepends=True)
        self._line.clear()
        if lines and not lines[-1].endswith((b"\n", b"\r")):
            self._line += lines.pop()
        return [event for line in lines if (event := self._take_line(line.rstrip(b"\r\n"))) is not None]

    def _take_line(self, line: bytes) -> SseEvent | None:
        if not line:
            return self._dispatch()
        name, _, value = line.decode("utf-8", errors="replace").partition(":")
        value = value.removeprefix(" ")
        if name == "data":
            self._data.append(value)
        elif name == "event":
            self._event = value
        return None

    def _dispatch(self) -> SseEvent | None:
        data, event = self._data, self._event or "message"
        self._data, self._event = [], ""
        return SseEvent("\n".join(data), event) if data else None
