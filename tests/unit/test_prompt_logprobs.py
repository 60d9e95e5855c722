"""Log probabilities of a prompt's own tokens, against transformers' and whatever computes them."""

from __future__ import annotations

import dataclasses
import statistics
from pathlib import Path

import pytest
import torch

from gptoss_backend.contract import SamplingParams, TokenLogprob
from gptoss_backend.demo.random_checkpoint import DEMO_SHAPE, Shape, write_random_checkpoint
from gptoss_backend.engine.config import ModelConfig
from gptoss_backend.engine.engine import Engine
from gptoss_backend.engine.errors import InvalidRequest
from gptoss_backend.engine.loading import load_model
from gptoss_backend.engine.model import Model
from gptoss_backend.engine.options import EngineOptions
from gptoss_backend.engine.placement.driver import Cluster, DistributedModel
from gptoss_backend.engine.placement.layout import SpreadMode, divide
from gptoss_backend.engine.scheduler import MAX_SCORED_ROWS
from gptoss_backend.engine.sequence import GenerationRequest, TokenDelta
from gptoss_backend.engine.speculation import Speculation
from support.fake_model import FakeAheadModel, FakeModel, FakePipelineModel
from support.generating import deltas_of
from support.reference import make_reference
from support.stepping import CPU, load_torch_model, prompt_of
from support.toy_mask import ToyMask

OPTIONS = EngineOptions(
    max_num_seqs=8,
    prefill_chunk_tokens=100,
    kv_cache_bytes=16 * 2**20,
    max_model_len=512,
    speculation=Speculation(4, 4),
)
SCORED = SamplingParams(temperature=0.0, max_tokens=3, prompt_logprobs=2)
PLAIN = SamplingParams(temperature=0.7, max_tokens=20, seed=1, logprobs=1)


def run(
    model: Model, *requests: GenerationRequest, options: EngineOptions = OPTIONS
) -> tuple[dict[str, list[TokenDelta]], int]:
    """Return the deltas by request, and how often one was preempted."""
    told, stats = deltas_of(model, *requests, options=options)
    assert all(delta.error is None for deltas in told.values() for delta in deltas)
    return told, stats.num_preemptions


def scores(deltas: list[TokenDelta]) -> list[TokenLogprob]:
    """Return a prompt's entries, which come with its first token."""
    told = [delta for delta in deltas if delta.prompt_logprobs]
    assert len(told) <= 1
    assert all(delta is next(other for other in deltas if other.token_ids) for delta in told)
    return [entry for delta in told for entry in delta.prompt_logprobs]


def check(prompt: list[int], entries: list[TokenLogprob], expected: torch.Tensor) -> None:
    """expected: [num_tokens, vocab] log probabilities behind each of the prompt's tokens."""
    assert [entry.token_id for entry in entries] == prompt[1:]
    for entry, row in zip(entries, expected, strict=False):
        assert entry.logprob == pytest.approx(float(row[entry.token_id]), abs=1e-3)
        assert [other.logprob for other in entry.top] == pytest.approx(row.topk(2).values.tolist(), abs=1e-3)


def test_prompts_when_scored_beside_others_then_they_are_the_models_own(tmp_path: Path) -> None:
    reference = make_reference("base", tmp_path)
    prompts = {str(length): prompt_of(length, seed=length) for length in (1, 2, 63, 64, 65, 66, 130, 300)}
    prompts["again"] = prompts["300"]
    scored = [GenerationRequest(name, prompt, SCORED) for name, prompt in prompts.items()]
    others = [GenerationRequest(f"other {at}", prompt_of(40, seed=at), PLAIN) for at in range(3)]
    model = load_torch_model(tmp_path)
    together, _ = run(model, *others[:1], *scored, *others[1:])
    for name, prompt in prompts.items():
        with torch.inference_mode():
            expected = torch.log_softmax(reference(torch.tensor([prompt])).logits[0].float(), dim=-1)
        check(prompt, scores(together[name]), expected)
    for other in others:
        alone, _ = run(model, other)
        assert scores(together[other.request_id]) == []
        tokens = [[t for delta in told[other.request_id] for t in delta.token_ids] for told in (alone, together)]
        assert tokens[0] == tokens[1]


def test_prompts_when_preempted_then_each_token_is_scored_once(tmp_path: Path) -> None:
    reference = make_reference("base", tmp_path)
    options = dataclasses.replace(
        OPTIONS, prefill_chunk_tokens=32, max_model_len=128, kv_cache_bytes=2700 * 2**10, speculation=None
    )
    sampling = dataclasses.replace(SCORED, max_tokens=40, ignore_eos=True)
    requests = [GenerationRequest(str(at), prompt_of(60, seed=at), sampling) for at in range(5)]
    told, num_preemptions = run(load_torch_model(tmp_path), *requests, options=options)
    assert num_preemptions > 0
    for request in requests:
        prompt = list(request.prompt_ids)
        with torch.inference_mode():
            expected = torch.log_softmax(reference(torch.tensor([prompt])).logits[0].float(), dim=-1)
        check(prompt, scores(told[request.request_id]), expected)


@pytest.mark.parametrize(("mode", "num_ranks"), [("pipeline", 3), ("tensor", 2)])
def test_prompts_when_the_model_is_spread_then_their_scores_are_those_of_one_device(
    mode: SpreadMode, num_ranks: int, tmp_path: Path
) -> None:
    write_random_checkpoint(tmp_path / "model", dataclasses.replace(SMALL, num_layers=3), seed=5, name="test")
    requests = [GenerationRequest(str(at), prompt_of(100 + at, seed=at), SCORED) for at in range(4)]
    expected, _ = run(load_torch_model(tmp_path / "model"), *requests)
    shards = divide(ModelConfig.from_folder(tmp_path / "model"), mode, num_ranks)
    cluster = Cluster((CPU,) * num_ranks, num_ranks, timeout_s=60.0)
    told, _ = run(DistributedModel(tmp_path / "model", shards, cluster, torch.float32), *requests)
    for request in requests:
        pairs = zip(scores(told[request.request_id]), scores(expected[request.request_id]), strict=True)
        assert all(one.logprob == pytest.approx(other.logprob, abs=1e-3) for one, other in pairs)


def test_prompts_when_the_kernels_for_this_processor_compute_then_they_are_near_torchs(tmp_path: Path) -> None:
    folder = tmp_path / "model"
    write_random_checkpoint(folder, DEMO_SHAPE, seed=5, name="test")
    model = load_model(folder, OPTIONS, device=CPU)
    prompt = prompt_of(2 * MAX_SCORED_ROWS + 5, seed=3)
    told, _ = run(model, GenerationRequest("a", prompt, dataclasses.replace(SCORED, prompt_logprobs=0)))
    expected, _ = run(load_torch_model(folder), GenerationRequest("a", prompt, SCORED))
    pairs = list(zip(scores(told["a"]), scores(expected["a"]), strict=True))
    assert all((one.token_id, one.top) == (other.token_id, ()) for one, other in pairs)
    # in bfloat16, where a router's choice may turn around
    assert statistics.median(abs(one.logprob - other.logprob) for one, other in pairs) < 0.1


def test_prompt_when_it_would_tell_too_much_then_it_is_refused(tmp_path: Path) -> None:
    make_reference({"max_position_embeddings": 2**15}, tmp_path)
    options = dataclasses.replace(OPTIONS, max_model_len=2**15, kv_cache_bytes=2**28)
    engine = Engine(load_torch_model(tmp_path), options, lambda _: None)
    engine.start()
    sampling = dataclasses.replace(SCORED, prompt_logprobs=20)
    with pytest.raises(InvalidRequest, match="262144 are told at most"):
        engine.submit(GenerationRequest("a", [1] * 12_500, sampling))
    engine.stop(drain_s=0.0)


SMALL = Shape(
    hidden_size=64,
    num_layers=2,
    num_experts=4,
    num_heads=8,
    num_kv_heads=4,
    intermediate_size=64,
    head_dim=16,
    vocab_size=517,
    max_positions=2048,
)


@pytest.mark.parametrize("model", [FakeModel, FakePipelineModel, FakeAheadModel])
def test_scores_when_others_have_edits_then_a_step_with_a_scored_prompt_heeds_them(model: type[FakeModel]) -> None:
    """Such a step's logits are all looked at, whoever asks for them."""
    asked = {
        "held": (PLAIN, [5], ToyMask([{token} for token in range(100, 120)])),
        "barred": (dataclasses.replace(SCORED, stop_token_ids=(6,), min_tokens=3, prompt_logprobs=None), [5], None),
        "scored": (SCORED, [7] * 300, ToyMask([{token} for token in range(90, 120)])),
    }
    requests = [GenerationRequest(name, prompt, sampling, mask) for name, (sampling, prompt, mask) in asked.items()]
    told, _ = run(model(), *requests)
    tokens = {name: [token for delta in deltas for token in delta.token_ids] for name, deltas in told.items()}
    assert tokens["held"] == list(range(100, 120))
    assert (len(tokens["barred"]), tokens["scored"]) == (3, [90, 91, 92])
    assert len(scores(told["scored"])) == 299
