"""The end of the process: no new requests, time for those under way, a word to the rest.

Stage: from the first SIGTERM to the exit.
Owns: whether requests are still taken, which are under way, when the process may go.
Does not know: what a request does, how its client is told.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Final

import uvicorn

from gptoss_backend.stop_wish import StopWish

_FAREWELL_S: Final = 2.0
"""For telling those under way that they end, and for their connections to close."""
_FAREWELL_AT_ONCE_S: Final = 0.3


class Drain:
    """Whether requests are still taken, and those under way. Used by the event loop's thread only."""

    def __init__(self) -> None:
        self.has_begun = False
        """A plain attribute: a signal's handler sets it, between any two instructions."""
        self.has_cut = False
        """Requests under way are being ended."""
        self._under_way: set[asyncio.Task[None]] = set()

    @property
    def num_under_way(self) -> int:
        """Requests taken and not yet answered to the end."""
        return len(self._under_way)

    @contextmanager
    def request(self) -> Iterator[None]:
        """Count the task that runs this as a request under way."""
        task = asyncio.current_task()
        assert task is not None  # noqa: S101 (a coroutine always runs in one)
        self._under_way.add(task)
        try:
            yield
        finally:
            self._under_way.discard(task)

    async def cut(self, timeout_s: float) -> None:
        """Cancel what is under way and wait until it has told its clients, `timeout_s` at most."""
        self.has_cut = True
        tasks = list(self._under_way)
        for task in tasks:
            task.cancel()
        if tasks:
            await asyncio.wait(tasks, timeout=timeout_s)


class DrainingServer(uvicorn.Server):
    """An HTTP server that goes on listening while it drains, so that who comes then is told to go elsewhere.

    uvicorn itself closes its ports at the first signal.
    """

    def __init__(self, config: uvicorn.Config, drain: Drain, shutdown_timeout_s: float) -> None:
        """shutdown_timeout_s: from the first signal to the exit; what runs on is told of its end shortly before."""
        super().__init__(config)
        self._drain = drain
        self._drain_s = max(shutdown_timeout_s - _FAREWELL_S - 2.0, shutdown_timeout_s / 2)
        self._deadline: float | None = None
        self._wish = StopWish()

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Take a signal: the first begins to drain."""
        self._wish.note(sig)
        self._drain.has_begun = True

    async def on_tick(self, counter: int) -> bool:
        """Return whether it is time to end. Called ten times a second."""
        is_over = await super().on_tick(counter)
        if not self._drain.has_begun:
            return is_over
        if self._deadline is None:
            self._deadline = time.monotonic() + self._drain_s
        return is_over or self._wish.at_once or not self._drain.num_under_way or time.monotonic() >= self._deadline

    async def shutdown(self, sockets: list[object] | None = None) -> None:  # type: ignore[override]
        """End what is still under way, then everything else."""
        self._drain.has_begun = True
        await self._drain.cut(_FAREWELL_AT_ONCE_S if self._wish.at_once else _FAREWELL_S)
        self.force_exit = self._wish.at_once
        await super().shutdown()
