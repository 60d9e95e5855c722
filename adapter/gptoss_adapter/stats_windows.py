"""Counts and quantiles over the last minute, five minutes and hour, in memory that never grows.

Owns: the windows, how time is cut into slots, the buckets that quantiles are read from.
Does not know: what is counted; any clock. Times are seconds of one clock that never goes back.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final, Literal

import numpy as np

WindowName = Literal["1m", "5m", "60m"]
Counts = np.ndarray[Any, np.dtype[np.int64]]


@dataclass(frozen=True, slots=True)
class Window:
    """A span of time that ends now. Slots are what leaves it at once, so it is short of its span by up to one."""

    name: WindowName
    span_s: int
    slot_s: int


WINDOWS: Final = (Window("1m", 60, 1), Window("5m", 300, 5), Window("60m", 3600, 30))
WIDEST: Final = WINDOWS[-1]


class SlidingCounts:
    """A few counters over every window."""

    def __init__(self, num_counters: int, now_s: float) -> None:
        self._rings = {window: _Ring(window, num_counters, now_s) for window in WINDOWS}
        # the slot being filled: a list, because adding to one element of an array takes five times as long
        self._fresh = [0] * num_counters
        self._fresh_until_s = now_s
        self._since_s = now_s

    def add(self, counter: int, count: int, now_s: float) -> None:
        """Count `count` more."""
        if now_s >= self._fresh_until_s:
            self._file(now_s)
        self._fresh[counter] += count

    def over(self, window: Window, now_s: float) -> Counts:
        """Return what was counted in the window. [num_counters] int64."""
        self._file(now_s)
        return self._rings[window].total()

    def covered_s(self, window: Window, now_s: float) -> float:
        """Return how many seconds `over` speaks of: less than the window's span where counting began in it."""
        return now_s - max(self._since_s, window.slot_s * (now_s // window.slot_s + 1) - window.span_s)

    def _file(self, now_s: float) -> None:
        """Put the fresh counts where they belong, and forget what has left the windows.

        They were counted in one second that began no later than the last time: every ring is still in that slot.
        """
        fresh = np.array(self._fresh, np.int32)
        for ring in self._rings.values():
            ring.add(fresh)
            ring.advance(now_s)
        self._fresh = [0] * len(self._fresh)
        self._fresh_until_s = math.floor(now_s) + 1


class _Ring:
    """One window's slots. The newest is being filled; each slot that is entered is one that has left the window."""

    def __init__(self, window: Window, num_counters: int, now_s: float) -> None:
        self._slot_s = window.slot_s
        self._slots = np.zeros((window.span_s // window.slot_s, num_counters), np.int32)
        self._newest = int(now_s // self._slot_s)

    def add(self, counts: np.ndarray[Any, np.dtype[np.int32]]) -> None:
        self._slots[self._newest % len(self._slots)] += counts

    def advance(self, now_s: float) -> None:
        newest = int(now_s // self._slot_s)
        for entered in range(max(self._newest + 1, newest - len(self._slots) + 1), newest + 1):
            self._slots[entered % len(self._slots)] = 0
        self._newest = max(self._newest, newest)

    def total(self) -> Counts:
        total: Counts = self._slots.sum(axis=0, dtype=np.int64)
        return total


# --- quantiles ------------------------------------------------------------------------------------------------------

RELATIVE_ERROR: Final = 0.01
_SMALLEST: Final = 1e-5
_LARGEST: Final = 1e4
# a bucket's ends are this far apart, so no value in it is further than the error from its middle (DDSketch, VLDB 2019)
_GROWTH: Final = (1 + RELATIVE_ERROR) / (1 - RELATIVE_ERROR)
_BUCKETS_PER_E: Final = 1 / math.log(_GROWTH)
_NUM_BUCKETS: Final = math.ceil(math.log(_LARGEST / _SMALLEST) * _BUCKETS_PER_E) + 1
_FIRST_MIDDLE: Final = _SMALLEST * 2 / (_GROWTH + 1)


class SlidingQuantiles:
    """The spread of positive values over every window, each quantile within RELATIVE_ERROR of the exact one.

    Values below 1e-5 count as that, values above 1e4 as that.
    """

    def __init__(self, now_s: float) -> None:
        self._counts = SlidingCounts(_NUM_BUCKETS, now_s)

    def add(self, value: float, now_s: float, times: int = 1) -> None:
        """Note a value, as often as it was seen."""
        self._counts.add(_bucket_of(value), times, now_s)

    def over(self, window: Window, now_s: float) -> Spread:
        """Return the spread of the window's values."""
        return Spread(self._counts.over(window, now_s))


class Spread:
    """How values are distributed. Spreads can be added up."""

    def __init__(self, counts: Counts) -> None:
        self._ranks: Counts = counts.cumsum()
        self._counts = counts

    def __add__(self, other: Spread) -> Spread:
        """Return the spread of both's values."""
        return Spread(self._counts + other._counts)

    @property
    def count(self) -> int:
        """How many values there were."""
        return int(self._ranks[-1])

    def quantile(self, share: float) -> float | None:
        """Return the smallest value that at least `share` of all do not exceed; None without values."""
        if not self.count:
            return None
        rank = max(1, math.ceil(share * self.count))
        return _FIRST_MIDDLE * _GROWTH ** int(np.searchsorted(self._ranks, rank))


NO_SPREAD: Final = Spread(np.zeros(_NUM_BUCKETS, np.int64))


def _bucket_of(value: float) -> int:
    """Return the bucket of values in (_SMALLEST · growth^(i-1), _SMALLEST · growth^i]."""
    if value <= _SMALLEST:
        return 0
    return min(math.ceil(math.log(value / _SMALLEST) * _BUCKETS_PER_E), _NUM_BUCKETS - 1)
