"""The service targets, and whether they hold.

Owns: their names, limits and which side of a limit is good.
Does not know: where a value comes from beyond `Activities`; how it is told.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from gptoss_adapter.stats_activity import Activities, Activity
from gptoss_adapter.stats_windows import WIDEST

Comparison = Literal["<=", "<", ">="]
_COMPARE: Final[dict[Comparison, Callable[[float, float], bool]]] = {
    "<=": operator.le,
    "<": operator.lt,
    ">=": operator.ge,
}


@dataclass(frozen=True, slots=True)
class Target:
    """A value that the service promises to keep on one side of a limit."""

    name: str
    comparison: Comparison
    limit: float
    unit: Literal["seconds", "ratio", "bytes"]

    def holds(self, value: float) -> bool:
        """Say whether `value` is on the good side."""
        return _COMPARE[self.comparison](value, self.limit)


TTFT_P95: Final = Target("ttft_p95", "<=", 7.0, "seconds")
E2E_P95: Final = Target("e2e_p95", "<=", 20.0, "seconds")
ERROR_RATE: Final = Target("error_rate", "<", 0.005, "ratio")
CACHE_HIT_RATE: Final = Target("cache_hit_rate", ">=", 0.30, "ratio")
"""Of Triton's response cache on `preprocess`, since Triton's start."""
WEIGHTS_PER_GPU: Final = Target("weights_per_gpu", "<", 15e9, "bytes")


def measured_here(activities: Activities) -> dict[Target, float | None]:
    """Return the values that need no look at Triton's page, of the last hour; None where nothing was measured."""
    return {
        TTFT_P95: activities.spread(Activity.time_to_first_token, WIDEST).quantile(0.95),
        E2E_P95: activities.spread(Activity.e2e, WIDEST).quantile(0.95),
        ERROR_RATE: activities.error_rate(WIDEST),
    }
