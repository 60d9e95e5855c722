"""The engine's loop and its promises to callers, over a model without arithmetic."""

from __future__ import annotations

import dataclasses
import queue
import threading
import time
from collections.abc import Iterator

import pytest
import torch

from gptoss_backend.contract import Finished, FinishReason, GenerationErrorCode, SamplingParams, Started
from gptoss_backend.engine.cache_plan import CachePlan
from gptoss_backend.engine.engine import Engine
from gptoss_backend.engine.errors import EngineStopped, InvalidRequest, PromptTooLong, QueueFull
from gptoss_backend.engine.observations import Measure, Observations
from gptoss_backend.engine.sequence import GenerationRequest, TokenDelta
from gptoss_backend.engine.speculation import Phrases, Speculation
from support.fake_model import FakeAheadModel, FakeModel, FakePipelineModel
from support.generating import deltas_of
from support.running_engine import GREEDY, OPTIONS, Running, tokens_of
from support.shapes import tiny_config


@pytest.fixture(params=[FakeModel, FakeAheadModel])
def running(request: pytest.FixtureRequest) -> Iterator[Running]:
    running = Running(request.param(), OPTIONS)
    yield running
    running.model.gate.set()
    running.engine.stop(drain_s=0.0)


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


def test_step_when_more_is_guessed_than_a_chunk_holds_then_the_cache_was_planned_for_it() -> None:
    plans: list[CachePlan] = []

    class Planned(FakeModel):
        def allocate_cache(self, plan: CachePlan) -> None:
            plans.append(plan)

    options = dataclasses.replace(
        OPTIONS,
        prefill_chunk_tokens=4,
        speculation=Speculation(1, max_seqs=3),
        phrases=Phrases({(7,): tuple(range(8, 28))}),
    )
    model = Planned()
    sampling = dataclasses.replace(GREEDY, max_tokens=40)
    requests = [GenerationRequest(name, [5], sampling) for name in ("one", "other", "third")]
    deltas_of(model, *requests, options=options)
    assert max(len(batch.token_ids) for batch in model.batches) == 3 * 21
    assert [plan.max_step_tokens for plan in plans] == [4 + 3 * 20]
