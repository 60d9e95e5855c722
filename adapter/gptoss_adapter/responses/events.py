"""Typed server-sent events.

Stage: 7 SSE.
Owns: how an event of a response is numbered and framed; which event tells of a response's end.
Does not know: what other events there are.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from gptoss_adapter.errors import ApiError
from gptoss_adapter.responses.open_items import Event
from gptoss_adapter.schemas.response_answers import ResponseObject


class EventWriter:
    """Frames the events of one streamed response.

    JSON is ASCII with escapes: it can't fail on any text, and no client takes U+2028 in an answer for a line's end.
    """

    def __init__(self, next_number: int = 0) -> None:
        self.next_number = next_number
        """The number that the next event gets."""

    def write(self, events: Iterable[Event]) -> bytes:
        """Return the events framed, nothing for none."""
        return b"".join([self._frame(kind, fields) for kind, fields in events])

    def lifecycle(self, kind: str, response: ResponseObject) -> bytes:
        """Return the event that shows the whole response as it is now."""
        return self._frame(kind, {"response": response.model_dump(mode="json", exclude_unset=True)})

    def last(self, response: Mapping[str, Any]) -> bytes:
        """Return the event that shows the whole response, a document, as it ended."""
        # OpenAI has no event for one that was cancelled; its clients know this one, and read the status
        kind = "incomplete" if response["status"] == "cancelled" else response["status"]
        return self._frame(f"response.{kind}", {"response": response})

    def keep_alive(self) -> bytes:
        """Return the event that says nothing, of OpenAI's server: a comment does not reset the clock of Codex."""
        return self.write([("keepalive", {})])

    def failure(self, error: ApiError, response: ResponseObject) -> bytes:
        """Return the events that end a stream whose response `error` has ended. response: as it is then."""
        return self.error(error) + self.lifecycle("response.failed", response)

    def error(self, error: ApiError) -> bytes:
        """Return the event that tells why a stream ends."""
        told = {"code": error.code, "message": error.message, "param": error.param}
        # said twice: OpenAI's description has it flat, its server sends it nested, and its clients raise on that only
        return self.write([("error", {**told, "error": {"type": error.type, **told}})])

    def _frame(self, kind: str, fields: dict[str, Any]) -> bytes:
        document = json.dumps({"type": kind, "sequence_number": self.next_number, **fields}, separators=(",", ":"))
        self.next_number += 1
        return f"event: {kind}\ndata: {document}\n\n".encode()
