"""The scheduler under random arrivals, lengths, cancellations and shortage, over thousands of steps."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from gptoss_backend.contract import SamplingParams
from gptoss_backend.engine.kv_cache import CachePlan, KVCache
from gptoss_backend.engine.scheduler import Scheduler
from gptoss_backend.engine.sequence import GenerationRequest, Sequence

BLOCK = 4
MAX_LEN = 48
ROWS = 5
CHUNK = 10
NUM_FULL = 20  # enough for one whole context and little more, so that preemption is common


class Simulation:
    """Plays the engine: computes steps by adding tokens, and checks every promise after each."""

    def __init__(self) -> None:
        plan = CachePlan(BLOCK, ROWS, MAX_LEN, NUM_FULL, 2 * ROWS * 5, num_bytes=0)
        self.cache = KVCache(plan, sliding_window=8)
        self.scheduler = Scheduler(self.cache, CHUNK)
        self.left: dict[str, int] = {}
        self.live: dict[str, Sequence] = {}
        self.num_added = 0
        self.num_ended = 0

    def add(self, prompt_length: int, num_tokens: int, alphabet: int) -> None:
        name = str(self.num_added)
        self.num_added += 1
        prompt = [(i * 7 + alphabet) % (alphabet + 1) for i in range(prompt_length)]
        limit = min(num_tokens, MAX_LEN - prompt_length)
        sequence = Sequence(GenerationRequest(name, prompt, SamplingParams()), max_tokens=limit)
        self.live[name], self.left[name] = sequence, limit
        self.scheduler.add(sequence)

    def cancel(self, index: int) -> None:
        if self.live:
            self.end(sorted(self.live)[index % len(self.live)])

    def end(self, name: str) -> None:
        self.scheduler.remove(self.live.pop(name))
        del self.left[name]
        self.num_ended += 1

    def step(self) -> bool:
        step = self.scheduler.next_step()
        if not step:
            assert not self.live, "requests wait, yet nothing runs"
            return False
        scheduled = step.decodes + [part.sequence for part in step.prefills]
        assert len(set(map(id, scheduled))) == len(scheduled), "a sequence runs twice in one step"
        assert sum(part.num_tokens for part in step.prefills) <= CHUNK
        assert self.scheduler.num_running <= ROWS
        self.check_tables()
        sampled = step.sampled
        self.scheduler.advance(step)
        for sequence in sampled:
            name = sequence.request.request_id
            sequence.token_ids.append(3)
            self.left[name] -= 1
            if self.left[name] == 0:
                self.end(name)
        return True

    def check_tables(self) -> None:
        """Every running sequence can reach what it needs, and blocks that are written are its own."""
        writers: set[int] = set()
        for sequence in self.scheduler.running:
            table = self.cache.full.table[sequence.row].tolist()
            needed = -(-sequence.num_computed // BLOCK)
            assert 0 not in table[:needed]
            window = self.cache.sliding.table[sequence.row].tolist()
            first = self.cache.sliding.first_needed(sequence.num_computed)
            assert 0 not in window[first:needed]
            open_blocks = {block for block in table[sequence.num_computed // BLOCK :] if block}
            assert not writers & open_blocks, "two sequences write one block"
            writers |= open_blocks


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_scheduler_when_driven_at_random_then_nothing_is_lost_leaked_or_starved(data: st.DataObject) -> None:
    simulation = Simulation()
    for _ in range(data.draw(st.integers(1, 12))):
        for _ in range(data.draw(st.integers(0, 4))):
            simulation.add(
                data.draw(st.integers(1, MAX_LEN - 1)), data.draw(st.integers(1, 40)), data.draw(st.integers(1, 3))
            )
        if data.draw(st.booleans()):
            simulation.cancel(data.draw(st.integers(0, 100)))
        for _ in range(data.draw(st.integers(0, 25))):
            simulation.step()
    work = sum(MAX_LEN + left for left in simulation.left.values())
    for _ in range(20 * work + 10):
        if not simulation.step():
            break
    assert simulation.num_ended == simulation.num_added
    assert simulation.scheduler.num_running == simulation.scheduler.num_waiting == 0
    assert simulation.cache.full.pool.num_used == simulation.cache.sliding.pool.num_used == 0
    assert simulation.cache.num_free_rows == ROWS


def test_scheduler_when_blocks_run_out_then_the_youngest_gives_way_and_the_oldest_ends_first() -> None:
    simulation = Simulation()
    for alphabet in (1, 2, 3):
        simulation.add(20, 28, alphabet)
    ended: list[str] = []
    while simulation.step():
        ended += [name for name in ("0", "1", "2") if name not in simulation.live and name not in ended]
    assert simulation.scheduler.num_preemptions > 0
    assert ended == ["0", "1", "2"]
