"""The service targets, and whether they hold.

Owns: their names, limits, which side of a limit is good, and of which models each is promised. Prometheus' alerts and
Grafana's lights have the same, which tests compare.
Does not know: where a value comes from beyond `Activities`; how it is told.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Final, Literal

from gptoss_adapter.stats_activity import Activities, Activity
from gptoss_adapter.stats_windows import WIDEST, Spread, Window
from gptoss_backend.model_names import MODELS_BY_SHORT

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
    models: Literal["all", "120b", "but 120b"] = "all"
    """Of which it is promised. At high effort 120B thinks for longer than an answer may take, by design: how fast its
    tokens come tells one that is overloaded from one that thinks. Its weights are larger than others' on any cards."""

    def is_promised_of(self, model: str) -> bool:
        """Say whether it is promised of a model, which goes by its name in OpenAI's API or in Triton."""
        large = MODELS_BY_SHORT["120b"]
        return self.models == "all" or (self.models == "120b") is (model in (large.openai, large.triton))

    def holds(self, value: float) -> bool:
        """Say whether `value` is on the good side."""
        return _COMPARE[self.comparison](value, self.limit)


TTFT_P95: Final = Target("ttft_p95", "<=", 7.0, "seconds")
E2E_P95: Final = Target("e2e_p95", "<=", 20.0, "seconds", "but 120b")
INTER_TOKEN_P95: Final = Target("inter_token_p95", "<=", 0.2, "seconds", "120b")
"""Five tokens a second, about as fast as people read."""
ERROR_RATE: Final = Target("error_rate", "<", 0.005, "ratio")
CACHE_HIT_RATE: Final = Target("cache_hit_rate", ">=", 0.30, "ratio")
"""Of Triton's response cache on `preprocess`, since Triton's start."""
WEIGHTS_PER_GPU: Final = Target("weights_per_gpu", "<", 15e9, "bytes", "but 120b")
TARGETS: Final = (TTFT_P95, E2E_P95, INTER_TOKEN_P95, ERROR_RATE, CACHE_HIT_RATE, WEIGHTS_PER_GPU)

_MEASURES: Final[dict[Target, Callable[[Activity, Window], Spread]]] = {
    TTFT_P95: Activity.time_to_first_token,
    E2E_P95: Activity.e2e,
    INTER_TOKEN_P95: Activity.inter_token,
}


def measured_here(activities: Activities) -> dict[Target, float | None]:
    """Return the values that need no look at Triton's page, of the last hour; None where nothing was measured.

    Without the targets that are promised of none of the models.
    """
    models = {activity.model for activity in activities.all()}
    values: dict[Target, float | None] = {
        target: activities.spread(measure, WIDEST, target.is_promised_of).quantile(0.95)
        for target, measure in _MEASURES.items()
        if any(map(target.is_promised_of, models))
    }
    return values | {ERROR_RATE: activities.error_rate(WIDEST)}
