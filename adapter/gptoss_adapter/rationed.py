"""What is dear to find out and may be asked for by anybody, as often as they like.

Stage: any.
Owns: that it is found out once for all who ask meanwhile, and not at once again.
Does not know: what is found out.

Nothing is kept: an answer never tells of a time before its question. Turned down: to keep it for a second, which would
have been told right after the news.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Awaitable, Callable
from typing import Final, Generic, TypeVar

T = TypeVar("T")

SPACING_S: Final = 0.25


class Rationed(Generic[T]):
    """A value that is made anew when it is asked for, one at a time, with a pause between two. Of one event loop."""

    def __init__(self, spacing_s: float = SPACING_S) -> None:
        """spacing_s: the pause."""
        self._spacing_s = spacing_s
        self._next: asyncio.Task[T] | None = None
        """Its making has not begun: whoever asks now shares it."""
        self._making: asyncio.Task[T] | None = None
        self._made_at = float("-inf")

    async def get(self, make: Callable[[], Awaitable[T]]) -> T:
        """Return a value whose making began after the question. make: does as well as any other asker's."""
        if self._next is None:
            self._next = asyncio.create_task(self._make(make, after=self._making), name="make-rationed")
        return await asyncio.shield(self._next)  # one asker that leaves is no reason to fail the others

    async def _make(self, make: Callable[[], Awaitable[T]], after: asyncio.Task[T] | None) -> T:
        if after is not None:
            await asyncio.wait([after])
        await asyncio.sleep(self._made_at + self._spacing_s - time.monotonic())
        self._making, self._next = self._next, None
        try:
            return await make()
        finally:
            self._made_at = time.monotonic()
