"""Steps that the engine launches before the last one is told, over a model without arithmetic."""

from __future__ import annotations

import dataclasses
from random import Random

import pytest
import torch

from gptoss_backend.contract import Finished, GenerationErrorCode, SamplingParams
from gptoss_backend.engine.errors import StructureOutgrown
from gptoss_backend.engine.speculation import Phrases, Speculation
from support.fake_model import FakeAheadModel, FakeModel
from support.running_engine import GREEDY, OPTIONS, Running, tokens_of
from support.shapes import tiny_config
from support.toy_mask import ToyMask


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


def test_steps_when_a_prompt_s_grammar_has_a_say_then_all_go_on_ahead() -> None:
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


def test_steps_when_a_grammar_begins_and_ends_amid_an_answer_then_they_are_launched_ahead_throughout() -> None:
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
    assert isinstance(model, FakeAheadModel)
    assert len(model.batches) - model.num_ahead <= 3  # the first, and where one came before the others
    assert 5 <= model.num_amended <= 10, "only where a grammar has a say"


def test_steps_when_requests_have_penalties_or_ask_for_logprobs_then_they_run_ahead_with_the_same_outcome() -> None:
    asked = {
        "told": dataclasses.replace(GREEDY, logprobs=2, max_tokens=12),
        "biased": dataclasses.replace(GREEDY, logit_bias={9: 5.0}, logprobs=1, min_tokens=3, max_tokens=12),
        "penalised": dataclasses.replace(GREEDY, frequency_penalty=2.0, repetition_penalty=1.5, max_tokens=12),
        "plain": dataclasses.replace(GREEDY, max_tokens=12),
    }
    answers = []
    for model in (FakeModel(), FakeAheadModel()):
        running = Running(model, OPTIONS)
        model.gate.clear()
        for name, sampling in asked.items():
            running.submit(name, [5, 6], sampling)
        model.gate.set()
        said = running.until_last(*asked)
        answers.append({n: (tokens_of(said[n]), [one for delta in said[n] for one in delta.logprobs]) for n in asked})
        running.engine.stop(drain_s=0.0)
    assert answers[0] == answers[1]
    assert [len(logprobs) for _, logprobs in answers[1].values()] == [12, 12, 0, 0]
    assert isinstance(model, FakeAheadModel)
    assert len(model.batches) - model.num_ahead <= 3


def test_steps_when_a_held_answer_s_opening_is_guessed_then_all_that_stands_of_it_comes_with_its_prompt() -> None:
    model = FakeAheadModel()
    running = Running(model, dataclasses.replace(OPTIONS, phrases=Phrases({(5,): (6, 7, 8)})))
    model.gate.clear()
    running.submit("free", [1], dataclasses.replace(GREEDY, max_tokens=20))
    running.submit("held", [4, 5], dataclasses.replace(GREEDY, max_tokens=6), ToyMask([{6}, {7, 9}, {3}, *[None] * 9]))
    running.submit("barred", [5], dataclasses.replace(GREEDY, max_tokens=6), ToyMask([{9}, *[None] * 9]))
    model.gate.set()
    answers = running.until_last("free", "held", "barred")
    assert answers["held"][0].token_ids == (6, 7, 3)  # the third guess is not what the grammar takes
    assert tokens_of(answers["held"]) == [6, 7, 3, 4, 5, 6]
    assert tokens_of(answers["barred"]) == list(range(9, 15))
    assert tokens_of(answers["free"]) == list(range(2, 22))
    assert len(model.batches) - model.num_ahead <= 3
    running.engine.stop(drain_s=0.0)


class OutgrownMask(ToyMask):
    """Outgrows its limits at its second token."""

    def fill(self, bits: torch.Tensor) -> bool:
        if len(self.accepted) == 1:
            raise StructureOutgrown("it has outgrown its limits")
        return super().fill(bits)

    def fork(self) -> OutgrownMask:
        fork = OutgrownMask(self.places)
        fork.accepted = list(self.accepted)
        return fork


@pytest.mark.parametrize("guesses", [(6, 7, 8), (9, 7, 8)])  # one that stands, one that does not
def test_steps_when_a_grammar_outgrows_its_limits_behind_a_guess_then_the_request_fails_once_it_is_there(
    guesses: tuple[int, ...], caplog: pytest.LogCaptureFixture
) -> None:
    options = dataclasses.replace(OPTIONS, phrases=Phrases({(5,): guesses}))
    for model in (FakeModel(), FakeAheadModel()):
        caplog.clear()
        running = Running(model, options)
        running.submit("a", [5], mask=OutgrownMask([{6}, {7}, {8}]))
        deltas = running.until_last("a")["a"]
        running.engine.stop(drain_s=0.0)
        assert tokens_of(deltas) in ([], [6])  # what comes in the step that fails is not told
        assert deltas[-1].error == "it has outgrown its limits"
        assert deltas[-1].error_code is GenerationErrorCode.STRUCTURE_FAILED
        assert len([record for record in caplog.records if "outgrown" in record.getMessage()]) == 1


def test_steps_when_a_request_with_edits_is_guessed_at_then_its_answer_is_the_same_in_fewer_steps() -> None:
    sampling = dataclasses.replace(GREEDY, max_tokens=40, frequency_penalty=0.1)
    places: list[set[int] | None] = [{token % 8} if token % 3 else None for token in range(9, 49)]
    options = dataclasses.replace(OPTIONS, speculation=Speculation(num_tokens=4, max_seqs=1))
    found = []
    for model in (FakeAheadModel(), FakeModel(), FakeAheadModel()):
        running = Running(model, OPTIONS if found else options)
        running.submit("a", list(range(8)) * 2, sampling, ToyMask(places))
        found.append((tokens_of(running.until_last("a")["a"]), len(model.batches)))
        running.engine.stop(drain_s=0.0)
    assert found[0][0] == found[1][0] == found[2][0]
    assert found[0][1] < found[1][1] - 10


def test_steps_when_a_grammar_leaves_nothing_then_its_request_alone_fails_and_the_others_go_on_ahead() -> None:
    model = FakeAheadModel()
    running = Running(model, OPTIONS)
    model.gate.clear()
    running.submit("free", [5], dataclasses.replace(GREEDY, max_tokens=20))
    running.submit("empty", [5], dataclasses.replace(GREEDY, max_tokens=20), ToyMask([None, {3}, set()]))
    model.gate.set()
    answers = running.until_last("free", "empty")
    assert tokens_of(answers["free"]) == list(range(6, 26))
    assert tokens_of(answers["empty"]) == [6, 3]
    assert answers["empty"][-1].error == "the grammar of this request leaves no token to choose"
    assert len(model.batches) - model.num_ahead <= 3
    running.engine.stop(drain_s=0.0)


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
