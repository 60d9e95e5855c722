"""A stub's signs of life on Triton's metrics page.

Owns: the gauge and its pace. Does not know: who reads it (gptoss_backend/heartbeat.py says what its absence means).
"""

from __future__ import annotations

import threading
import time

import triton_python_backend_utils as pb_utils

from gptoss_backend.heartbeat import HEARTBEAT, PERIOD_S


class Heartbeat:
    """The gauge of one instance. One thread beats."""

    def __init__(self, model: str, instance: str) -> None:
        # the family is kept, too: Triton drops a metric whose family is collected
        self._family = pb_utils.MetricFamily(
            name=HEARTBEAT,
            description="When the stub last gave a sign of life, in Unix seconds; 0 once it has ended",
            kind=pb_utils.MetricFamily.GAUGE,
        )
        self._gauge = self._family.Metric(labels={"model": model, "instance": instance})
        self._next_s = 0.0

    def beat(self) -> None:
        """Say that the calling thread gets on. Cheap where the last beat is fresh, else a round trip to the server."""
        now_s = time.monotonic()
        if now_s >= self._next_s:
            self._next_s = now_s + PERIOD_S
            self._gauge.set(time.time())

    def stop(self) -> None:
        """Say that no beat is to be expected any more."""
        self._gauge.set(0.0)


class HeartbeatThread:
    """Beats for a stub that has no thread of its own to do so."""

    def __init__(self, heartbeat: Heartbeat) -> None:
        """Start the thread."""
        self._heartbeat = heartbeat
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Join the thread; the stub ends in good order."""
        self._closing.set()
        self._thread.join()
        self._heartbeat.stop()

    def _run(self) -> None:
        self._heartbeat.beat()
        while not self._closing.wait(PERIOD_S):
            self._heartbeat.beat()
