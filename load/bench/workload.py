"""What every server is asked.

Stage: before a run.
Owns: the prompts and how many of them make a round.
Does not know: HTTP, servers, time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import Final

LEAST_REQUESTS: Final = 4
"""Requests of a round at the least: one alone is over too soon to be timed well."""


@dataclass(frozen=True, slots=True)
class Workload:
    """One round: `num_requests` prompts, `concurrency` of them under way at any time until none is left."""

    concurrency: int
    num_prompt_tokens: int = 200
    num_new_tokens: int = 64

    @property
    def num_requests(self) -> int:
        """Requests of a round: one for each stream, or LEAST_REQUESTS."""
        return max(self.concurrency, LEAST_REQUESTS)


def make_prompts(words: Sequence[int], count: int, num_tokens: int, *, seed: str) -> list[list[int]]:
    """Return `count` prompts of random words, the same for the same seed.

    words: token ids to draw from. Prompts share no beginning, so no server's prefix cache is of use.
    """
    rng = Random(seed)
    return [rng.choices(words, k=num_tokens) for _ in range(count)]
