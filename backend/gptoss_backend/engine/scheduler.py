"""Which sequences run in the next step, and how far.

Stage 4 of a request: schedule. Owns: the waiting queue, the running set, preemption.
Does not know: tensors, sampling, clients, deadlines.

Continuous batching with chunked prefill: each step takes one token of every decoding sequence and, besides, at most
`prefill_chunk_tokens` prompt tokens, fewer where those would take long (`pace.py`), so a long prompt never stalls the
others by more than one chunk. A prompt that does not fit into what is left of a chunk takes half of it: a short
newcomer need not wait for a long one to end.

One order, from the most to the least urgent, decides who is admitted, whose prompt is computed and who gives way: lower
priority values first, first come within one. A step of priority is worth `priority_step_s` seconds of waiting, so
whoever waits rises past all that come later, and no flood starves anybody. The most urgent waits for nobody but those
already running: when blocks run out, the least urgent running sequence gives up its own and waits to be recomputed.
Nobody overtakes a prompt for which there is no room yet, else short ones would keep a long one out for ever. Who begins
like a prompt that is being computed waits until that is done, and need not compute it again.

Where several steps may be under way at once, each takes its share of the decoding sequences, and none that another has;
the chunks of a prompt follow one another without waiting for the first to be done. A model that runs ahead takes the
next step before it is known what the last one chooses: `step_after`.
"""

from __future__ import annotations

import time

from gptoss_backend.engine.admission import NoRoom, SharedBlock
from gptoss_backend.engine.batch import ScheduledSequence
from gptoss_backend.engine.errors import CacheFull
from gptoss_backend.engine.guessing import Guesser
from gptoss_backend.engine.kv_cache import KVCache
from gptoss_backend.engine.pace import Pace
from gptoss_backend.engine.sequence import Sequence
from gptoss_backend.engine.step import Choice, Step
from gptoss_backend.engine.urgency import ByUrgency

PRIORITY_STEP_S = 10.0
MAX_SCORED_ROWS = 64
"""Prompt tokens of one step whose logits are looked at: all vocabularies together 51 MB."""
_MOST_GUESSED_ROWS = 32
"""Guesses behind the prompts of one step, each of which has a row of logits."""


class Scheduler:
    """Orders the sequences over one KV cache. Used by the engine's thread only."""

    def __init__(
        self,
        cache: KVCache,
        prefill_chunk_tokens: int,
        priority_step_s: float = PRIORITY_STEP_S,
        guesser: Guesser | None = None,
        num_micro_batches: int = 1,
    ) -> None:
        """guesser: None: nothing is guessed. num_micro_batches: steps that will be under way at once."""
        self._cache = cache
        self._block_size = cache.plan.block_size
        self.pace = Pace(prefill_chunk_tokens)
        self._priority_step_s = priority_step_s
        self.guesser = guesser or Guesser()
        self._num_micro_batches = num_micro_batches
        self._waiting = ByUrgency()
        self._running = ByUrgency()
        self._num_added = 0
        self._refusal: NoRoom | None = None
        self._was_short = False  # the last step, of blocks that others hold who were under way
        self.num_preemptions = 0
        self.num_prefix_queries = 0
        """Prompt tokens that the cache was asked for; not again where a sequence comes back."""
        self.num_prefix_hits = 0
        """Those among them that were there."""

    @property
    def num_waiting(self) -> int:
        """Sequences without a row."""
        return len(self._waiting)

    @property
    def running(self) -> list[Sequence]:
        """Sequences with a row, the most urgent first."""
        return list(self._running)

    @property
    def num_running(self) -> int:
        """Sequences with a row."""
        return len(self._running)

    def __contains__(self, sequence: Sequence) -> bool:
        """True where the sequence runs or waits."""
        return sequence in self._running or sequence in self._waiting

    def add(self, sequence: Sequence) -> None:
        """Queue a sequence, in the order of urgency."""
        self._num_added += 1
        urgency = sequence.submitted_s + sequence.request.sampling.priority * self._priority_step_s
        sequence.rank = (urgency, self._num_added)
        self._waiting.add(sequence)

    def remove(self, sequence: Sequence) -> None:
        """Take a sequence out for good, wherever it is, and give its blocks back."""
        sequence.edits = None  # a step under way has a row of it still
        if sequence.has_row:
            self._running.remove(sequence)
            self._release(sequence)
        else:
            self._waiting.remove(sequence)

    def next_step(self) -> Step:
        """Choose the next step's work and make room for it; empty where nothing can run. It is to be launched next."""
        step = self._choose()
        self._guess(step)
        return step

    def step_after(self, step: Step) -> Step | None:
        """Do the same behind `step`, which is under way, before it is known what that chooses.

        None where the next step is better chosen once that is known: somebody may be guessed at, or would have to give
        way. What is computed of a sequence that ends meanwhile is in vain: nothing is noted of it. Those behind whose
        tokens there are guesses in `step` sit out: how far they have come is not known.
        """
        if step.drafts or self._was_short:
            return None
        going_on = step.note_awaited()
        if self.guesser.may_guess_next(going_on) or not all(self._has_room(sequence, 1) for sequence in going_on):
            return None
        return self._choose()

    def advance(self, step: Step, choices: list[Choice]) -> None:
        """Note that `step` has been computed: its keys and values are in the cache, and `choices` follow.

        Nothing is noted of sequences that were removed in the meantime.
        """
        step.note_done()
        for sequence, tokens, _ in choices:
            sequence.token_ids.extend(tokens)
        for sequence in step.decodes:
            sequence.num_computed += 1
            if not sequence.num_computed % self._block_size and sequence.has_row:
                self._cache.commit(sequence.row, sequence.token_ids, sequence.num_computed)
        parts = step.parts
        kept = {sequence: len(tokens) - 1 for sequence, tokens, _ in choices} if parts else {}
        for part in parts:
            sequence = part.sequence
            sequence.num_computed += part.num_tokens + (kept[sequence] if part.samples else 0)
            if sequence.has_row:
                self._cache.commit(sequence.row, sequence.token_ids, sequence.num_computed)
            if part.guesses:
                self.guesser.note(part, kept[sequence])

    def _choose(self) -> Step:
        """Return the next step without guesses behind decodes.

        Costs time in proportion to the sequences that run, whatever their length and however many wait.
        """
        step = Step()
        self._was_short = False
        budget = self.pace.chunk(is_waited_for=any(sequence.is_decoding for sequence in self._running))
        preemptions = self.num_preemptions
        max_decodes = -(-len(self._running) // self._num_micro_batches)
        index = 0
        while index < len(self._running):  # preemption shortens the list from its end
            sequence = self._running[index]
            if sequence.num_pending <= 0:
                pass  # all of it is under way
            elif sequence.is_decoding:
                # a block that was begun has room
                if len(step.decodes) < max_decodes and (
                    sequence.num_taken % self._block_size or self._make_room(sequence, 1)
                ):
                    step.decodes.append(sequence)
            elif budget:
                if self.num_preemptions == preemptions:
                    num_before = len(self._running)
                    budget = self._admit(step, budget, before=sequence)
                    index += len(self._running) - num_before
                budget -= self._prefill(step, sequence, budget)
            index += 1
        if self.num_preemptions == preemptions:  # else whatever room there is belongs to those already running
            budget = self._admit(step, budget)
        self._spend_rest(step, budget)
        return step

    def _guess(self, step: Step) -> None:
        """Have guesses computed behind decodes, where nobody's prompt is computed; nobody gives way to a guess."""
        if step.prefills:
            return
        step.drafts = self.guesser.behind_decodes(step.decodes, self._has_room)
        for part in step.drafts:
            step.decodes.remove(part.sequence)

    def _has_room(self, sequence: Sequence, num_tokens: int) -> bool:
        try:
            self._cache.reserve(sequence.row, sequence.num_taken + num_tokens)
        except CacheFull:
            return False
        return True

    def _prefill(self, step: Step, sequence: Sequence, budget: int) -> int:
        """Schedule all that is pending, or half of `budget`, if there is room; returns how many tokens that is."""
        count = self._chunk_of(step, sequence, budget)
        if not (count and self._make_room(sequence, count)):
            return 0
        part = self._part(step, sequence, count, budget)
        step.prefills.append(part)
        return part.num_computed

    @staticmethod
    def _chunk_of(step: Step, sequence: Sequence, budget: int) -> int:
        """Return how many of a prompt's tokens come next: all that are pending, or half of `budget`."""
        count = sequence.num_pending if sequence.num_pending <= budget else (budget + 1) // 2
        return min(count, MAX_SCORED_ROWS - step.num_scored) if sequence.scored(count) else count

    def _part(self, step: Step, sequence: Sequence, count: int, budget: int) -> ScheduledSequence:
        """Return the next tokens of a prompt; behind its end what will nearly always come, as far as there is room."""
        scored = sequence.scored(count)
        if count < sequence.num_pending:
            return ScheduledSequence(sequence, count, samples=False, scored=scored)
        num_guessed = sum(len(part.guesses) for part in step.prefills)
        guesses = self.guesser.phrase_behind(sequence, min(budget - count, _MOST_GUESSED_ROWS - num_guessed))
        if guesses and not self._has_room(sequence, count + len(guesses)):
            guesses = ()
        return ScheduledSequence(sequence, count, samples=True, scored=scored, guesses=guesses)

    def _spend_rest(self, step: Step, budget: int) -> None:
        """Give what nobody has taken of the chunk to the most urgent prompts that go on; nobody is preempted for it."""
        for index, part in enumerate(step.prefills):
            sequence = part.sequence
            count = min(sequence.num_pending, part.num_tokens + budget)
            if count == part.num_tokens or part.scored:
                continue
            if not self._has_room(sequence, count):
                return
            step.prefills[index] = self._part(step, sequence, count, part.num_tokens + budget)
            budget -= step.prefills[index].num_computed - part.num_tokens

    def _make_room(self, sequence: Sequence, num_tokens: int) -> bool:
        """Reserve blocks for next tokens, preempting the least urgent while there are none.

        False where the sequence itself was the least urgent.
        """
        while True:
            try:
                self._cache.reserve(sequence.row, sequence.num_taken + num_tokens)
            except CacheFull:
                victim = self._running[-1]
                if victim.num_launched:  # its blocks are being written to; it may be asked once it is back
                    self._was_short = True
                    return False
                self._preempt(victim)
                if victim is sequence:
                    return False
            else:
                return True

    def _admit(self, step: Step, budget: int, before: Sequence | None = None) -> int:
        """Start waiting sequences, those more urgent than `before` where it is given; returns the budget left."""
        under_way = [SharedBlock.of(leader, self._block_size) for leader in self._running if leader.num_uncomputed > 1]
        num_passed = 0  # they wait for what is under way, and nobody behind them gets the rows that they will need
        while budget and num_passed < min(len(self._waiting), self._cache.num_free_rows):
            sequence = self._waiting[num_passed]
            if before is not None and sequence.rank > before.rank:
                break
            if any(beginning.will_serve(sequence) for beginning in under_way):
                num_passed += 1
                continue
            if not self._open(sequence):
                break
            if not self._has_room(sequence, self._chunk_of(step, sequence, budget)):
                self._release(sequence)  # steps under way hold what it wants: nobody gives way to a newcomer
                break
            self._waiting.remove(sequence)
            self._running.add(sequence)
            under_way.append(SharedBlock.of(sequence, self._block_size))
            if sequence.scheduled_s is None:
                sequence.scheduled_s = time.monotonic()
                sequence.cached_tokens = sequence.num_computed
                self.num_prefix_queries += sequence.num_prompt
                self.num_prefix_hits += sequence.cached_tokens
                step.admitted.append(sequence)
            if sequence.num_pending > 1 or self.guesser.phrase_behind(sequence):
                budget -= self._prefill(step, sequence, budget)
            else:
                step.decodes.append(sequence)
                budget -= 1
        return budget

    def _open(self, sequence: Sequence) -> bool:
        """Give a sequence a row, if there is room for the whole of it beside what is running."""
        if self._refusal is not None and self._refusal.stands(sequence, self._cache):
            return False
        # what prompts under way have yet to take, and a block more for every running sequence, which may soon want one
        spare = len(self._running) + sum(self._cache.num_missing(s.row, len(s.token_ids)) for s in self._running)
        try:
            sequence.row, sequence.num_computed = self._cache.open(sequence.token_ids, spare, sequence.block_hashes)
        except CacheFull:
            self._refusal = NoRoom.of(sequence, self._cache)
            return False
        return True

    def _preempt(self, victim: Sequence) -> None:
        self._running.remove(victim)
        self._release(victim)
        self._waiting.add(victim)
        self.num_preemptions += 1

    def _release(self, sequence: Sequence) -> None:
        self._cache.close(sequence.row)
        sequence.row = -1
        sequence.num_computed = 0
