"""Prompts that begin alike, in the scheduler: who computes the beginning, who waits, who goes before whom."""

from __future__ import annotations

from support.scheduling import BLOCK, CHUNK, Simulation


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


def test_copies_when_others_keep_coming_then_a_row_is_held_for_each_of_them() -> None:
    simulation = Simulation(num_full=400, max_len=400, rows=3)
    copies = [simulation.add([i % 4 for i in range(100)], 4) for _ in range(2)]
    for _ in range(30):
        simulation.add(1, 60, alphabet=4)
        simulation.step()
    assert not set(copies) & set(simulation.live), "the second waited for strangers"
    simulation.run(2000)
    simulation.check_nothing_is_held()


def test_refused_when_more_of_its_prompt_is_there_then_it_need_not_wait_for_an_end() -> None:
    simulation = Simulation(num_full=28, max_len=100)
    leader = simulation.add([i % 4 for i in range(80)], 12)
    simulation.step()
    # it does not wait to find the prompt, being more urgent, and so there is no room for the whole of it yet
    urgent = simulation.add([i % 4 for i in range(81)], 1, priority=-1)
    short = simulation.add(1, 1, alphabet=4)
    simulation.step()
    assert simulation.live[urgent].row < 0
    simulation.run(100)
    assert simulation.ended == [urgent, short, leader] or simulation.ended == [short, urgent, leader]
