"""The scheduler under random arrivals, priorities, lengths, cancellations, deadlines and shortage, over many steps."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gptoss_backend.engine.errors import CacheFull
from gptoss_backend.engine.kv_cache import KVCache
from gptoss_backend.engine.scheduler import Scheduler
from gptoss_backend.engine.speculation import NO_PHRASES, Phrases, Speculation
from support.scheduling import CHUNK, MAX_LEN, PRIORITY_STEP_S, ROWS, Simulation

# what the simulated model says after a 4, but for a break now and then, and what it never says
PHRASES = Phrases({(4,): (0, 1, 2), (1, 2): (0, 1)})


@pytest.mark.parametrize("runs_ahead", [False, True])
@settings(max_examples=120, deadline=None)
@given(st.data())
def test_scheduler_when_driven_at_random_then_nothing_is_lost_leaked_or_starved(
    runs_ahead: bool, data: st.DataObject
) -> None:
    limits = data.draw(st.one_of(st.none(), st.builds(Speculation, st.integers(1, 6), st.integers(1, ROWS))))
    simulation = Simulation(
        speculation=limits,
        num_micro_batches=1 if runs_ahead else data.draw(st.integers(1, 8)),
        runs_ahead=runs_ahead,
        has_head=data.draw(st.booleans()),
        phrases=data.draw(st.sampled_from([NO_PHRASES, PHRASES])),
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
    simulation.scheduler.guesser._drafter = lambda sequences, count: (
        asked.append(count) or simulation.draft(sequences, count)
    )
    simulation.add([1, 3, 0, 4, 2], 9)
    simulation.run(6)
    assert asked[0] == 3
    assert simulation.scheduler.guesser.num_accepted > 0
    num_asked = len(asked)
    simulation.add([1, 2, 3, 4, 1, 2, 3], 2)  # the lookup says 4 after these
    simulation.run(3)
    assert len(asked) == num_asked


def test_prompt_when_a_phrase_comes_after_it_then_one_step_computes_both() -> None:
    simulation = Simulation(phrases=PHRASES)
    name = simulation.add([0, 1, 2, 3, 4], 6)
    [part] = simulation.step().prefills
    assert (part.num_tokens, part.guesses) == (5, (0, 1, 2))
    assert list(simulation.live[name].token_ids)[5:] == [0, 1, 2, 3]
    assert simulation.step().decodes, "on its way through an answer nobody guesses unasked"
    assert simulation.step().decodes
    assert simulation.ended == [name]
    assert (simulation.scheduler.guesser.num_drafted, simulation.scheduler.guesser.num_accepted) == (3, 3)


def test_prompt_when_little_of_the_chunk_is_left_or_wanted_then_no_more_of_a_phrase_is_computed() -> None:
    simulation = Simulation(phrases=PHRASES)
    simulation.add([1, 2, 3, 4], 6)
    simulation.add([4], 2)
    simulation.add([4], 9)
    simulation.add([3, 4], 1)
    parts = simulation.step().prefills
    assert [(part.num_tokens, part.guesses) for part in parts] == [(4, (0, 1, 2)), (1, (0,)), (1, ())]
    assert simulation.step().prefills[0].guesses == (), "its answer is a single token"


def test_decoding_when_few_are_guessed_at_then_a_phrase_comes_before_a_lookup() -> None:
    simulation = Simulation(speculation=Speculation(1, max_seqs=1), phrases=PHRASES)
    simulation.add([4, 0, 1, 2], 7)  # then 3, 4, and the phrase
    drafts = [part.guesses for _ in range(4) for part in simulation.step().drafts]
    assert (0, 1, 2) in drafts


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


def test_prompt_when_steps_may_be_under_way_together_then_its_chunks_follow_one_another() -> None:
    simulation = Simulation(num_full=40, max_len=100, num_micro_batches=3)
    simulation.add([i % 4 for i in range(65)], 2)
    for _ in range(4):
        simulation.step()
        assert len(simulation.launched) == 2, "a stage has nothing to do"
    simulation.run(20)
    simulation.check_nothing_is_held()


def test_steps_when_prompts_come_and_go_then_each_is_chosen_before_the_last_one_is_done() -> None:
    simulation = Simulation(num_full=100, runs_ahead=True, phrases=PHRASES)
    for length in (3, 25, 7, 12, 4, 30, 5):
        simulation.add(length, 12)
    num_steps = simulation.run(60)
    assert simulation.num_ahead >= num_steps - 2  # all but the first, and one after nothing was left to await
    simulation.check_nothing_is_held()


def test_prompt_when_it_wants_blocks_of_one_whose_step_is_under_way_then_it_has_them_as_soon_as_that_is_done(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    simulation = Simulation(num_full=100, max_len=100, runs_ahead=True)
    less_urgent = simulation.live[simulation.add(4, 40, priority=9)]
    simulation.step()
    urgent = simulation.live[simulation.add(5 * CHUNK, 2)]
    simulation.step()
    reserve = simulation.cache.reserve

    def reserve_while_there_is_one(row: int, num_tokens: int) -> None:
        if row == urgent.row and less_urgent.has_row and num_tokens > urgent.num_taken:
            raise CacheFull
        reserve(row, num_tokens)

    monkeypatch.setattr(simulation.cache, "reserve", reserve_while_there_is_one)
    for _ in range(3):  # the first finds that there is none amid what is under way, the second waits for that
        simulation.step()
    assert simulation.scheduler.num_preemptions == 1
    monkeypatch.undo()
    simulation.run(200)
    simulation.check_nothing_is_held()


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


@pytest.mark.parametrize("num_sliding", [None, 23])
def test_newcomer_when_chunks_under_way_hold_the_blocks_that_it_wants_then_it_waits_and_nobody_is_preempted(
    num_sliding: int | None,
) -> None:
    # ten steps take 25 blocks; None: as the engine plans for them
    simulation = Simulation(num_full=400, rows=2, max_len=1000, num_micro_batches=10, num_sliding=num_sliding)
    simulation.add([i % 11 for i in range(600)], 3)
    for _ in range(5):
        simulation.step()
    newcomer = simulation.live[simulation.add([5] * 9, 3, priority=-2)]  # more urgent than what is under way
    simulation.step()
    assert newcomer.has_row == (num_sliding is None)
    simulation.run(400)
    assert simulation.scheduler.num_preemptions == 0
    simulation.check_nothing_is_held()


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
    # what it finds of its own is no hit
    assert (simulation.scheduler.num_prefix_queries, simulation.scheduler.num_prefix_hits) == (200, 0)


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
