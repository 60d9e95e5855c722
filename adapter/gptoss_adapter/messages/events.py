"""Named server-sent events.

Stage: 7 SSE.
Owns: how an event of a message is framed.
Does not know: what events there are.
"""

from __future__ import annotations

import json
from typing import Any, Final, TypeAlias

Event: TypeAlias = tuple[str, dict[str, Any]]
"""Its type and its other fields."""


def frame(kind: str, fields: dict[str, Any]) -> bytes:
    """Return one event. JSON is ASCII with escapes, as in the streams of chats."""
    document = json.dumps({"type": kind, **fields}, separators=(",", ":"))
    return f"event: {kind}\ndata: {document}\n\n".encode()


PING: Final = frame("ping", {})
"""Goes out where other streams hold a comment: Anthropic's clients pass over both."""
