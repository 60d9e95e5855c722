"""Work that goes on though nobody waits for it any more: whoever did was given up, and it was shielded from that.

Stage: 3 prompt, driven from the adapter.
Owns: that its failure is then no complaint of asyncio's.
Does not know: what the work is.
"""

from __future__ import annotations

import asyncio
from typing import Any


def look_at_the_outcome(work: asyncio.Future[Any]) -> None:
    """Take note of an error that nobody waits for any more. For `add_done_callback`."""
    if not work.cancelled():
        work.exception()
