"""A request inside the engine, and what the engine says of it.

Owns: `GenerationRequest` (in), `Sequence` (the state between), `TokenDelta` (out).
"""

from __future__ import annotations

import random
import secrets
import time
from dataclasses import dataclass, field

from gptoss_backend.contract import Finished, FinishReason, SamplingParams, Started, Timings


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """One prompt and how to continue it. `request_id` is unique among those in the engine."""

    request_id: str
    prompt_ids: list[int]
    sampling: SamplingParams


@dataclass(frozen=True, slots=True)
class TokenDelta:
    """What is new about one request after a step.

    The first delta of a request carries Started; the last one Finished, or `error`, a sentence, in its place.
    """

    request_id: str
    token_ids: tuple[int, ...] = ()
    event: Started | Finished | None = None
    error: str | None = None

    @property
    def is_last(self) -> bool:
        """True where nothing more will be said of the request."""
        return self.error is not None or isinstance(self.event, Finished)


@dataclass(slots=True, eq=False)
class Sequence:
    """A request under way. Only the engine's thread touches it once it is submitted."""

    request: GenerationRequest
    max_tokens: int
    """The request's, cut to what the context leaves."""
    token_ids: list[int] = field(init=False)
    """Prompt, then generated tokens."""
    num_computed: int = 0
    """Leading tokens whose keys and values are in the cache."""
    row: int = -1
    """Row of the cache's block tables while running."""
    cached_tokens: int = 0
    random: random.Random = field(init=False, repr=False)
    submitted_s: float = field(default_factory=time.monotonic)
    scheduled_s: float | None = None
    first_token_s: float | None = None

    def __post_init__(self) -> None:
        self.token_ids = list(self.request.prompt_ids)
        seed = self.request.sampling.seed
        self.random = random.Random(secrets.randbits(64) if seed is None else seed)

    @property
    def num_prompt(self) -> int:
        """Tokens of the prompt."""
        return len(self.request.prompt_ids)

    @property
    def num_generated(self) -> int:
        """Tokens generated so far."""
        return len(self.token_ids) - len(self.request.prompt_ids)

    @property
    def num_pending(self) -> int:
        """Tokens to compute before the next one can be sampled: 1 while decoding, more in prefill."""
        return len(self.token_ids) - self.num_computed

    def started(self) -> Started:
        """Return the first event."""
        return Started(prompt_tokens=self.num_prompt, cached_tokens=self.cached_tokens)

    def finished(self, reason: FinishReason) -> Finished:
        """Return the last event, with timings up to now."""
        total_s = time.monotonic() - self.submitted_s
        return Finished(
            finish_reason=reason,
            prompt_tokens=self.num_prompt,
            completion_tokens=self.num_generated,
            cached_tokens=self.cached_tokens,
            timings=Timings(
                queue_s=total_s if self.scheduled_s is None else self.scheduled_s - self.submitted_s,
                first_token_s=total_s if self.first_token_s is None else self.first_token_s - self.submitted_s,
                total_s=total_s,
            ),
        )
