"""What other threads want of the engine's: requests to run, requests to cancel, an end.

Stage 4 of a request: schedule. Owns: all that threads share of the engine under the one lock for it, so also how many
requests are under way, and how many may be. Does not know: what a request asks for, what becomes of it.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from typing import NamedTuple

from gptoss_backend.engine.errors import EngineStopped, QueueFull
from gptoss_backend.engine.sequence import Sequence


class Commands(NamedTuple):
    """All that has come in since the last time."""

    new: deque[Sequence]
    cancelled: set[str]
    """Ids of requests, some of which may have ended."""
    stop_at_s: float | None
    """When even those under way are to end, on the monotonic clock; None: nobody wants an end."""


class Inbox:
    """The way to the engine's thread, which takes; any thread may do the rest. Nothing blocks but `take`."""

    def __init__(self, capacity: int) -> None:
        """capacity: requests under way at most, the waiting among them."""
        self._capacity = capacity
        self._wake = threading.Condition()  # of a lock that whoever holds it may take again
        # what follows is guarded by _wake
        self._new: deque[Sequence] = deque()
        self._cancelled: set[str] = set()
        self._num_in_flight = 0
        self._busy_since_s = 0.0
        self._stop_at_s: float | None = None

    @property
    def busy_since_s(self) -> float | None:
        """When the first of those came that have been under way without a gap since; None while there are none."""
        with self._wake:
            return self._busy_since_s if self._num_in_flight else None

    def check_room(self) -> None:
        """Raise EngineStopped or QueueFull where one more request cannot be taken."""
        with self._wake:
            if self._stop_at_s is not None:
                raise EngineStopped("the engine is shutting down")
            if self._num_in_flight >= self._capacity:
                raise QueueFull(
                    f"{self._num_in_flight} requests are running or waiting, which is all this server takes"
                )

    def put(self, sequence: Sequence) -> None:
        """Queue a sequence. Raises what `check_room` does; then nothing was queued."""
        with self._wake:
            self.check_room()
            if self._num_in_flight == 0:
                self._busy_since_s = sequence.submitted_s
            self._num_in_flight += 1
            self._new.append(sequence)
            self._wake.notify()

    def cancel(self, request_id: str) -> None:
        """Ask for a request to end."""
        with self._wake:
            self._cancelled.add(request_id)
            self._wake.notify()

    def stop(self, at_s: float) -> None:
        """Take no more requests; those under way may run on until `at_s`."""
        with self._wake:
            self._stop_at_s = at_s
            self._wake.notify()

    def take(self, *, is_idle: bool) -> Commands:
        """Return all that has come in, waiting for something where the engine has nothing else to do."""
        with self._wake:
            while is_idle and not (self._new or self._cancelled or self._stop_at_s is not None):
                self._wake.wait()
            new, self._new = self._new, deque()
            cancelled, self._cancelled = self._cancelled, set()
            return Commands(new, cancelled, self._stop_at_s)

    def note_ended(self, count: int) -> None:
        """Note that so many of the requests under way no longer are."""
        with self._wake:
            self._num_in_flight -= count

    def close(self) -> list[Sequence]:
        """Take no more requests, as nobody takes them from here any more; returns those that were not taken."""
        with self._wake:
            self._stop_at_s = self._stop_at_s or time.monotonic()
            left, self._new = list(self._new), deque()
            return left
