"""When a training run learns how fast: the rates fall to nothing several times.

Each descent ends near a good place, and the mean of those places is often better than each: stochastic weight
averaging (https://arxiv.org/abs/1803.05407).

Owns: rates by block, from when on experts are rounded, where descents end. Does not know: models, optimisers.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate
from typing import Final

_SHARES: Final = (0.64, 0.18, 0.18)
"""Of the run's blocks, each descent's."""
_PEAKS: Final = (1.0, 0.65, 0.65)
"""Of the full rate, each descent's highest."""
_WARM_UP: Final = 4
"""Blocks over which the rates rise, in each descent."""
_DECAY_SHARE: Final = 0.6
"""Of a descent, at its end: the rates fall."""


@dataclass(frozen=True, slots=True)
class Descent:
    """Blocks `first` to `end - 1` of a run."""

    first: int
    end: int
    peak: float

    @property
    def decay_from(self) -> float:
        """The block from which on the rates fall."""
        return self.end - _DECAY_SHARE * (self.end - self.first)

    def rate(self, block: int) -> float:
        """Return the block's share of the full rate."""
        left = (self.end - block) / (self.end - self.decay_from)
        return self.peak * min(1.0, (block - self.first + 1) / _WARM_UP, left)


class Schedule:
    """The descents of a run of `num_blocks` blocks."""

    def __init__(self, num_blocks: int) -> None:
        ends = [round(num_blocks * share) for share in accumulate(_SHARES)]
        parts = zip([0, *ends], ends, _PEAKS, strict=False)
        self.descents = [Descent(first, end, peak) for first, end, peak in parts if first < end]

    def rate(self, block: int) -> float:
        """Return the block's share of the full rate."""
        return next(descent.rate(block) for descent in self.descents if block < descent.end)

    def rounds_experts(self, block: int) -> bool:
        """Say whether experts are rounded to MXFP4 as in the file: from the first fall on."""
        return block >= self.descents[0].decay_from

    def ends_descent(self, block: int) -> bool:
        """Say whether a descent ends with this block."""
        return any(block == descent.end - 1 for descent in self.descents)
