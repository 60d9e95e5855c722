"""Messages that come when they come, however long the answers take.

Stage: before 1 route.
Owns: the moments at which messages are due.
Does not know: who sends them.

People who wait for an answer before they ask again go easy on a slow server, and hide how slow it is. An open process
does not: a message that finds all users busy waits, and its latency counts from the moment it was due.
"""

from __future__ import annotations

import time
from random import Random

import gevent
from gevent.queue import Queue


class Arrivals:
    """A Poisson process of `rate` messages a second, which users take up one by one. Starts at once."""

    def __init__(self, rate: float, seed: str) -> None:
        self._rate = rate
        self._rng = Random(seed)
        self._due: Queue[float] = Queue()
        self._greenlet = gevent.spawn(self._run)

    def next(self) -> float:
        """Wait for the next message, and return when it was due, in seconds since the epoch."""
        return float(self._due.get())

    def stop(self) -> list[float]:
        """End the process. Return when those messages were due that no user has taken up."""
        self._greenlet.kill()
        return [float(self._due.get_nowait()) for _ in range(self._due.qsize())]

    def _run(self) -> None:
        due_s = time.time()
        while True:
            due_s += self._rng.expovariate(self._rate)
            gevent.sleep(max(0.0, due_s - time.time()))
            self._due.put(due_s)
