"""Signs of life of the stubs on Triton's metrics page, and what their absence means.

Owns: the heartbeat's name and pace; when a stub or an engine counts as stuck.
Does not know: how the page is fetched, what is done about it.

A process that hangs still looks alive to its parent and to Triton, which goes on calling its model ready. So each stub
says the time again and again while its threads get on; one that is stopped or deadlocked falls silent.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final

HEARTBEAT: Final = "gptoss_heartbeat_timestamp_seconds"
"""Gauge, Unix seconds; 0: the stub has ended in good order."""
STALLED: Final = "gptoss_engine_stalled_seconds"
PERIOD_S: Final = 0.5
SILENT_AFTER_S: Final = 3.0
"""Several beats: on a busy machine one or two come late."""

_SAMPLE: Final = re.compile(rf'^({HEARTBEAT}|{STALLED}){{[^}}]*\binstance="([^"]*)"[^}}]*}} (\S+)$', re.MULTILINE)


def stuck_parts(page: str, now_s: float, step_timeout_s: float) -> list[str]:
    """Return a sentence for each stub without a sign of life and each engine in a step that does not end.

    page: Triton's metrics page. now_s: Unix seconds. step_timeout_s: the longest a step may take.
    """
    return list(_stuck(page, now_s, step_timeout_s))


def _stuck(page: str, now_s: float, step_timeout_s: float) -> Iterator[str]:
    for name, instance, text in _SAMPLE.findall(page):
        value = float(text)
        if name == STALLED and value > step_timeout_s:
            yield f"{instance} has been in one step for {value:.0f} s"
        if name == HEARTBEAT and value and now_s - value > SILENT_AFTER_S:
            yield f"{instance} has given no sign of life for {now_s - value:.0f} s"
