"""Typed server-sent events.

Stage: 7 SSE.
Owns: how an event of a response is numbered and framed.
Does not know: what events there are.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import Any

from gptoss_adapter.responses.output import Event
from gptoss_adapter.schemas.response_answers import ResponseObject


class EventWriter:
    """Frames the events of one streamed response.

    JSON is ASCII with escapes: it can't fail on any text, and no client takes U+2028 in an answer for a line's end.
    """

    def __init__(self) -> None:
        self._next_number = 0

    @property
    def has_begun(self) -> bool:
        """Whether an event was framed."""
        return self._next_number > 0

    def write(self, events: Iterable[Event]) -> bytes:
        """Return the events framed, nothing for none."""
        return b"".join([self._frame(kind, fields) for kind, fields in events])

    def lifecycle(self, kind: str, response: ResponseObject) -> bytes:
        """Return the event that shows the whole response as it is now."""
        return self._frame(kind, {"response": response.model_dump(mode="json", exclude_unset=True)})

    def _frame(self, kind: str, fields: dict[str, Any]) -> bytes:
        document = json.dumps({"type": kind, "sequence_number": self._next_number, **fields}, separators=(",", ":"))
        self._next_number += 1
        return f"event: {kind}\ndata: {document}\n\n".encode()
