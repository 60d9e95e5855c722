"""Which sequences run in the next step, and how far.

Stage 4 of a request: schedule. Owns: the waiting queue, the running set, preemption.
Does not know: tensors, sampling, clients.

Continuous batching with chunked prefill: each step takes one token of every decoding sequence and, besides, at most
`prefill_chunk_tokens` prompt tokens, so a long prompt never stalls the others by more than one chunk. First come,
first served. When blocks run out the youngest running sequence gives up its blocks and waits, at the head of the queue,
to be recomputed.
"""

from __future__ import annotations

import time
from collections import deque
from dataclasses import dataclass, field

from gptoss_backend.engine.batch import ScheduledSequence
from gptoss_backend.engine.errors import CacheFull
from gptoss_backend.engine.kv_cache import KVCache
from gptoss_backend.engine.sequence import Sequence


@dataclass(slots=True)
class Step:
    """What the next step computes."""

    decodes: list[Sequence] = field(default_factory=list)
    """One pending token each."""
    prefills: list[ScheduledSequence] = field(default_factory=list)
    admitted: list[Sequence] = field(default_factory=list)
    """Those among them that run for the first time."""

    @property
    def sampled(self) -> list[Sequence]:
        """Sequences whose last token is computed, in the order of the batch's logits."""
        return self.decodes + [part.sequence for part in self.prefills if part.samples]

    def __bool__(self) -> bool:
        return bool(self.decodes or self.prefills)


class Scheduler:
    """Orders the sequences over one KV cache. Used by the engine's thread only."""

    def __init__(self, cache: KVCache, prefill_chunk_tokens: int) -> None:
        self._cache = cache
        self._prefill_chunk_tokens = prefill_chunk_tokens
        self._waiting: deque[Sequence] = deque()
        self._running: list[Sequence] = []  # oldest first
        self.num_preemptions = 0

    @property
    def num_waiting(self) -> int:
        """Sequences without a row."""
        return len(self._waiting)

    @property
    def running(self) -> list[Sequence]:
        """Sequences with a row, oldest first."""
        return list(self._running)

    @property
    def num_running(self) -> int:
        """Sequences with a row."""
        return len(self._running)

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence behind the others."""
        self._waiting.append(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Take a sequence out, wherever it is, and give its blocks back."""
        if sequence.row >= 0:
            self._running.remove(sequence)
            self._release(sequence)
        else:
            self._waiting.remove(sequence)

    def next_step(self) -> Step:
        """Choose the next step's work and make room for it; empty where nothing can run."""
        step = Step()
        preemptions = self.num_preemptions
        budget = self._schedule_running(step)
        if self.num_preemptions == preemptions:  # else whatever room there is belongs to those already running
            self._admit(step, budget)
        return step

    def advance(self, step: Step) -> None:
        """Note that `step` has been computed: its keys and values are in the cache."""
        for sequence in step.decodes:
            sequence.num_computed += 1
            self._cache.commit(sequence.row, sequence.token_ids, sequence.num_computed)
        for part in step.prefills:
            sequence = part.sequence
            sequence.num_computed += part.num_tokens
            self._cache.commit(sequence.row, sequence.token_ids, sequence.num_computed)

    def _schedule_running(self, step: Step) -> int:
        """Take the running sequences, the oldest first; returns the prefill tokens left."""
        budget = self._prefill_chunk_tokens
        index = 0
        while index < len(self._running):  # preemption shortens the list from its end
            sequence = self._running[index]
            index += 1
            pending = sequence.num_pending
            if pending == 1:
                if self._make_room(sequence, 1):
                    step.decodes.append(sequence)
            elif budget:
                count = min(pending, budget)
                if self._make_room(sequence, count):
                    step.prefills.append(ScheduledSequence(sequence, count, samples=count == sequence.num_pending))
                    budget -= count
        return budget

    def _make_room(self, sequence: Sequence, num_tokens: int) -> bool:
        """Reserve blocks for the next tokens, preempting the youngest while there are none; False if that was it."""
        while True:
            try:
                self._cache.reserve(sequence.row, sequence.num_computed + num_tokens)
            except CacheFull:
                victim = self._running.pop()
                self._preempt(victim)
                if victim is sequence:
                    return False
            else:
                return True

    def _admit(self, step: Step, budget: int) -> None:
        while self._waiting and budget:
            sequence = self._waiting[0]
            try:
                # every running sequence may want a block before the newcomer ends
                sequence.row, cached = self._cache.open(sequence.token_ids, spare_blocks=len(self._running))
            except CacheFull:
                return
            self._waiting.popleft()
            self._running.append(sequence)
            sequence.num_computed = cached
            if sequence.scheduled_s is None:
                sequence.scheduled_s = time.monotonic()
                sequence.cached_tokens = cached
                step.admitted.append(sequence)
            count = min(sequence.num_pending, budget)
            if not self._make_room(sequence, count):
                return
            budget -= count
            if sequence.num_pending == 1:
                step.decodes.append(sequence)
            else:
                step.prefills.append(ScheduledSequence(sequence, count, samples=count == sequence.num_pending))

    def _preempt(self, victim: Sequence) -> None:
        self._release(victim)
        self._waiting.appendleft(victim)
        self.num_preemptions += 1

    def _release(self, sequence: Sequence) -> None:
        self._cache.close(sequence.row)
        sequence.row = -1
        sequence.num_computed = 0
