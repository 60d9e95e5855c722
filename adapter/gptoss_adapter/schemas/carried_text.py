"""Texts that a client carries and does not read: reasoning, and summaries of conversations.

Stage: 2 validate, and 7 SSE.
Owns: the encoding behind `encrypted_content`: its version, a dot, base64 of UTF-8. It hides nothing: reasoning stands
in `content` beside it, which some clients drop; a summary is of what the client has sent.
Does not know: items.
"""

from __future__ import annotations

import base64
from typing import Final

_REASONING: Final = "gptoss-reasoning-1."
_SUMMARY: Final = "gptoss-compaction-1."


def carried(reasoning: str) -> str:
    """Return the reasoning encoded."""
    return _encoded(_REASONING, reasoning)


def reasoning_of(blob: str) -> str | None:
    """Return the reasoning again; None: another server has encoded it. Raises ValueError for a damaged one of ours."""
    return _decoded(_REASONING, blob)


def carried_summary(summary: str) -> str:
    """Return the summary of a conversation encoded."""
    return _encoded(_SUMMARY, summary)


def summary_of(blob: str) -> str:
    """Return the summary again. Raises ValueError for one that was damaged, or that another server has encoded."""
    summary = _decoded(_SUMMARY, blob)
    if summary is None:
        raise ValueError("not encoded here")
    return summary


def _encoded(version: str, text: str) -> str:
    return version + base64.b64encode(text.encode()).decode()


def _decoded(version: str, blob: str) -> str | None:
    if not blob.startswith(version):
        return None
    return base64.b64decode(blob.removeprefix(version), validate=True).decode()
