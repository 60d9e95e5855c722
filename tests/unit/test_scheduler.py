"""The scheduler under random arrivals, priorities, lengths, cancellations, deadlines and shortage, over many steps."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from itertools import accumulate
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptoss_backend.contract import SamplingParams
from gptoss_backend.engine.kv_cache import CachePlan, KVCache, extend_block_hashes
from gptoss_backend.engine.scheduler import Scheduler, Step
from gptoss_backend.engine.sequence import GenerationRequest, Sequence
from gptoss_backend.engine.speculation import PromptLookup, Speculation

BLOCK = 4
MAX_LEN = 48
ROWS = 5
CHUNK = 10
NUM_FULL = 20  # enough for one whole context and little more, so that preemption is common
PRIORITY_STEP_S = 10.0


class Simulation:
    """Plays the engine: computes steps by adding tokens, and checks every promise after each. A step takes a second."""

    def __init__(
        self,
        *,
        num_full: int = NUM_FULL,
        rows: int = ROWS,
        max_len: int = MAX_LEN,
        speculation: Speculation | None = None,
        num_micro_batches: int = 1,
        has_head: bool = False,
    ) -> None:
        """num_micro_batches: steps under way at once; their keys and values are written in the order of launch."""
        plan = CachePlan(BLOCK, rows, max_len, num_full, 1 + 2 * (rows * 5 + CHUNK), num_bytes=0)
        self.cache = KVCache(plan, sliding_window=8)
        self.speculation = speculation
        self.scheduler = Scheduler(
            self.cache,
            CHUNK,
            PRIORITY_STEP_S,
            speculation,
            num_micro_batches=num_micro_batches,
            drafter=self.draft if has_head else None,
        )
        self.num_micro_batches = num_micro_batches
        self.launched: deque[tuple[Step, list[int]]] = deque()
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
            sequence.lookup = PromptLookup(sequence.token_ids)
        extend_block_hashes(sequence.block_hashes, sequence.token_ids, BLOCK)
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
        step, picked = self.launched.popleft()
        choices = step.choices(picked)
        self.scheduler.advance(step, choices)
        for sequence, tokens in choices:
            if sequence.row < 0:  # ended while the step was under way
                continue
            name = sequence.request.request_id
            self.left[name] -= len(tokens)
            if self.left[name] == 0:
                check_tokens(sequence)
                self.end(name)
        return step

    def launch(self) -> bool:
        """Begin a step; False where there is nothing for one."""
        preemptions = self.scheduler.num_preemptions
        under_way = [sequence for sequence in self.scheduler.running if sequence.is_in_flight]
        step = self.scheduler.next_step()
        self.check(step, under_way, preempted=self.scheduler.num_preemptions > preemptions)
        self.write(step)
        if step:
            self.launched.append((step, picks(step)))
        return bool(step)

    def run(self, most_steps: int) -> int:
        """Step until nobody is left; returns how many steps that took."""
        for count in range(most_steps):
            if not self.live:
                return count
            self.step()
        raise AssertionError(f"after {most_steps} steps these are still there: {sorted(self.live)}")

    def check(self, step: Step, under_way: list[Sequence], *, preempted: bool) -> None:
        scheduled = step.decodes + [part.sequence for part in step.prefills]
        scheduled += [draft.sequence for draft in step.drafts]
        assert not (step.drafts and step.prefills)
        running = self.scheduler.running
        assert len(set(map(id, scheduled))) == len(scheduled), "a sequence runs twice in one step"
        assert all(sequence in running for sequence in scheduled), "a sequence runs without its blocks"
        assert sum(part.num_tokens for part in step.prefills) <= CHUNK
        assert len(running) <= self.cache.plan.num_rows
        assert len(running) + self.scheduler.num_waiting == len(self.live), "a request was lost"
        assert [s.rank for s in running] == sorted(s.rank for s in running)
        assert not set(map(id, scheduled)) & set(map(id, under_way)), "a sequence is in two steps under way"
        assert all(sequence in running for sequence in under_way if sequence.row >= 0), "its blocks were taken away"
        if self.live:
            assert scheduled or under_way, "requests wait, yet nothing runs"
            assert running[0] in scheduled + under_way or self.num_micro_batches > 1, "the most urgent stands still"
        for sequence in running if self.num_micro_batches == 1 else ():
            is_decoding = sequence.num_pending == 1
            assert not is_decoding or sequence in scheduled, "a decoding sequence was left out"
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
        no_guess: list[int] = []
        parts = [(sequence, 1, no_guess) for sequence in step.decodes]
        parts += [(part.sequence, part.num_tokens, no_guess) for part in step.prefills]
        parts += [(draft.sequence, 1 + len(draft.tokens), draft.tokens) for draft in step.drafts]
        expected = {}
        for sequence, count, guess in parts:
            end = sequence.num_computed + count
            token_ids = [*sequence.token_ids, *guess][:end]
            expected[sequence] = list(accumulate(token_ids, lambda before, token: hash((before, token))))
            for position in range(sequence.num_computed, end):
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


def picks(step: Step) -> list[int]:
    """Return the model's choice for each of the step's samples."""
    chosen = [successor(list(sequence.token_ids)) for sequence in step.decodes]
    chosen += [successor(list(part.sequence.token_ids)) for part in step.prefills if part.samples]
    for draft in step.drafts:
        before = list(draft.sequence.token_ids)
        chosen += [successor(before + draft.tokens[:count]) for count in range(len(draft.tokens) + 1)]
    return chosen


def check_tokens(sequence: Sequence) -> None:
    """The answer is what the model says token by token, however it was computed."""
    token_ids = list(sequence.request.prompt_ids)
    for _ in range(sequence.max_tokens):
        token_ids.append(successor(token_ids))
    assert list(sequence.token_ids) == token_ids


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_scheduler_when_driven_at_random_then_nothing_is_lost_leaked_or_starved(data: st.DataObject) -> None:
    limits = data.draw(st.one_of(st.none(), st.builds(Speculation, st.integers(1, 6), st.integers(1, ROWS))))
    simulation = Simulation(
        speculation=limits, num_micro_batches=data.draw(st.integers(1, 3)), has_head=data.draw(st.booleans())
    )
    for _ in range(data.draw(st.integers(1, 12))):
        for _ in range(data.draw(st.integers(0, 4))):
            simulation.add(
                data.draw(st.integers(1, MAX_LEN - 1)),
                data.draw(st.integers(1, 40)),
                alphabet=data.draw(st.integers(1, 3)),  # few, so that prompts share beginnings
                priority=data.draw(st.integers(-2, 2)),
                timeout_s=data.draw(st.one_of(st.just(float("inf")), st.floats(0.5, 60.0))),
            )
        if data.draw(st.booleans()):
            simulation.cancel(data.draw(st.integers(0, 100)))
        for _ in range(data.draw(st.integers(0, 25))):
            simulation.step()
    simulation.run(20 * sum(MAX_LEN + left for left in simulation.left.values()) + 10)
    simulation.check_nothing_is_held()


def test_draft_when_a_lookup_finds_nothing_then_the_head_is_asked_and_only_then() -> None:
    asked: list[int] = []
    simulation = Simulation(speculation=Speculation(3, max_seqs=1), has_head=True)
    simulation.scheduler._drafter = lambda sequences, count: asked.append(count) or simulation.draft(sequences, count)
    simulation.add([1, 3, 0, 4, 2], 9)
    simulation.run(6)
    assert asked[0] == 3
    assert simulation.scheduler.num_accepted > 0
    num_asked = len(asked)
    simulation.add([1, 2, 3, 4, 1, 2, 3], 2)  # the lookup says 4 after these
    simulation.run(3)
    assert len(asked) == num_asked


def test_decoding_when_steps_may_be_under_way_together_then_each_has_its_share() -> None:
    simulation = Simulation(num_micro_batches=2)
    names = [simulation.add(3, 20, alphabet=alphabet) for alphabet in (1, 2, 3, 4)]
    for _ in range(4):
        simulation.step()
    simulation.step()
    [(step, _)] = simulation.launched
    assert len(step.decodes) == 2, "as many as the step before it had"
    simulation.run(200)
    assert sorted(simulation.ended) == names


def test_scheduler_when_blocks_run_out_then_the_youngest_gives_way_and_the_oldest_ends_first() -> None:
    simulation = Simulation()
    names = [simulation.add(20, 28, alphabet=alphabet) for alphabet in (1, 2, 3)]
    simulation.run(500)
    assert simulation.scheduler.num_preemptions > 0
    assert simulation.ended == names


def test_scheduler_when_blocks_run_out_then_the_least_urgent_gives_way_however_old() -> None:
    simulation = Simulation()
    old = simulation.add(20, 28, alphabet=1, priority=3)
    simulation.step()
    young = simulation.add(20, 28, alphabet=2)
    simulation.run(500)
    assert simulation.scheduler.num_preemptions > 0
    assert simulation.ended == [young, old]


def test_queue_when_priorities_differ_then_lower_ones_go_first_and_first_come_within_one() -> None:
    simulation = Simulation(rows=1)
    simulation.add(4, 4)
    simulation.step()
    late, first, urgent, second = (simulation.add(4, 4, priority=priority) for priority in (1, 0, -1, 0))
    simulation.run(100)
    assert simulation.ended == ["0", urgent, first, second, late]


def test_prompt_when_a_more_urgent_one_arrives_amid_its_prefill_then_that_goes_before_it() -> None:
    simulation = Simulation(num_full=200, max_len=400)
    long = simulation.add(300, 1)
    simulation.step()
    urgent = simulation.add(2 * CHUNK, 4, alphabet=2, priority=-1)
    parts = simulation.step().prefills
    assert [part.sequence.request.request_id for part in parts] == [urgent, long]
    assert parts[0].num_tokens >= CHUNK // 2
    while urgent in simulation.live:
        simulation.step()
    assert long in simulation.live


def test_waiting_when_more_urgent_ones_keep_coming_then_it_runs_after_its_steps_of_priority() -> None:
    simulation = Simulation(rows=1)
    simulation.add(4, 4)
    patient = simulation.add(4, 4, priority=3)
    started_s = simulation.now_s
    while patient in simulation.live:
        simulation.add(4, 4)
        simulation.step()
        assert simulation.now_s < 1000, "starved by a flood"
    # whoever came within three steps of priority goes before it, and nobody else: 30 arrivals of 4 steps each
    assert simulation.now_s - started_s <= (3 * PRIORITY_STEP_S + 2) * 5
    before = len(simulation.ended) - 1
    assert before <= 3 * PRIORITY_STEP_S + 2


def test_long_prompt_when_short_ones_keep_coming_then_nobody_starts_before_it() -> None:
    simulation = Simulation()  # the long prompt fits only alone
    for _ in range(3):
        simulation.add(8, 12, alphabet=1)
    for _ in range(3):  # the second and the third wait for what the first computes of their prompt
        simulation.step()
    long = simulation.add(MAX_LEN - 2, 2, alphabet=2)
    sequence = simulation.live[long]
    while sequence.scheduled_s is None:
        simulation.add(4, 4, alphabet=3)
        admitted = simulation.step().admitted
        assert admitted in ([], [sequence]) or admitted[0] is sequence
        assert simulation.now_s < 100, "starved by a flood"


def test_decoding_when_long_prompts_flood_in_then_every_step_has_every_decode_and_one_chunk() -> None:
    simulation = Simulation(num_full=2000, rows=40, max_len=400)
    decoding = [simulation.add(3, 100, alphabet=i + 1) for i in range(3)]
    simulation.step()
    for i in range(30):
        simulation.add([i + 5] * 300, 4)
    for _ in range(99):
        step = simulation.step()
        assert {sequence.request.request_id for sequence in step.decodes} >= set(decoding) & set(simulation.live)
        assert sum(part.num_tokens for part in step.prefills) == CHUNK
    assert set(decoding) <= set(simulation.ended), "a token a step, however many prompts wait"


def test_newcomer_when_running_ones_will_want_the_last_blocks_then_it_waits_and_nobody_is_preempted() -> None:
    simulation = Simulation(num_full=13)
    for alphabet in (1, 2):
        simulation.add(16, 4, alphabet=alphabet)  # 5 blocks each before they end
    for _ in range(4):
        simulation.step()
    assert simulation.cache.full.pool.num_free in (2, 3)
    simulation.add(4 * simulation.cache.full.pool.num_free, 1, alphabet=3)
    simulation.run(100)
    assert simulation.scheduler.num_preemptions == 0


def test_newcomer_when_a_prompt_under_way_has_yet_to_take_its_blocks_then_it_waits() -> None:
    simulation = Simulation(num_full=20)
    simulation.add(44, 1, alphabet=1)  # 11 blocks, 3 of them taken in its first step
    simulation.step()
    simulation.add(44, 1, alphabet=2, priority=-1)
    simulation.run(100)
    assert simulation.scheduler.num_preemptions == 0
    assert simulation.ended == ["0", "1"]


def test_preempted_when_readmitted_then_what_it_had_computed_is_mostly_found_again() -> None:
    simulation = Simulation(num_full=60, max_len=200)
    for alphabet in (1, 2):
        simulation.add([alphabet * 10 + i % 7 for i in range(100)], 60)
    num_computed = 0
    for _ in range(1000):
        if not simulation.live:
            break
        step = simulation.step()
        num_computed += len(step.decodes) + sum(part.num_tokens for part in step.prefills)
    assert not simulation.live
    assert simulation.scheduler.num_preemptions > 0
    assert num_computed < 1.25 * 2 * 160


class CountingCache(KVCache):
    """Counts how often it is asked for room."""

    num_opens = 0

    def open(self, *args: Any, **options: Any) -> tuple[int, int]:  # noqa: ANN401
        self.num_opens += 1
        return super().open(*args, **options)


def test_waiting_when_nothing_has_ended_then_the_cache_is_not_asked_again() -> None:
    simulation = Simulation(num_full=14)
    cache = CountingCache(simulation.cache.plan, 8)
    simulation.cache, simulation.scheduler = cache, Scheduler(cache, CHUNK)
    simulation.add(8, 30, alphabet=1)
    simulation.step()
    simulation.add(MAX_LEN - 1, 1, alphabet=2)
    for _ in range(20):
        simulation.step()
    assert cache.num_opens == 2
    simulation.run(100)
    assert cache.num_opens == 3


@pytest.mark.parametrize("running", [True, False])
def test_remove_when_hundreds_are_cancelled_at_once_then_the_others_stay_in_order(running: bool) -> None:
    simulation = Simulation(num_full=3000, rows=512 if running else 1)
    names = [simulation.add(1, 4, alphabet=i % 5 + 1) for i in range(500)]
    for _ in range(60):
        simulation.step()
    stay = [name for name in names[1::100] if name in simulation.live]
    for name in [name for name in simulation.live if name not in stay]:
        simulation.end(name)
    before = len(simulation.ended)
    simulation.run(500)
    assert simulation.ended[before:] == stay
    simulation.check_nothing_is_held()


def test_short_prompt_when_it_comes_after_a_long_one_then_it_need_not_wait_for_its_end() -> None:
    simulation = Simulation()
    simulation.add(MAX_LEN - 2, 2, alphabet=1)
    simulation.step()
    simulation.add(4, 1, alphabet=2)
    simulation.step()
    assert "1" not in simulation.live
    assert "0" in simulation.live


def test_copies_when_they_come_together_then_their_prompt_is_computed_once() -> None:
    simulation = Simulation(num_full=400, max_len=400)
    prompt = [i % 4 for i in range(100)]
    copies = [simulation.add(prompt, 4) for _ in range(4)]
    other = simulation.add([4] * 8, 1)
    num_computed = 0
    while simulation.live:
        step = simulation.step()
        num_computed += sum(part.num_tokens for part in step.prefills)
        assert other not in simulation.live or simulation.now_s < 4, "it need not wait for them"
    assert simulation.ended == [other, *copies]
    # a copy computes its last token, or the block that holds it, to have something to say
    assert num_computed <= 100 + 8 + 3 * BLOCK


def test_copies_when_the_first_is_cancelled_amid_its_prompt_then_the_next_goes_on_from_there() -> None:
    simulation = Simulation(num_full=400, max_len=400)
    first, second = (simulation.add([i % 4 for i in range(100)], 4) for _ in range(2))
    simulation.step()
    simulation.end(first)
    [part] = simulation.step().prefills
    assert part.sequence is simulation.live[second]
    assert part.sequence.cached_tokens == CHUNK // BLOCK * BLOCK
    simulation.run(100)
    simulation.check_nothing_is_held()


def test_copy_when_it_is_more_urgent_than_the_one_being_computed_then_it_does_not_wait() -> None:
    simulation = Simulation(num_full=400, max_len=400)
    slow = simulation.add([i % 4 for i in range(100)], 4)
    simulation.step()
    urgent = simulation.add([i % 4 for i in range(100)], 4, priority=-1)
    simulation.step()
    assert simulation.live[urgent] in simulation.scheduler.running
    simulation.run(100)
    assert simulation.ended == [urgent, slow]
