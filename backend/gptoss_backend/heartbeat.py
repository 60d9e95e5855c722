"""Signs of life of the stubs on Triton's metrics page, and what their absence means.

Owns: the names of both gauges, the heartbeat's pace; when a stub or an engine counts as stuck.
Does not know: how the page is fetched, what is done about it.

A process that hangs still looks alive to its parent and to Triton, which goes on calling its model ready. So each stub
says the time again and again while its threads get on; one that is stopped or deadlocked falls silent.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Final

HEARTBEAT: Final = "gptoss_heartbeat_timestamp_seconds"
"""Gauge, Unix seconds; 0: the stub has ended in good order."""
STALLED: Final = "gptoss_engine_stalled_seconds"
"""Gauge: since the engine's loop got on, while it has work."""
PERIOD_S: Final = 0.5
SILENT_AFTER_S: Final = 3.0
"""Several beats: on a busy machine one or two come late."""

_SAMPLE: Final = re.compile(rf'^({HEARTBEAT}|{STALLED}){{[^}}]*\binstance="([^"]*)"[^}}]*}} (\S+)$', re.MULTILINE)


class Heartbeats:
    """What each stub said last, and since when it has said nothing else, by the reader's own clock.

    Not by the time that it says: a host whose clock is off by some seconds is no host that hangs. So a silence is
    noticed with the second look at it, and who looks seldom learns of it late. Of one thread.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        """clock: seconds that never go back."""
        self._clock = clock
        self._last: dict[tuple[str, str], tuple[str, float]] = {}

    def stuck_parts(self, pages: Mapping[str, str], step_timeout_s: float) -> dict[str, list[str]]:
        """Return for each page a sentence for each stub that does not beat and each engine in a step that does not end.

        pages: Triton's metrics pages, as they are now, by whose they are. step_timeout_s: the longest a step may take.
        """
        now_s = self._clock()
        before, self._last = self._last, {}
        return {
            owner: [
                *self._silent(owner, _samples(page, HEARTBEAT), before, now_s),
                *_overlong(_samples(page, STALLED), step_timeout_s),
            ]
            for owner, page in pages.items()
        }

    def _silent(
        self,
        owner: str,
        beats: Mapping[str, str],
        before: Mapping[tuple[str, str], tuple[str, float]],
        now_s: float,
    ) -> Iterator[str]:
        for instance, beat in beats.items():
            said, since_s = before.get((owner, instance), ("", now_s))
            if said != beat:
                since_s = now_s
            self._last[owner, instance] = (beat, since_s)
            if float(beat) and now_s - since_s > SILENT_AFTER_S:
                yield f"{instance} has given no sign of life for {now_s - since_s:.0f} s"


def _samples(page: str, name: str) -> dict[str, str]:
    """Return a gauge's values, as they are written, by instance."""
    return {instance: value for found, instance, value in _SAMPLE.findall(page) if found == name}


def _overlong(stalls: Mapping[str, str], step_timeout_s: float) -> Iterator[str]:
    for instance, text in stalls.items():
        if float(text) > step_timeout_s:
            yield f"{instance} has been in one step for {float(text):.0f} s"
