"""Axes: which range, which ticks, where a value lies.

Stage: after the last answer.
Owns: ranges and ticks, on linear and logarithmic scales.
Does not know: what is drawn along them.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

Tell = Callable[[float], str]
"""A value as a tick says it."""


@dataclass(frozen=True, slots=True)
class Axis:
    """One direction of a chart."""

    label: str
    low: float
    high: float
    ticks: tuple[float, ...]
    tell: Tell
    is_log: bool = False

    def share(self, value: float) -> float:
        """Return where a value lies, 0 at the low end and 1 at the high one; beyond them, at the end."""
        if self.is_log:
            part = math.log(max(value, self.low) / self.low) / math.log(self.high / self.low)
        else:
            part = (value - self.low) / (self.high - self.low)
        return min(max(part, 0.0), 1.0)


def linear_axis(label: str, highest: float, tell: Tell, *, num_steps: int = 4) -> Axis:
    """Return an axis from 0 to a round number at or above `highest`."""
    step = _round_up(highest / num_steps if highest > 0 else 1.0)
    count = max(1, math.ceil(highest / step - 1e-9))
    return Axis(label, 0.0, count * step, tuple(number * step for number in range(count + 1)), tell)


def time_axis(duration_s: float) -> Axis:
    """Return an axis over a run's whole duration, its ticks at round seconds."""
    step = next((s for s in (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600) if duration_s / s <= 8), 7200)
    ticks = tuple(float(number * step) for number in range(int(duration_s / step) + 1))
    return Axis("time since the start", 0.0, max(duration_s, 1.0), ticks, _clock)


def log_axis(label: str, lowest: float, highest: float, tell: Tell) -> Axis:
    """Return a logarithmic axis that holds both ends, its ticks at 1, 2 and 5 times powers of ten, or at powers only.

    lowest: above 0.
    """
    powers = range(math.floor(math.log10(lowest)) - 1, math.ceil(math.log10(highest)) + 2)
    marks = [factor * 10.0**power for power in powers for factor in (1, 2, 5)]
    low = max(mark for mark in marks if mark <= lowest)
    high = min(mark for mark in marks if mark > highest)
    ticks = [mark for mark in marks if low <= mark <= high]
    if len(ticks) > 8:
        ticks = [mark for mark in ticks if math.isclose(math.log10(mark), round(math.log10(mark)))]
    return Axis(label, low, high, tuple(ticks), tell, is_log=True)


def number(value: float) -> str:
    """Return a plain number for a tick."""
    return f"{value:,.0f}" if value >= 10 or value == int(value) else f"{value:.3g}"


def _round_up(value: float) -> float:
    power = 10.0 ** math.floor(math.log10(value))
    return next(factor * power for factor in (1, 2, 2.5, 5, 10) if factor * power >= value * (1 - 1e-9))


def _clock(seconds: float) -> str:
    return f"{seconds:.0f} s" if seconds < 120 else f"{int(seconds) // 60}:{int(seconds) % 60:02d} min"
