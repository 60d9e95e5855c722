"""What the engine writes down of its work.

Stages 4 and 5 of a request: schedule, step. Owns: what each step adds to the counts, the pace of observations.
Does not know: who reads them, requests that no step computes.
"""

from __future__ import annotations

import time
from dataclasses import replace

from gptoss_backend.engine.kv_cache import KVCache
from gptoss_backend.engine.news import News
from gptoss_backend.engine.observations import EngineStats, Measure, Observations
from gptoss_backend.engine.scheduler import Scheduler
from gptoss_backend.engine.step import Step

# each observation costs whoever publishes it a round trip, and a small model takes a thousand steps a second
_BATCH_SIZE_PERIOD_S = 0.1


class Ledger:
    """Counts and observations, written by the engine's thread; any thread may ask for a copy of the counts."""

    def __init__(self, *, num_cache_blocks: int, max_model_len: int) -> None:
        self.counts = EngineStats(num_cache_blocks=num_cache_blocks, max_model_len=max_model_len)
        self.observations = Observations()
        self._progressed_s = 0.0  # when a step was last done
        self._next_look_s = 0.0  # when the batch size is next observed

    def copy(self, busy_since_s: float | None) -> EngineStats:
        """Return the counts as they are. busy_since_s: since when there has been work; None: there is none."""
        since_s = None if busy_since_s is None else max(self._progressed_s, busy_since_s)
        return replace(self.counts, stalled_s=0.0 if since_s is None else time.monotonic() - since_s)

    def note_step(self, step: Step, news: News) -> None:
        """Note what came of a step."""
        self._progressed_s = news.now_s
        counts = self.counts
        counts.num_steps += 1
        counts.num_finished += len(news.finished)
        counts.num_failed += len(news.failed)
        counts.num_generated_tokens += news.num_tokens
        counts.num_prompt_tokens += sum(part.num_tokens for part in step.prefills)
        if news.now_s >= self._next_look_s:
            self._next_look_s = news.now_s + _BATCH_SIZE_PERIOD_S
            self.observations.add(Measure.BATCH_SIZE, step.num_sequences)
        for measure, value in news.measures:
            self.observations.add(measure, value)

    def note_state(self, scheduler: Scheduler, cache: KVCache) -> None:
        """Note what others count, and how things stand."""
        counts = self.counts
        counts.num_preemptions = scheduler.num_preemptions
        counts.num_drafted_tokens = scheduler.guesser.num_drafted
        counts.num_accepted_tokens = scheduler.guesser.num_accepted
        counts.num_running = scheduler.num_running
        counts.num_waiting = scheduler.num_waiting
        counts.num_prefix_queries = scheduler.num_prefix_queries
        counts.num_prefix_hits = scheduler.num_prefix_hits
        counts.num_cache_blocks_used = cache.full.pool.num_used
