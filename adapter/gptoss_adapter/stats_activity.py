"""What the served models did, as their clients saw it, over the last minute, five minutes and hour.

Stage: 4 schedule … 7, beside a request's way.
Owns: the outcomes of a generation, what is counted of it for /stats.
Does not know: how it is told; Prometheus.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable
from enum import StrEnum
from functools import reduce
from operator import add
from typing import Final

from gptoss_adapter.stats_windows import NO_SPREAD, SlidingCounts, SlidingQuantiles, Spread, Window


class Outcome(StrEnum):
    """How a generation ended."""

    STOP = "stop"
    LENGTH = "length"
    TOOL_CALLS = "tool_calls"
    CANCELLED = "cancelled"
    """The client went away."""
    REFUSED = "refused"
    """The request was at fault, or the queue was full."""
    ERROR = "error"


COMPLETED: Final = frozenset({Outcome.STOP, Outcome.LENGTH, Outcome.TOOL_CALLS})
_OUTCOMES: Final = tuple(Outcome)
_PROMPT, _CACHED, _GENERATED = range(3)


class Activity:
    """What one model did under one profile."""

    def __init__(self, model: str, profile: str, clock: Callable[[], float], since_s: float) -> None:
        """since_s: when it might have begun, by the clock; rates are told from then on."""
        self.model = model
        self.profile = profile
        self._clock = clock
        self._time_to_first_token = SlidingQuantiles(since_s)
        self._inter_token = SlidingQuantiles(since_s)
        self._e2e = SlidingQuantiles(since_s)
        self._tokens = SlidingCounts(3, since_s)
        self._ended = SlidingCounts(len(_OUTCOMES), since_s)
        self.num_waiting = 0
        self.num_running = 0
        self.ended_ever: Counter[Outcome] = Counter()

    # --- noting -----------------------------------------------------------------------------------------------------

    def note_prompt(self, num_tokens: int, num_cached: int) -> None:
        """The engine has begun with a prompt."""
        now_s = self._clock()
        self._tokens.add(_PROMPT, num_tokens, now_s)
        self._tokens.add(_CACHED, num_cached, now_s)

    def note_first_token(self, seconds: float, num_tokens: int) -> None:
        """The first tokens came, so long after the request."""
        now_s = self._clock()
        self._time_to_first_token.add(seconds, now_s)
        self._tokens.add(_GENERATED, num_tokens, now_s)

    def note_tokens(self, gap_s: float, num_tokens: int) -> None:
        """More tokens came, each so long after the one before."""
        now_s = self._clock()
        self._inter_token.add(gap_s, now_s, num_tokens)
        self._tokens.add(_GENERATED, num_tokens, now_s)

    def note_end(self, outcome: Outcome, seconds: float) -> None:
        """A generation ended, so long after its request."""
        now_s = self._clock()
        self.ended_ever[outcome] += 1
        self._ended.add(_OUTCOMES.index(outcome), 1, now_s)
        if outcome in COMPLETED:
            self._e2e.add(seconds, now_s)

    # --- telling ----------------------------------------------------------------------------------------------------

    def ended(self, window: Window) -> dict[Outcome, int]:
        """Return how many generations ended in the window, by outcome."""
        return dict(zip(_OUTCOMES, self._ended.over(window, self._clock()).tolist(), strict=True))

    def time_to_first_token(self, window: Window) -> Spread:
        """Return the spread of the times from request to first token, in seconds."""
        return self._time_to_first_token.over(window, self._clock())

    def inter_token(self, window: Window) -> Spread:
        """Return the spread of the times between tokens, in seconds."""
        return self._inter_token.over(window, self._clock())

    def e2e(self, window: Window) -> Spread:
        """Return the spread of the times from request to last token of those that completed, in seconds."""
        return self._e2e.over(window, self._clock())

    def prompt_tokens_per_s(self, window: Window) -> float:
        """Return how many prompt tokens were taken up a second."""
        return self._rate(_PROMPT, window)

    def generated_tokens_per_s(self, window: Window) -> float:
        """Return how many tokens were generated a second."""
        return self._rate(_GENERATED, window)

    def prefix_hit_rate(self, window: Window) -> float | None:
        """Return the share of prompt tokens that were found in the KV cache; None without any."""
        prompt, cached, _ = self._tokens.over(window, self._clock()).tolist()
        return cached / prompt if prompt else None

    def _rate(self, counter: int, window: Window) -> float:
        now_s = self._clock()
        count = float(self._tokens.over(window, now_s)[counter])
        # a second at least: at the very start a few tokens are no rate
        return count / max(1.0, self._tokens.covered_s(window, now_s))


class Activities:
    """The activity of each model under each profile that has served. The event loop's thread only."""

    def __init__(self, clock: Callable[[], float]) -> None:
        """clock: seconds that never go back."""
        self.clock = clock
        self._since_s = clock()
        self._of: dict[tuple[str, str], Activity] = {}

    def of(self, model: str, profile: str) -> Activity:
        """Return the activity of `model` under `profile`, empty at first."""
        key = (model, profile)
        if key not in self._of:
            self._of[key] = Activity(model, profile, self.clock, self._since_s)
        return self._of[key]

    def all(self) -> list[Activity]:
        """Return every activity there is."""
        return list(self._of.values())

    def spread(
        self, measure: Callable[[Activity, Window], Spread], window: Window, counts: Callable[[str], bool]
    ) -> Spread:
        """Return a measure's spread over all profiles of the models that count."""
        spreads = (measure(activity, window) for activity in self.all() if counts(activity.model))
        return reduce(add, spreads, NO_SPREAD)

    def error_rate(self, window: Window) -> float | None:
        """Return the share of errors among what completed or failed; None without either."""
        ended: Counter[Outcome] = Counter()
        for activity in self.all():
            ended.update(activity.ended(window))
        errors = ended[Outcome.ERROR]
        answered = errors + sum(ended[outcome] for outcome in COMPLETED)
        return errors / answered if answered else None
