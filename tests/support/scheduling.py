"""A scheduler driven as the engine drives it, every promise of which is checked after each step."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from itertools import accumulate

from gptoss_backend.contract import SamplingParams
from gptoss_backend.engine.batch import ScheduledSequence
from gptoss_backend.engine.cache_plan import CacheLimits, CachePlan, most_sliding_blocks
from gptoss_backend.engine.guessing import Guesser
from gptoss_backend.engine.kv_cache import KVCache
from gptoss_backend.engine.scheduler import Scheduler
from gptoss_backend.engine.sequence import GenerationRequest, Sequence
from gptoss_backend.engine.speculation import NO_PHRASES, Phrases, PromptLookup, Speculation, accept
from gptoss_backend.engine.step import Choice, Step, Turn

BLOCK = 4
MAX_LEN = 48
ROWS = 5
WINDOW = 8
CHUNK = 10
NUM_FULL = 20  # enough for one whole context and little more, so that preemption is common
PRIORITY_STEP_S = 10.0


class Simulation:
    """Plays the engine: computes steps by adding tokens, and checks every promise after each. A step takes a second."""

    def __init__(
        self,
        *,
        num_full: int = NUM_FULL,
        num_sliding: int | None = None,
        rows: int = ROWS,
        max_len: int = MAX_LEN,
        speculation: Speculation | None = None,
        num_micro_batches: int = 1,
        runs_ahead: bool = False,
        has_head: bool = False,
        phrases: Phrases = NO_PHRASES,
    ) -> None:
        """num_sliding: None: as many as the engine would plan.

        num_micro_batches: steps under way at once; their keys and values are written in the order of launch.
        runs_ahead: each next step is chosen before the last one's tokens are known.
        """
        longest = phrases.longest if speculation is None else max(speculation.num_tokens, phrases.longest)
        limits = CacheLimits(
            BLOCK,
            rows,
            rows + max(CHUNK, longest * rows),
            max_model_len=max_len,
            max_steps=num_micro_batches + int(runs_ahead),
        )
        if num_sliding is None:
            num_sliding = 1 + most_sliding_blocks(WINDOW, limits, max_len)
        plan = CachePlan(BLOCK, rows, max_len, num_full, num_sliding, num_bytes=0)
        self.cache = KVCache(plan, WINDOW)
        self.speculation = speculation
        self.scheduler = Scheduler(
            self.cache,
            CHUNK,
            PRIORITY_STEP_S,
            Guesser(speculation, phrases, self.draft if has_head else None),
            num_micro_batches=num_micro_batches,
        )
        self.num_micro_batches = num_micro_batches
        self.runs_ahead = runs_ahead
        self.num_ahead = 0
        self.awaited: dict[Sequence, int] = {}
        self.launched: deque[tuple[Step, list[Choice]]] = deque()
        self.now_s = 0.0
        self.live: dict[str, Sequence] = {}
        self.left: dict[str, int] = {}
        self.num_added = 0
        self.ended: list[str] = []
        self.content: dict[int, int] = {}  # by slot of the full layers

    def add(
        self,
        prompt: int | list[int],
        num_tokens: int,
        *,
        alphabet: int = 1,
        priority: int = 0,
        timeout_s: float = float("inf"),
    ) -> str:
        name = str(self.num_added)
        self.num_added += 1
        if isinstance(prompt, int):
            prompt = [(i * 7 + alphabet) % (alphabet + 1) for i in range(prompt)]
        limit = min(num_tokens, self.cache.plan.max_model_len - len(prompt))
        request = GenerationRequest(name, prompt, SamplingParams(priority=priority))
        sequence = Sequence(request, max_tokens=limit, submitted_s=self.now_s, deadline_s=self.now_s + timeout_s)
        if self.speculation is not None:
            sequence.lookup = PromptLookup()
        sequence.block_hashes.extend_over(sequence.token_ids, BLOCK)
        self.live[name], self.left[name] = sequence, limit
        self.scheduler.add(sequence)
        return name

    def cancel(self, index: int) -> None:
        if self.live:
            self.end(sorted(self.live)[index % len(self.live)])

    def end(self, name: str) -> None:
        self.scheduler.remove(self.live.pop(name))
        del self.left[name]
        self.ended.append(name)

    def step(self) -> Step:
        self.now_s += 1.0
        for name in [name for name, sequence in self.live.items() if sequence.deadline_s <= self.now_s]:
            self.end(name)
        while len(self.launched) < self.num_micro_batches and self.launch():
            pass
        if not self.launched:
            return Step()
        step, choices = self.launched.popleft()
        if self.runs_ahead:
            self.num_ahead += self.launch(behind=(step, choices))
        self.scheduler.advance(step, choices)
        for sequence, tokens, _ in choices:
            if not sequence.has_row:  # ended while the step was under way
                continue
            name = sequence.request.request_id
            self.left[name] -= len(tokens)
            if self.left[name] == 0:
                check_tokens(sequence)
                self.end(name)
        return step

    def launch(self, behind: tuple[Step, list[Choice]] | None = None) -> bool:
        """Begin a step; False where there is nothing for one. behind: one under way, and what it will choose."""
        preemptions = self.scheduler.num_preemptions
        under_way = [sequence for sequence in self.scheduler.running if sequence.num_launched]
        if behind is None:
            step = self.scheduler.next_step()
        else:
            following = self.scheduler.step_after(behind[0])
            if following is None:
                return False
            step = following
            self.awaited = {sequence: tokens[0] for sequence, tokens, _ in behind[1] if sequence.awaited_as is not None}
        self.check(step, under_way, preempted=self.scheduler.num_preemptions > preemptions)
        assert all(len(self.tokens_of(s)) - s.num_prompt < s.max_tokens for s in step.decodes), "computed in vain"
        self.write(step)
        if step:
            step.note_launched()
            self.launched.append((step, [self.choice(turn) for turn in step.turns]))
        self.awaited = {}
        return bool(step)

    def tokens_of(self, sequence: Sequence) -> list[int]:
        """Return a sequence's tokens, with one that nobody else knows yet."""
        return [*sequence.token_ids, *([self.awaited[sequence]] if sequence in self.awaited else [])]

    def choice(self, turn: Turn) -> Choice:
        """Return what the model chooses in a turn."""
        sequence, guesses = turn
        before = self.tokens_of(sequence)
        picked = [successor([*before, *guesses[:count]]) for count in range(turn.num_rows)]
        return Choice(sequence, sequence.until_end(accept(guesses, picked)))

    def run(self, most_steps: int) -> int:
        """Step until nobody is left; returns how many steps that took."""
        for count in range(most_steps):
            if not self.live:
                return count
            self.step()
        raise AssertionError(f"after {most_steps} steps these are still there: {sorted(self.live)}")

    def check(self, step: Step, under_way: list[Sequence], *, preempted: bool) -> None:
        scheduled = step.decodes + [part.sequence for part in step.parts]
        assert not (step.drafts and step.prefills)
        running = self.scheduler.running
        assert len(set(map(id, scheduled))) == len(scheduled), "a sequence runs twice in one step"
        assert all(sequence in running for sequence in scheduled), "a sequence runs without its blocks"
        assert sum(part.num_computed for part in step.prefills) <= CHUNK
        assert len(running) <= self.cache.plan.num_rows
        assert len(running) + self.scheduler.num_waiting == len(self.live), "a request was lost"
        assert [s.rank for s in running] == sorted(s.rank for s in running)
        chosen_for = [s for s in step.decodes if s not in self.awaited] + [draft.sequence for draft in step.drafts]
        assert not set(map(id, chosen_for)) & set(map(id, under_way)), "a sequence is chosen for in two steps under way"
        assert all(sequence in running for sequence in under_way if sequence.has_row), "its blocks were taken away"
        if self.live:
            assert scheduled or under_way, "requests wait, yet nothing runs"
            assert running[0] in scheduled + under_way or self.num_micro_batches > 1, "the most urgent stands still"
        for sequence in running if self.num_micro_batches == 1 else ():
            is_decoding = sequence.num_pending == 1
            # whose blocks it would need may not be asked before the step under way is done
            assert not is_decoding or sequence in scheduled or under_way, "a decoding sequence was left out"
            assert sequence.awaited_as is None or sequence in scheduled, "an awaited token was left out"
        assert not (preempted and step.admitted), "a newcomer took the room of one that was preempted"
        self.check_tables(running)

    def check_tables(self, running: Iterable[Sequence]) -> None:
        """Every running sequence can reach what it needs, and blocks that are written are its own."""
        writers: set[int] = set()
        for sequence in running:
            table = self.cache.full.table[sequence.row].tolist()
            needed = -(-sequence.num_computed // BLOCK)
            assert 0 not in table[:needed]
            window = self.cache.sliding.table[sequence.row].tolist()
            first = self.cache.sliding.first_needed(sequence.num_computed)
            assert 0 not in window[first:needed]
            open_blocks = {block for block in table[sequence.num_computed // BLOCK :] if block}
            assert not writers & open_blocks, "two sequences write one block"
            writers |= open_blocks

    def write(self, step: Step) -> None:
        """Keep in each slot what a real cache would: a value that depends on all tokens before. Check what is read."""
        parts = [ScheduledSequence(sequence, 1, samples=True) for sequence in step.decodes] + step.parts
        expected = {}
        for part in parts:
            sequence, end = part.sequence, part.sequence.num_taken + part.num_computed
            token_ids = [*self.tokens_of(sequence), *part.guesses][:end]
            expected[sequence] = list(accumulate(token_ids, lambda before, token: hash((before, token))))
            for position in range(sequence.num_taken, end):
                self.content[self.slot(sequence, position)] = expected[sequence][position]
        for sequence, values in expected.items():
            seen = [self.content[self.slot(sequence, position)] for position in range(len(values))]
            assert seen == values, "a sequence reads what belongs to another beginning"

    def draft(self, sequences: list[Sequence], num_tokens: int) -> list[list[int]]:
        """Guess as a head does: what it keeps of its guesses lies in the slots behind the computed tokens."""
        for sequence in sequences:
            assert sequence.num_computed > 0, "there is nothing to guess from"
            for count in range(num_tokens):
                slot = self.slot(sequence, sequence.num_computed + count)
                assert slot >= BLOCK, "a guess has no block"
                self.content[slot] = 0
        return [[(sequence.token_ids[-1] + 1 + i) % 5 for i in range(num_tokens)] for sequence in sequences]

    def slot(self, sequence: Sequence, position: int) -> int:
        return int(self.cache.full.table[sequence.row, position // BLOCK]) * BLOCK + position % BLOCK

    def check_nothing_is_held(self) -> None:
        assert len(self.ended) == len(set(self.ended)) == self.num_added
        assert self.scheduler.num_running == self.scheduler.num_waiting == 0
        assert self.cache.full.pool.num_used == self.cache.sliding.pool.num_used == 0
        assert self.cache.num_free_rows == self.cache.plan.num_rows


def successor(token_ids: list[int]) -> int:
    """What the model says next: a pattern, so that guesses come true, with a break now and then."""
    return 9 if len(token_ids) % 17 == 0 else (token_ids[-1] + 1) % 5


def check_tokens(sequence: Sequence) -> None:
    """The answer is what the model says token by token, however it was computed."""
    token_ids = list(sequence.request.prompt_ids)
    for _ in range(sequence.max_tokens):
        token_ids.append(successor(token_ids))
    assert list(sequence.token_ids) == token_ids
