"""Whether a process that lives gets on, too.

Stage: the life of a server.
Owns: the thread that asks one process over and over; for how long the answer must have been bad.
Does not know: what is asked, what is done about a process that hangs.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

_PERIOD_S: Final = 1.0


class HangWatch:
    """Asks in a thread of its own: one that hangs does not answer soon."""

    def __init__(self, name: str, ask: Callable[[], str | None], limit_s: float) -> None:
        """Start asking. ask: returns what does not get on, None where all does; may block for some seconds."""
        self._ask = ask
        self._limit_s = limit_s
        self._verdict: str | None = None  # set by the thread, once
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name=f"hang-watch-{name}", daemon=True)
        self._thread.start()

    @property
    def verdict(self) -> str | None:
        """What has not got on for longer than the limit; None while all is well or may yet be."""
        return self._verdict

    def close(self) -> None:
        """Join the thread; blocks for as long as the question under way."""
        self._closing.set()
        self._thread.join()

    def _run(self) -> None:
        since_s: float | None = None
        while self._verdict is None and not self._closing.wait(_PERIOD_S):
            trouble = self._ask()
            # The clock starts after the answer: where all processes are frozen together, as by a suspended machine,
            # the first question after it is answered badly, and the next well.
            now_s = time.monotonic()
            since_s = None if trouble is None else since_s or now_s
            if since_s is not None and now_s - since_s >= self._limit_s:
                self._verdict = trouble
