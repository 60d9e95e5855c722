"""The engine's loop and its promises to callers, over a model without arithmetic."""

from __future__ import annotations

import dataclasses
import queue
import threading
import time
from collections.abc import Iterator
from random import Random

import pytest
import torch

from gptoss_backend.contract import Finished, FinishReason, GenerationErrorCode, SamplingParams, Started
from gptoss_backend.engine.engine import Engine
from gptoss_backend.engine.errors import EngineStopped, InvalidRequest, PromptTooLong, QueueFull
from gptoss_backend.engine.grammar import TokenMask
from gptoss_backend.engine.observations import Measure, Observations
from gptoss_backend.engine.options import EngineOptions
from gptoss_backend.engine.sequence import GenerationRequest, TokenDelta
from gptoss_backend.engine.speculation import Speculation
from support.fake_model import FakeAheadModel, FakeModel, FakePipelineModel
from support.shapes import tiny_config
from support.toy_mask import ToyMask

OPTIONS = EngineOptions(
    max_num_seqs=4, max_queue=8, prefill_chunk_tokens=32, kv_cache_bytes=8 * 2**20, max_model_len=512
)
GREEDY = SamplingParams(temperature=0.0, max_tokens=8)


class Running:
    """A started engine and what it has said."""

    def __init__(self, model: FakeModel, options: EngineOptions) -> None:
        self.model = model
        self.said: queue.SimpleQueue[list[TokenDelta]] = queue.SimpleQueue()
        self.engine = Engine(model, options, self.said.put)
        self.engine.start()

    def submit(
        self, request_id: str, prompt: list[int], sampling: SamplingParams = GREEDY, mask: TokenMask | None = None
    ) -> None:
        self.engine.submit(GenerationRequest(request_id, prompt, sampling, mask))

    def until_last(self, *request_ids: str) -> dict[str, list[TokenDelta]]:
        """Collect deltas until each of these requests has had its last word."""
        deltas: dict[str, list[TokenDelta]] = {}
        open_ids = set(request_ids)
        while open_ids:
            for delta in self.said.get(timeout=10):
                deltas.setdefault(delta.request_id, []).append(delta)
                if delta.is_last:
                    open_ids.discard(delta.request_id)
        return deltas


@pytest.fixture(params=[FakeModel, FakeAheadModel])
def running(request: pytest.FixtureRequest) -> Iterator[Running]:
    running = Running(request.param(), OPTIONS)
    yield running
    running.model.gate.set()
    running.engine.stop(drain_s=0.0)


def tokens_of(deltas: list[TokenDelta]) -> list[int]:
    return [token for delta in deltas for token in delta.token_ids]


def test_request_when_it_runs_then_started_comes_first_and_finished_last_and_tokens_between(running: Running) -> None:
    running.submit("a", [5, 6, 7])
    deltas = running.until_last("a")["a"]
    assert deltas[0].event == Started(prompt_tokens=3, cached_tokens=0)
    last = deltas[-1].event
    assert isinstance(last, Finished)
    assert (last.finish_reason, last.prompt_tokens, last.completion_tokens) == (FinishReason.LENGTH, 3, 8)
    assert 0 <= last.timings.queue_s <= last.timings.first_token_s <= last.timings.total_s
    assert tokens_of(deltas) == list(range(8, 16))
    assert all(delta.event is None for delta in deltas[1:-1])


@pytest.mark.parametrize("stop", [199999, 200002, 200012])
def test_request_when_a_stop_token_comes_then_it_ends_with_it_unless_told_to_ignore_it(stop: int) -> None:
    running = Running(FakeModel(tiny_config(vocab_size=201088, max_positions=4096)), OPTIONS)
    running.submit("a", [stop - 3])
    running.submit("b", [stop - 3], dataclasses.replace(GREEDY, ignore_eos=True))
    deltas = running.until_last("a", "b")
    running.engine.stop(drain_s=0.0)
    assert tokens_of(deltas["a"]) == [stop - 2, stop - 1, stop]
    finished = deltas["a"][-1].event
    assert isinstance(finished, Finished)
    assert finished.finish_reason is FinishReason.STOP
    assert len(tokens_of(deltas["b"])) == 8


def test_request_when_the_context_ends_before_max_tokens_then_length(running: Running) -> None:
    running.submit("a", [1] * 500, SamplingParams(temperature=0.0, max_tokens=100))
    running.submit("b", [1] * 500, SamplingParams(temperature=0.0))
    deltas = running.until_last("a", "b")
    for name in "ab":
        event = deltas[name][-1].event
        assert isinstance(event, Finished)
        assert (event.finish_reason, event.completion_tokens) == (FinishReason.LENGTH, 12)


def test_request_when_its_prompt_was_seen_then_cached_tokens_are_told(running: Running) -> None:
    prompt = list(range(100))
    running.submit("a", prompt)
    running.until_last("a")
    running.submit("b", prompt)
    deltas = running.until_last("b")["b"]
    assert deltas[0].event == Started(prompt_tokens=100, cached_tokens=96)
    assert tokens_of(deltas) == list(range(100, 108))


def test_prompt_when_it_cannot_be_served_then_it_is_refused_with_a_sentence(running: Running) -> None:
    # the words by which clients know it
    sentences = "This model's maximum context length is 512 tokens. However, your prompt has 512 tokens. Please reduce"
    with pytest.raises(PromptTooLong, match=sentences):
        running.submit("a", [1] * 512)
    with pytest.raises(InvalidRequest, match="empty"):
        running.submit("a", [])
    for token in (-1, 512):
        with pytest.raises(InvalidRequest, match="outside 0 to 511"):
            running.submit("a", [1, token])


def test_submit_when_the_queue_is_full_then_it_is_refused_and_the_others_are_served(running: Running) -> None:
    running.model.gate.clear()
    names = [str(i) for i in range(12)]  # 4 places and a queue of 8
    for name in names:
        running.submit(name, [1])
    with pytest.raises(QueueFull, match="12 requests"):
        running.submit("one too many", [1])
    running.model.gate.set()
    assert set(running.until_last(*names)) == set(names)
    running.submit("again", [1])
    running.until_last("again")


def test_cancel_when_a_request_runs_or_waits_then_it_ends_as_cancelled_and_frees_its_blocks(running: Running) -> None:
    running.model.gate.clear()
    names = [str(i) for i in range(6)]
    for name in names:
        running.submit(name, list(range(40)), SamplingParams(temperature=0.0))
    for name in names[1:]:
        running.engine.cancel(name)
    running.engine.cancel("never heard of")
    running.model.gate.set()
    deltas = running.until_last(*names)
    for name in names[1:]:
        event = deltas[name][-1].event
        assert isinstance(event, Finished)
        assert event.finish_reason is FinishReason.CANCELLED
    assert len(tokens_of(deltas["0"])) == 472
    wait_until(lambda: running.engine.stats().num_cache_blocks_used == 0)
    assert running.engine.stats().num_cancelled == 5


def test_step_when_it_fails_then_its_requests_end_with_an_error_and_later_ones_are_served(running: Running) -> None:
    running.model.fail_on = 77
    running.submit("bad", [70])
    error = running.until_last("bad")["bad"][-1].error
    assert error == "the model failed while computing this request"
    running.submit("good", [1])
    assert tokens_of(running.until_last("good")["good"]) == list(range(2, 10))


def test_step_when_it_fails_and_the_device_is_lost_then_the_engine_is_at_its_end_and_says_why(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def broken(device: torch.device) -> None:
        raise RuntimeError("CUDA error: an illegal memory access was encountered\nSearch for it in the manual")

    model = FakeModel()
    running = Running(model, OPTIONS)
    model.fail_on = 77
    model.device = torch.device("cuda")  # from now on: nothing is computed there
    monkeypatch.setattr(torch.cuda, "synchronize", broken)
    running.submit("bad", [70])
    sentence = "the GPU computes no more for this process: CUDA error: an illegal memory access was encountered"
    assert running.until_last("bad")["bad"][-1].error == sentence
    wait_until(lambda: not running.engine.is_alive)
    assert running.engine.fault == sentence
    with pytest.raises(EngineStopped):
        running.submit("later", [1])


def test_step_when_it_fails_while_another_is_under_way_then_later_requests_get_tokens_of_their_own() -> None:
    model = FakePipelineModel()
    running = Running(model, OPTIONS)
    model.fail_on = 77
    model.gate.clear()
    for name, token in {"bad": 70, "beside": 20}.items():
        running.submit(name, [token], dataclasses.replace(GREEDY, max_tokens=100))
    model.gate.set()
    assert running.until_last("bad")["bad"][-1].error == "the model failed while computing this request"
    running.submit("good", [1])
    assert tokens_of(running.until_last("good")["good"]) == list(range(2, 10))
    running.engine.stop(drain_s=0.0)


def test_stop_when_requests_outlast_the_drain_then_they_end_with_an_error_and_nothing_more_is_taken() -> None:
    running = Running(FakeModel(), OPTIONS)
    running.model.gate.clear()
    for i in range(6):
        running.submit(str(i), [1], SamplingParams(temperature=0.0))
    stopping = threading.Thread(target=running.engine.stop, args=(0.0,))
    stopping.start()
    wait_until(lambda: _refuses(running))
    running.model.gate.set()
    stopping.join(timeout=10)
    deltas = running.until_last(*(str(i) for i in range(6)))
    last_words = {(parts[-1].error, parts[-1].error_code) for parts in deltas.values()}
    assert last_words == {("the engine has stopped", GenerationErrorCode.SHUTTING_DOWN)}
    assert not running.engine.is_alive


def test_stop_when_requests_finish_in_time_then_they_are_answered() -> None:
    running = Running(FakeModel(), OPTIONS)
    for i in range(6):
        running.submit(str(i), [1])
    running.engine.stop(drain_s=10.0)
    deltas = running.until_last(*(str(i) for i in range(6)))
    assert all(len(tokens_of(parts)) == 8 for parts in deltas.values())


def test_long_prompt_when_others_decode_then_each_step_takes_one_chunk_and_every_decode(running: Running) -> None:
    running.model.gate.clear()
    running.submit("short", [1], SamplingParams(temperature=0.0, max_tokens=50))
    running.submit("long", list(range(200)))
    running.model.gate.set()
    running.until_last("short", "long")
    chunked = [batch for batch in running.model.batches if batch.chunks]
    assert all(sum(chunk.length for chunk in batch.chunks) <= 32 for batch in chunked)
    assert all(batch.num_decodes == 1 for batch in chunked[1:])


def test_request_when_its_deadline_passes_while_it_waits_or_runs_then_it_ends_with_that_error_and_others_go_on() -> (
    None
):
    running = Running(FakeModel(), dataclasses.replace(OPTIONS, max_num_seqs=1))
    running.model.gate.clear()
    running.submit("runs", [1], SamplingParams(temperature=0.0, timeout_s=0.2))
    running.submit("waits", [1], SamplingParams(temperature=0.0, timeout_s=0.1))
    running.submit("has time", [1], dataclasses.replace(GREEDY, timeout_s=60.0))
    time.sleep(0.3)
    running.model.gate.set()
    deltas = running.until_last("runs", "waits", "has time")
    running.engine.stop(drain_s=5.0)
    assert deltas["waits"][-1].error == "the request's time of 0.1 s ran out while it waited"
    assert deltas["runs"][-1].error == "the request's time of 0.2 s ran out (tokens generated: 1)"
    assert {deltas[name][-1].error_code for name in ("runs", "waits")} == {GenerationErrorCode.DEADLINE_EXCEEDED}
    assert len(tokens_of(deltas["has time"])) == 8
    stats = running.engine.stats()
    assert (stats.num_expired, stats.num_finished, stats.num_failed, stats.num_cache_blocks_used) == (2, 1, 0, 0)


def test_request_when_the_server_allows_less_time_than_it_asks_for_then_that_holds() -> None:
    running = Running(FakeModel(), dataclasses.replace(OPTIONS, request_timeout_s=0.1))
    running.model.gate.clear()
    for name, timeout_s in (("more", 60.0), ("none", None)):
        running.submit(name, [1], SamplingParams(temperature=0.0, timeout_s=timeout_s))
    time.sleep(0.15)
    running.model.gate.set()
    deltas = running.until_last("more", "none")
    running.engine.stop(drain_s=5.0)
    for parts in deltas.values():
        assert (parts[-1].error or "").startswith("the request's time of 0.1 s ran out")


def test_priority_when_requests_wait_then_the_lower_value_is_started_first() -> None:
    running = Running(FakeModel(), dataclasses.replace(OPTIONS, max_num_seqs=1))
    running.model.gate.clear()  # its first step waits here until all are queued
    running.submit("runs", [1], dataclasses.replace(GREEDY, max_tokens=500))
    for name, priority in (("late", 1), ("first", 0), ("urgent", -1)):
        running.submit(name, [1], dataclasses.replace(GREEDY, priority=priority))
    running.model.gate.set()
    deltas = running.until_last("runs", "late", "first", "urgent")
    running.engine.stop(drain_s=5.0)
    waited = [name for name in deltas if name != "runs"]
    assert sorted(waited, key=lambda name: queue_s(deltas[name])) == ["urgent", "first", "late"]


def test_stalled_when_the_loop_hangs_with_work_then_it_counts_the_seconds_and_is_zero_without_work(
    running: Running,
) -> None:
    assert running.engine.stats().stalled_s == 0.0
    running.model.gate.clear()
    running.submit("a", [1])
    wait_until(lambda: running.engine.stats().stalled_s > 0.05)
    running.model.gate.set()
    running.until_last("a")
    assert running.engine.stats().stalled_s == 0.0


def test_observations_when_requests_have_run_then_the_batch_and_each_request_was_seen(running: Running) -> None:
    running.submit("a", [1] * 40)
    running.submit("b", [2])
    running.until_last("a", "b")
    wait_until(lambda: running.engine.stats().num_finished == 2)
    seen: dict[Measure, list[float]] = {}
    for measure, value in running.engine.observations.drain():
        seen.setdefault(measure, []).append(value)
    assert sorted(seen[Measure.PROMPT_TOKENS]) == [1, 40]
    assert 1 <= len(seen[Measure.BATCH_SIZE]) <= running.engine.stats().num_steps
    assert set(seen[Measure.BATCH_SIZE]) <= {1, 2}
    for measure in (Measure.QUEUE_S, Measure.FIRST_TOKEN_S, Measure.OUTPUT_TOKEN_S):
        assert len(seen[measure]) == 2
        assert all(0 <= value < 10 for value in seen[measure])
    assert running.engine.observations.drain() == []


def test_observations_when_nobody_drains_them_then_the_oldest_are_lost() -> None:
    observations = Observations(most_held=3)
    for value in range(5):
        observations.add(Measure.BATCH_SIZE, value)
    assert [value for _, value in observations.drain()] == [2, 3, 4]


def test_sink_when_it_fails_amid_a_step_then_the_requests_that_ended_in_it_are_answered_and_the_loop_goes_on() -> None:
    said: queue.SimpleQueue[list[TokenDelta]] = queue.SimpleQueue()
    broken = threading.Event()

    def sink(deltas: list[TokenDelta]) -> None:
        if broken.is_set():
            broken.clear()
            raise RuntimeError("a cosmic ray")
        said.put(deltas)

    running = Running(FakeModel(), OPTIONS)
    engine = Engine(running.model, OPTIONS, sink)
    running.model.gate.clear()
    engine.start()
    broken.set()
    engine.submit(GenerationRequest("ends", [1], SamplingParams(temperature=0.0, max_tokens=1)))
    running.model.gate.set()
    last = said.get(timeout=10)[-1]
    assert (last.request_id, last.error) == ("ends", "the model failed while computing this request")
    assert engine.stats().stalled_s == 0.0, "it still counts as under way"
    engine.stop(drain_s=0.0)
    running.engine.stop(drain_s=0.0)


def test_steps_when_nothing_else_is_to_be_done_then_they_are_launched_before_the_last_one_is_told() -> None:
    model = FakeAheadModel()
    running = Running(model, OPTIONS)
    running.submit("a", [5], dataclasses.replace(GREEDY, max_tokens=20))
    assert tokens_of(running.until_last("a")["a"]) == list(range(6, 26))
    assert model.num_ahead == 19  # all but the first
    running.engine.stop(drain_s=0.0)


def test_steps_when_nobody_could_be_guessed_at_or_let_in_then_they_are_launched_ahead_all_the_same() -> None:
    model = FakeAheadModel()
    options = dataclasses.replace(OPTIONS, block_size=16, max_model_len=140, kv_cache_bytes=215_000)
    running = Running(model, dataclasses.replace(options, speculation=Speculation(num_tokens=4, max_seqs=1)))
    model.gate.clear()
    sampling = dataclasses.replace(GREEDY, max_tokens=20)
    for name in ("a", "b"):  # too many for drafts
        running.submit(name, [5], sampling)
    running.submit("no room yet", [1] * 130, dataclasses.replace(sampling, max_tokens=1))
    model.gate.set()
    running.until_last("a", "b", "no room yet")
    assert model.num_ahead >= 18
    running.submit("alone", list(range(10)), sampling)  # of which no two tokens recur
    before = model.num_ahead
    assert tokens_of(running.until_last("alone")["alone"]) == list(range(10, 30))
    assert model.num_ahead - before == 19  # all behind its prompt's
    running.engine.stop(drain_s=0.0)


def test_steps_when_answers_end_then_those_of_the_others_are_launched_ahead_all_the_same() -> None:
    model = FakeAheadModel()
    running = Running(model, OPTIONS)
    model.gate.clear()
    wanted = {"b": 7, "a": 20, "c": 12}
    for name, num_tokens in wanted.items():
        running.submit(name, [5], dataclasses.replace(GREEDY, max_tokens=num_tokens))
    running.submit("d", [5], dataclasses.replace(GREEDY, max_tokens=20, stop_token_ids=(14,)))  # nobody foresees it
    model.gate.set()
    answers = running.until_last(*wanted, "d")
    for name, num_tokens in wanted.items():
        assert tokens_of(answers[name]) == list(range(6, 6 + num_tokens))
    assert tokens_of(answers["d"])[-1] == 14
    assert len(model.batches) - model.num_ahead <= 2  # the first, and that of whoever came before it was begun
    assert [batch.num_decodes for batch in model.batches[-8:]] == [1] * 8
    running.engine.stop(drain_s=0.0)


def test_steps_when_prompts_follow_on_answers_then_each_is_launched_before_the_last_one_is_told() -> None:
    model = FakeAheadModel()
    running = Running(model, dataclasses.replace(OPTIONS, max_num_seqs=4, max_queue=20))
    model.gate.clear()
    wanted = {str(number): 5 + number % 7 for number in range(20)}
    for number, (name, num_tokens) in enumerate(wanted.items()):
        # some prompts take several steps
        running.submit(name, [5] * (1 + 9 * (number % 5)), dataclasses.replace(GREEDY, max_tokens=num_tokens))
    model.gate.set()
    answers = running.until_last(*wanted)
    for name, num_tokens in wanted.items():
        assert tokens_of(answers[name]) == list(range(6, 6 + num_tokens))
    assert any(batch.chunks and batch.num_decodes for batch in model.batches)
    assert len(model.batches) - model.num_ahead <= 3  # where no answer was under way
    running.engine.stop(drain_s=0.0)


def test_steps_when_a_prompt_s_grammar_has_a_say_then_the_others_wait_for_it_and_go_on_ahead() -> None:
    model = FakeAheadModel()
    running = Running(model, OPTIONS)
    model.gate.clear()
    running.submit("free", [5], dataclasses.replace(GREEDY, max_tokens=30))
    running.submit("held", [5] * 20, dataclasses.replace(GREEDY, max_tokens=20), ToyMask([{3}, *[None] * 30]))
    model.gate.set()
    answers = running.until_last("free", "held")
    assert tokens_of(answers["free"]) == list(range(6, 36))
    assert tokens_of(answers["held"]) == list(range(3, 23))
    assert len(model.batches) - model.num_ahead <= 3
    running.engine.stop(drain_s=0.0)


def test_steps_when_a_grammar_begins_and_ends_amid_an_answer_then_they_run_ahead_where_it_leaves_all_free() -> None:
    places: list[set[int] | None] = [None] * 6 + [{3}, {3, 4}] + [None] * 6 + [{9}] * 3 + [None] * 20
    # drawn tokens are the likeliest, too: this model is nearly sure
    asked = {"free": (GREEDY, None), "held": (GREEDY, places), "drawn": (SamplingParams(seed=1), places)}
    answers = []
    for model in (FakeModel(), FakeAheadModel()):
        running = Running(model, OPTIONS)
        model.gate.clear()
        masks = {name: ToyMask(held) for name, (_, held) in asked.items() if held is not None}
        for name, (sampling, _) in asked.items():
            running.submit(name, [5], dataclasses.replace(sampling, max_tokens=30), masks.get(name))
        model.gate.set()
        answers.append({name: tokens_of(deltas) for name, deltas in running.until_last(*asked).items()})
        assert [len(mask.accepted) for mask in masks.values()] == [30, 30], "each token is told once"
        running.engine.stop(drain_s=0.0)
    assert answers[0] == answers[1]
    assert answers[1]["held"][:9] == [*range(6, 12), 3, 4, 5]
    assert 15 <= model.num_ahead < 29  # type: ignore[attr-defined]


def test_steps_when_a_held_answer_ends_while_the_next_one_is_under_way_then_its_grammar_is_not_asked_again(
    caplog: pytest.LogCaptureFixture,
) -> None:
    running = Running(FakeAheadModel(), OPTIONS)
    running.submit("a", [5], dataclasses.replace(GREEDY, max_tokens=20), ToyMask([None] * 6))
    deltas = running.until_last("a")["a"]
    assert tokens_of(deltas) == list(range(6, 12))
    assert isinstance(deltas[-1].event, Finished)
    running.submit("b", [5])
    running.until_last("b")
    running.engine.stop(drain_s=0.0)
    assert "grammar" not in caplog.text


def test_steps_when_they_run_ahead_and_requests_come_end_and_leave_then_every_answer_is_its_own() -> None:
    model = FakeAheadModel(tiny_config(sliding_window=32, max_positions=4096, vocab_size=10_000))
    # blocks for half of what may run: some are taken out and computed anew
    options = dataclasses.replace(OPTIONS, max_num_seqs=8, max_queue=100, max_model_len=140, kv_cache_bytes=420_000)
    running = Running(model, options)
    model.gate.clear()
    random = Random(3)
    wanted = {str(number): random.randint(1, 95) for number in range(80)}
    left = {name for name in wanted if random.random() < 0.2}
    for name, num_tokens in wanted.items():
        sampling = SamplingParams(max_tokens=num_tokens, temperature=0.0, ignore_eos=True)
        running.submit(name, [100 * int(name)] * random.randint(1, 40), sampling)
        if int(name) == 40:  # half of them find the engine busy, half come in between
            model.gate.set()
        if random.random() < 0.1:
            running.engine.cancel(random.choice(sorted(left)))
    answers = running.until_last(*wanted)
    for name, num_tokens in wanted.items():
        tokens = tokens_of(answers[name])
        assert tokens == list(range(100 * int(name) + 1, 100 * int(name) + 1 + len(tokens)))
        assert len(tokens) == num_tokens or name in left
    assert model.num_ahead > 50
    assert running.engine.stats().num_preemptions > 0
    running.engine.stop(drain_s=0.0)
    assert running.engine.stats().num_cache_blocks_used == 0


def queue_s(deltas: list[TokenDelta]) -> float:
    event = deltas[-1].event
    assert isinstance(event, Finished)
    return event.timings.queue_s


def _refuses(running: Running) -> bool:
    try:
        running.submit("late", [1])
    except EngineStopped:
        return True
    except QueueFull:
        return False
    return False


def wait_until(condition: object, timeout_s: float = 5.0) -> None:
    deadline = time.monotonic() + timeout_s
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.005)
