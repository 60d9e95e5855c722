"""What requests ask of sampling, seen through the engine's loop: ends, logprobs, grammars, seeds in company."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

from gptoss_backend.contract import Finished, FinishReason, GenerationErrorCode, SamplingParams, TokenLogprob
from gptoss_backend.engine.engine import Engine
from gptoss_backend.engine.errors import InvalidRequest
from gptoss_backend.engine.model import Model
from gptoss_backend.engine.options import EngineOptions
from gptoss_backend.engine.sequence import GenerationRequest, Sequence, TokenDelta
from support.fake_model import FakeModel
from support.generating import deltas_of
from support.reference import make_reference
from support.stepping import load_torch_model, prompt_of
from support.toy_mask import ToyMask

OPTIONS = EngineOptions(
    max_num_seqs=8, max_queue=64, prefill_chunk_tokens=32, kv_cache_bytes=16 * 2**20, max_model_len=512
)
# of the base reference model's cache: 16 blocks, where five requests of 100 tokens come to want 35
TIGHT = dataclasses.replace(OPTIONS, max_model_len=128, kv_cache_bytes=2700 * 2**10)
GREEDY = SamplingParams(temperature=0.0, max_tokens=8)


@dataclasses.dataclass
class Answer:
    deltas: list[TokenDelta]

    @property
    def tokens(self) -> list[int]:
        return [token for delta in self.deltas for token in delta.token_ids]

    @property
    def logprobs(self) -> list[TokenLogprob]:
        return [entry for delta in self.deltas for entry in delta.logprobs]

    @property
    def reason(self) -> FinishReason:
        event = self.deltas[-1].event
        assert isinstance(event, Finished)
        return event.finish_reason


def run(
    model: Model, *requests: GenerationRequest, options: EngineOptions = OPTIONS, preempts: bool = False
) -> dict[str, Answer]:
    """Return the answers of an engine that gets all at once."""
    told, stats = deltas_of(model, *requests, options=options)
    assert (stats.num_preemptions > 0) == preempts
    return {request_id: Answer(deltas) for request_id, deltas in told.items()}


def test_request_when_a_token_of_its_own_stops_it_then_it_ends_with_it_even_if_eos_is_ignored() -> None:
    stopping = dataclasses.replace(GREEDY, stop_token_ids=(9, 12), ignore_eos=True)
    answers = run(FakeModel(), GenerationRequest("a", [5], stopping), GenerationRequest("b", [5], GREEDY))
    assert (answers["a"].tokens, answers["a"].reason) == ([6, 7, 8, 9], FinishReason.STOP)
    assert (answers["b"].tokens, answers["b"].reason) == (list(range(6, 14)), FinishReason.LENGTH)


def test_request_when_it_wants_min_tokens_then_no_stop_token_comes_before_them() -> None:
    sampling = dataclasses.replace(GREEDY, stop_token_ids=(7,), min_tokens=6, max_tokens=40)
    tokens = run(FakeModel(), GenerationRequest("a", [5], sampling))["a"].tokens
    assert 7 not in tokens[:6]
    assert len(tokens) > 6


def test_request_when_it_asks_for_logprobs_then_every_token_has_one_and_others_have_none() -> None:
    asking = dataclasses.replace(GREEDY, logprobs=2)
    answers = run(FakeModel(), GenerationRequest("a", [5], asking), GenerationRequest("b", [5], GREEDY))
    assert [entry.token_id for entry in answers["a"].logprobs] == answers["a"].tokens == list(range(6, 14))
    assert all(len(delta.logprobs) == len(delta.token_ids) for delta in answers["a"].deltas)
    assert all(entry.top[0].token_id == entry.token_id for entry in answers["a"].logprobs)
    assert answers["b"].logprobs == []


def test_request_when_a_grammar_goes_with_it_then_it_is_followed_left_free_and_its_end_ends_the_answer() -> None:
    mask = ToyMask([None, {3, 100}, {50}, None])
    answers = run(FakeModel(), GenerationRequest("a", [5], GREEDY, mask), GenerationRequest("b", [5], GREEDY))
    assert (answers["a"].tokens, answers["a"].reason) == ([6, 3, 50, 51], FinishReason.STOP)
    assert mask.accepted == [6, 3, 50, 51]
    assert answers["b"].tokens == list(range(6, 14))


@pytest.mark.parametrize("places", [[None, set()], []], ids=["leaves nothing", "raises"])
def test_request_when_its_grammar_fails_then_it_alone_ends_with_an_error(places: list[set[int] | None]) -> None:
    answers = run(
        FakeModel(), GenerationRequest("a", [5], GREEDY, ToyMask(places)), GenerationRequest("b", [5], GREEDY)
    )
    error = answers["a"].deltas[-1].error
    assert error is not None
    assert error.startswith("the grammar of this request")
    assert answers["a"].deltas[-1].error_code is (GenerationErrorCode.STRUCTURE_FAILED if places else None)
    assert len(answers["a"].tokens) == len(places[:1])
    assert answers["b"].tokens == list(range(6, 14))


@pytest.mark.parametrize(
    ("sampling", "sentence"),
    [
        ({"logit_bias": {512: 1.0}}, "logit_bias holds a token id outside 0 to 511"),
        ({"stop_token_ids": (3, 600)}, "stop_token_ids holds a token id outside 0 to 511"),
        ({"min_tokens": 9}, "min_tokens is 9, more than max_tokens, 8"),
    ],
)
def test_request_when_its_sampling_cannot_be_served_then_it_is_refused_with_a_sentence(
    sampling: dict[str, Any], sentence: str
) -> None:
    engine = Engine(FakeModel(), OPTIONS, lambda deltas: None)
    with pytest.raises(InvalidRequest, match=sentence):
        engine._intake.sequence_of(GenerationRequest("a", [5], dataclasses.replace(GREEDY, **sampling)))


EVERYTHING = SamplingParams(
    max_tokens=40,
    temperature=1.3,
    top_k=300,
    top_p=0.97,
    min_p=0.001,
    seed=5,
    presence_penalty=0.4,
    frequency_penalty=0.3,
    repetition_penalty=1.1,
    logit_bias={7: 2.0},
    min_tokens=20,
    stop_token_ids=(11, 12),
    logprobs=2,
)


def test_seeded_request_when_others_join_and_it_is_preempted_then_tokens_and_logprobs_repeat(tmp_path: Path) -> None:
    make_reference("base", tmp_path)
    model = load_torch_model(tmp_path)
    kinds = [
        EVERYTHING,
        SamplingParams(max_tokens=40, seed=6),
        SamplingParams(max_tokens=40, seed=7, top_p=0.9),
        SamplingParams(max_tokens=40, temperature=0.0, frequency_penalty=1.0),
    ]
    vocab = model.config.vocab_size
    even = set(range(0, vocab, 2))

    def requests() -> list[GenerationRequest]:
        plain = [GenerationRequest(str(i), prompt_of(60, seed=i), kind) for i, kind in enumerate(kinds)]
        masked = GenerationRequest("masked", prompt_of(60, seed=9), EVERYTHING, ToyMask([even] * 41))
        return [*plain, masked]

    together = run(model, *requests(), options=TIGHT, preempts=True)
    for request in requests():
        alone = run(model, request)[request.request_id]
        assert alone.tokens == together[request.request_id].tokens
        for one, other in zip(alone.logprobs, together[request.request_id].logprobs, strict=True):
            assert one.logprob == pytest.approx(other.logprob, abs=1e-4)
    assert set(together["masked"].tokens) <= even
    assert [len(answer.tokens) for answer in together.values()][1:4] == [40, 40, 40]


def test_logprobs_when_compared_with_the_models_own_then_they_agree_whatever_shaped_the_choice(tmp_path: Path) -> None:
    reference = make_reference("base", tmp_path)
    prompt = prompt_of(30, seed=1)
    answer = run(load_torch_model(tmp_path), GenerationRequest("a", prompt, EVERYTHING))["a"]
    with torch.inference_mode():
        logits = reference(torch.tensor([prompt + answer.tokens])).logits[0].float()
    expected = torch.log_softmax(logits, dim=-1)[len(prompt) - 1 : -1]
    for entry, row in zip(answer.logprobs, expected, strict=True):
        assert entry.logprob == pytest.approx(float(row[entry.token_id]), abs=1e-3)
        assert [other.logprob for other in entry.top] == pytest.approx(row.topk(2).values.tolist(), abs=1e-3)


def test_sequence_when_its_seed_is_negative_then_its_numbers_are_not_those_of_the_positive_one() -> None:
    seeds = (1, -1, 2, -2, 2**63 - 1, -(2**63))
    drawn = {Sequence(GenerationRequest("a", [1], SamplingParams(seed=seed)), 1).uniform(0) for seed in seeds}
    assert len(drawn) == len(seeds)
