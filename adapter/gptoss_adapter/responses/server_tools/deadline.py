"""The time that all turns of an answer, and the calls between them, have together.

Stage: 3 prompt … 7 SSE.
Owns: when it is over, and what a client is told then.
Does not know: what is done in it.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from gptoss_adapter.errors import DeadlineExceededError


class Deadline:
    """When the request's time is over, if ever."""

    def __init__(self, timeout_s: float | None) -> None:
        """timeout_s: from now; None: never."""
        self._timeout_s = timeout_s
        self._ends_at = None if timeout_s is None else time.monotonic() + timeout_s

    def left_s(self) -> float | None:
        """Return how long it is until then. Raises DeadlineExceededError."""
        if self._ends_at is None:
            return None
        left_s = self._ends_at - time.monotonic()
        if left_s <= 0:
            raise self._error()
        return left_s

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        """Run the body no longer than that. Raises DeadlineExceededError."""
        try:
            async with asyncio.timeout(self.left_s()):
                yield
        except TimeoutError:
            raise self._error() from None

    def _error(self) -> DeadlineExceededError:
        return DeadlineExceededError(
            f"The answer was not complete within {self._timeout_s:g} s, the time this profile gives a request."
        )
