"""What the engine saw: counts, and one value at a time for histograms.

Owns: what is counted, the kinds of values, and their way from the engine's thread to whoever publishes them.
Does not know: buckets, metric names.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import Enum, auto

_MOST_HELD = 16384


class Measure(Enum):
    """A kind of value."""

    BATCH_SIZE = auto()
    """Sequences in a step, of ten steps a second at most."""
    PROMPT_TOKENS = auto()
    """Of a request, when it is first computed."""
    QUEUE_S = auto()
    """Submission to the first step that computes a request."""
    FIRST_TOKEN_S = auto()
    """Submission to the first token."""
    OUTPUT_TOKEN_S = auto()
    """Mean time between the tokens of a request, when it has ended."""


class Observations:
    """Values on their way out. Adding never waits; where nobody drains them, the oldest are lost."""

    def __init__(self, most_held: int = _MOST_HELD) -> None:
        self._values: deque[tuple[Measure, float]] = deque(maxlen=most_held)  # its ends are safe without a lock

    def add(self, measure: Measure, value: float) -> None:
        """Note a value. The engine's thread only."""
        self._values.append((measure, value))

    def drain(self) -> list[tuple[Measure, float]]:
        """Return what has gathered since the last time, in order. One other thread only."""
        return [self._values.popleft() for _ in range(len(self._values))]


@dataclass(slots=True)
class EngineStats:
    """Counts since the start, and the present state. Written by the engine's thread; `Engine.stats` gives a copy."""

    num_steps: int = 0
    num_prompt_tokens: int = 0
    num_generated_tokens: int = 0
    num_finished: int = 0
    num_cancelled: int = 0
    num_failed: int = 0
    num_expired: int = 0
    num_preemptions: int = 0
    num_drafted_tokens: int = 0
    num_accepted_tokens: int = 0
    num_prefix_queries: int = 0
    num_prefix_hits: int = 0
    num_running: int = 0
    num_waiting: int = 0
    num_cache_blocks: int = 0
    num_cache_blocks_used: int = 0
    max_model_len: int = 0
    """Longest prompt plus answer, in tokens."""
    busy_s: float = 0.0
    stalled_s: float = 0.0
    """Since the loop last got anything done while it has work; 0 without any. More than a long step takes: it hangs."""
