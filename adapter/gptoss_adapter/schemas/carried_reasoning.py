"""Reasoning as text that a client carries and does not read.

Stage: 2 validate, and 7 SSE.
Owns: the encoding behind `encrypted_content`: its version, a dot, base64 of UTF-8. It hides nothing: what it holds
stands in `content` beside it, which some clients drop.
Does not know: items.
"""

from __future__ import annotations

import base64
from typing import Final

_VERSION: Final = "gptoss-reasoning-1."


def carried(reasoning: str) -> str:
    """Return the reasoning encoded."""
    return _VERSION + base64.b64encode(reasoning.encode()).decode()


def reasoning_of(blob: str) -> str | None:
    """Return the reasoning again; None: another server has encoded it. Raises ValueError for a damaged one of ours."""
    if not blob.startswith(_VERSION):
        return None
    return base64.b64decode(blob.removeprefix(_VERSION), validate=True).decode()
