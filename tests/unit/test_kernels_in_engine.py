"""The whole engine computed by the GPU's kernels; where there is no GPU, on one that is as late as it may be."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from gptoss_backend.contract import SamplingParams
from gptoss_backend.demo.random_checkpoint import Shape, write_random_checkpoint
from gptoss_backend.demo.random_head import write_random_head
from gptoss_backend.engine.batch import Batch, ScheduledSequence
from gptoss_backend.engine.block_tables import BlockTables
from gptoss_backend.engine.cache_plan import CacheLimits
from gptoss_backend.engine.checkpoint import Weights, load_weights
from gptoss_backend.engine.config import ModelConfig
from gptoss_backend.engine.eagle.weights import load_head
from gptoss_backend.engine.edits import LogitEdits
from gptoss_backend.engine.experts import mix_experts
from gptoss_backend.engine.grammar import Grammar
from gptoss_backend.engine.kernels import recording
from gptoss_backend.engine.kernels.experts import mix_packed_experts
from gptoss_backend.engine.kernels.graphed_model import GraphedModel
from gptoss_backend.engine.kernels.operators import KernelOperators
from gptoss_backend.engine.kernels.recording import CudaRecorder
from gptoss_backend.engine.kv_cache import KVCache
from gptoss_backend.engine.model import Draws, Edited, LaunchedStep, Told
from gptoss_backend.engine.operators import TorchOperators, has_dependent_launch
from gptoss_backend.engine.options import EngineOptions
from gptoss_backend.engine.precision import FLOAT8
from gptoss_backend.engine.sequence import GenerationRequest, Sequence
from gptoss_backend.engine.shard import Shard
from gptoss_backend.engine.speculation import Phrases, Speculation
from gptoss_backend.engine.torch_model import TorchModel
from support.generating import deltas_of, generate
from support.late_device import has_late_device, late_device
from support.late_tensors import Line
from support.stepping import prompt_of
from support.toy_mask import ToyMask

SHAPE = Shape(
    hidden_size=64,
    num_layers=2,
    num_experts=4,
    num_heads=2,
    num_kv_heads=1,
    intermediate_size=32,
    head_dim=16,
    vocab_size=500,
    max_positions=512,
)
DEVICE = torch.device("cuda:0")
IS_THERE = torch.cuda.is_available()
TOKENS, GUESSES = "engine/torch_model.py:wait", "engine/kernels/graphed_model.py:draft"
"""What waits for the device where steps are replayed"""
# a longer context would be divided into more parts, and the interpreter takes a while for each
OPTIONS = EngineOptions(max_num_seqs=4, prefill_chunk_tokens=12, kv_cache_bytes=4 * 2**20, max_model_len=128)


pytestmark = pytest.mark.skipif(not (IS_THERE or has_late_device()), reason="needs a GPU or g++")


@pytest.fixture(autouse=True)
def line() -> Iterator[Line | None]:
    """Return what the late device is given; None where there is a GPU, which tells nobody."""
    if IS_THERE:
        yield None
        return
    with late_device() as line:
        yield line


@contextmanager
def waiting_for(line: Line | None, *functions: str) -> Iterator[None]:
    """Expect that no other functions wait for the device."""
    if line is not None:
        line.waits.clear()
    yield
    assert line is None or set(line.waits) <= set(functions)


def load(folder: Path, shape: Shape, *, eight_bit: bool = False) -> tuple[Shard, Weights]:
    write_random_checkpoint(folder, shape, seed=2, name="test")
    # two experts a token: of sorted pairs each program takes the interpreter 20 ms
    shard = Shard.of_all(dataclasses.replace(ModelConfig.from_folder(folder), num_experts_per_token=2))
    return shard, load_weights(folder, shard, torch.float32, DEVICE, packed=True, eight_bit=eight_bit)


def models(shard: Shard, weights: Weights, cache_dtype: torch.dtype | None = None) -> list[TorchModel]:
    """Return the reference, the kernels' path, and the same with its decode steps recorded."""
    return [
        TorchModel(shard, weights, mixer=mix_experts, operators=TorchOperators(DEVICE), cache_dtype=cache_dtype),
        TorchModel(
            shard, weights, mixer=mix_packed_experts, operators=KernelOperators(DEVICE), cache_dtype=cache_dtype
        ),
        graphed(shard, weights, cache_dtype),
    ]


def graphed(shard: Shard, weights: Weights, cache_dtype: torch.dtype | None = None) -> GraphedModel:
    """Return one that compiles nothing but what is recorded."""
    return GraphedModel(shard, weights, CudaRecorder(torch.cuda.Stream(DEVICE)), cache_dtype=cache_dtype)


def few_graphs(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let rows stand in for others in small batches, too, and little be recorded."""
    monkeypatch.setattr(recording, "_STEPS", (1, 2, 4))
    monkeypatch.setattr(recording, "_PASSES", (16,))


def test_engine_when_kernels_compute_then_its_tokens_are_those_of_plain_torch(tmp_path: Path) -> None:
    # the second prompt spans two chunks and joins the first one's decoding
    prompts = [prompt_of(length, seed=length) for length in (3, 20)]
    shard, weights = load(tmp_path / "checkpoint", SHAPE)
    plain, kernels, _ = models(shard, weights)
    tokens = [generate(model, prompts, 3, OPTIONS)[0] for model in (plain, kernels)]
    assert tokens[0] == tokens[1]


def test_engine_when_prompts_share_a_prefix_and_leave_the_window_then_kernels_give_torch_s_tokens(
    tmp_path: Path,
) -> None:
    shard, weights = load(tmp_path / "checkpoint", SHAPE)
    config = dataclasses.replace(shard.whole, sliding_window=24)
    shared = prompt_of(34, seed=1)
    prompts = [shared + prompt_of(length, seed=length) for length in (1, 5)]
    plain, _, replayed = models(Shard.of_all(config), weights, FLOAT8)
    found = [generate(model, prompts, 2, OPTIONS) for model in (plain, replayed)]
    assert found[0][0] == found[1][0]
    assert found[1][1].num_prefix_hits >= 16


def test_engine_when_steps_are_replayed_then_sampling_gets_the_logits_of_plain_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few_graphs(monkeypatch)
    prompts = [prompt_of(length, seed=length) for length in (2, 4, 5)]  # three rows in a graph of four
    shard, weights = load(tmp_path / "checkpoint", SHAPE)
    plain = TorchModel(shard, weights, mixer=mix_experts, operators=TorchOperators(DEVICE))
    replayed = graphed(shard, weights)
    monkeypatch.setattr(replayed, "run_layers", None)  # all is replayed
    drawn = SamplingParams(temperature=1.0, seed=7, max_tokens=4, ignore_eos=True)
    filtered = dataclasses.replace(drawn, top_p=0.8, min_p=0.01)
    told = dataclasses.replace(drawn, top_k=3, logprobs=1, max_tokens=2)  # by the logits, and the others beside it
    answers = []
    for model in (plain, replayed):
        requests = [
            GenerationRequest(str(place), prompt, sampling)
            for place, (prompt, sampling) in enumerate(zip(prompts, (told, filtered, drawn), strict=True))
        ]
        deltas, _ = deltas_of(model, *requests, options=OPTIONS)
        answers.append({name: [token for delta in said for token in delta.token_ids] for name, said in deltas.items()})
    assert answers[0] == answers[1]
    assert [len(tokens) for tokens in answers[0].values()] == [2, 4, 4]
    replayed.compile_rest()
    for recorded in replayed._steps:  # all of whose rows stand in for none
        recorded.rows._sent._memory.zero_()
        recorded.replay()
    for layer in replayed._cache:  # a row that stands in for another, or for none, writes nothing
        assert not layer.keys[:, :16].any()
        assert not layer.values[:, :16].any()


@pytest.mark.parametrize(
    ("is_recorded", "has_head"),
    [(True, False), (False, False), (False, True)],
    ids=["recorded", "computed", "computed-for-a-head"],
)
def test_engine_when_prompts_follow_on_answers_then_steps_launched_before_others_are_done_give_torch_s_tokens(
    is_recorded: bool, has_head: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, line: Line | None
) -> None:
    few_graphs(monkeypatch)
    if not is_recorded:
        monkeypatch.setattr(recording, "_PASSES", ())
        monkeypatch.setattr(recording, "_LARGEST_PASS", 0)
    shard, weights = load(tmp_path / "checkpoint", dataclasses.replace(SHAPE, num_layers=1))
    plain = TorchModel(shard, weights, mixer=mix_experts, operators=TorchOperators(DEVICE))
    ahead = graphed(shard, weights)
    if has_head:  # which notes all tokens, but guesses after none while two decode
        write_random_head(tmp_path / "head", shard.whole, seed=3, draft_vocab_size=300)
        ahead.attach(*load_head(tmp_path / "head", shard.whole, torch.float32, DEVICE), 1)
    launched: list[Batch] = []

    def launch(batch: Batch, tables: BlockTables, *, with_logits: bool, draws: Draws | None = None) -> LaunchedStep:
        launched.append(batch)
        return GraphedModel.launch(ahead, batch, tables, with_logits=with_logits, draws=draws)

    monkeypatch.setattr(ahead, "launch", launch)
    drawn = SamplingParams(temperature=1.0, seed=7, ignore_eos=True)
    lengths = {"one": 4, "other": 1} | ({"third": 3} if has_head else {}) | {"waits": 2}
    requests = [
        GenerationRequest(name, prompt_of(3 + place, seed=place), dataclasses.replace(drawn, max_tokens=length))
        for place, (name, length) in enumerate(lengths.items())
    ]
    options = dataclasses.replace(OPTIONS, max_num_seqs=len(lengths) - 1)
    answers = [deltas_of(plain, *requests, options=options)[0]]
    with waiting_for(line, TOKENS, GUESSES):
        speculation = Speculation(3, max_seqs=1) if has_head else None
        with_guesses = dataclasses.replace(options, speculation=speculation)
        answers.append(deltas_of(ahead, *requests, options=with_guesses)[0])
    found = [{name: [t for delta in said for t in delta.token_ids] for name, said in each.items()} for each in answers]
    assert found[0] == found[1]
    assert {name: len(tokens) for name, tokens in found[1].items()} == lengths
    assert any(batch.follows and batch.chunks for batch in launched), "a prompt beside an awaited token"
    assert any(before.chunks and batch.follows for before, batch in itertools.pairwise(launched)), "a token of a pass"


def test_engine_when_requests_change_their_logits_then_steps_launched_ahead_give_torch_s_tokens_and_logprobs(
    tmp_path: Path, line: Line | None
) -> None:
    shard, weights = load(tmp_path / "checkpoint", dataclasses.replace(SHAPE, num_layers=1))
    plain, _, ahead = models(shard, weights)
    drawn = SamplingParams(temperature=1.0, seed=7, max_tokens=3, ignore_eos=True)
    asked = [
        (dataclasses.replace(drawn, top_p=0.9, logprobs=2), [{7}, None, set(range(40, 90))]),
        (dataclasses.replace(drawn, temperature=0.0, repetition_penalty=2.0, logit_bias={9: 40.0}, logprobs=0), None),
        (dataclasses.replace(drawn, stop_token_ids=(9,), min_tokens=2, allowed_token_ids=(9, 11, 450)), None),
        (drawn, [None, set[int](), {89}]),  # which leaves nothing
    ]
    # behind the first one's prompt what its grammar lets come first, and then what it may choose next
    options = dataclasses.replace(OPTIONS, phrases=Phrases({(prompt_of(3, seed=0)[-1],): (7, 44)}))
    found = []
    for model in (plain, ahead):
        requests = [
            GenerationRequest(str(place), prompt_of(3, seed=place), sampling, held and ToyMask([*held, None]))
            for place, (sampling, held) in enumerate(asked)
        ]
        if line is not None:
            line.waits.clear()
        deltas, _ = deltas_of(model, *requests, options=options)
        tokens = {name: [token for delta in said for token in delta.token_ids] for name, said in deltas.items()}
        logprobs = {name: [one for delta in said for one in delta.logprobs] for name, said in deltas.items()}
        found.append((tokens, {name: said[-1].error for name, said in deltas.items()}, logprobs))
    assert line is None or set(line.waits) == {TOKENS}
    assert found[0][:2] == found[1][:2]
    assert [len(tokens) for tokens in found[1][0].values()] == [3, 3, 3, 1]
    for name, expected in found[0][2].items():
        for one, other in zip(expected, found[1][2][name], strict=True):
            assert one.logprob == pytest.approx(other.logprob, abs=1e-4)
            assert [each.token_id for each in one.top] == [each.token_id for each in other.top]
    assert [len(logprobs) for logprobs in found[1][2].values()] == [3, 3, 0, 0]


def test_engine_when_weights_have_eight_bits_then_kernels_give_the_tokens_of_plain_torch(tmp_path: Path) -> None:
    shard, weights = load(tmp_path / "checkpoint", SHAPE, eight_bit=True)
    options = dataclasses.replace(OPTIONS, max_num_seqs=1)
    plain, _, replayed = models(shard, weights)
    tokens = [generate(model, [prompt_of(5, seed=5)], 3, options)[0] for model in (plain, replayed)]
    assert tokens[0] == tokens[1]


def guesses_after_decodes(model: TorchModel, prompts: list[list[int]]) -> list[list[int]]:
    """Return the head's guesses after each prompt and two more tokens, which are decoded side by side."""
    plan = model.plan_cache(CacheLimits(16, 4, 16, max_model_len=64, kv_cache_bytes=2**22))
    model.allocate_cache(plan)
    cache = KVCache(plan, model.config.sliding_window)
    sequences = [Sequence(GenerationRequest("", prompt, SamplingParams()), max_tokens=9) for prompt in prompts]
    for sequence in sequences:
        sequence.row, _ = cache.open(sequence.token_ids)
        cache.reserve(sequence.row, len(sequence.token_ids) + 8)
        part = ScheduledSequence(sequence, len(sequence.token_ids), samples=True)
        model.launch(Batch.build([], [part]), cache, with_logits=False).result()
        sequence.num_computed = len(sequence.token_ids)
        sequence.token_ids.append(7)
    for token in (11, 13):
        model.launch(Batch.build(sequences, []), cache, with_logits=False).result()
        for sequence in sequences:
            sequence.num_computed += 1
            sequence.token_ids.append(token)
    return model.draft(Batch.build(sequences, []), cache, 4)


def test_draft_when_steps_were_replayed_then_it_is_that_of_plain_torch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    few_graphs(monkeypatch)
    prompts = [prompt_of(length, seed=length) for length in (3, 9, 15)]  # three rows in a graph of four
    shard, weights = load(tmp_path / "checkpoint", SHAPE)
    write_random_head(tmp_path / "head", shard.whole, seed=3, draft_vocab_size=300)
    found = []
    plain, _, replayed = models(shard, weights)
    # neither prompts nor guesses are computed kernel by kernel
    monkeypatch.setattr(replayed, "run_layers", None)
    monkeypatch.setattr(
        TorchModel, "draft", lambda model, *batch: model._head.draft(*batch) if model is plain else None
    )
    for model in (plain, replayed):
        model.attach(*load_head(tmp_path / "head", shard.whole, torch.float32, DEVICE), 4)
        found.append(guesses_after_decodes(model, prompts))
        assert not model._head._features[:16].any()  # type: ignore[union-attr]  # what stands in writes nothing here
    assert found[0] == found[1]


def test_engine_when_a_head_guesses_then_kernels_give_torch_s_tokens(tmp_path: Path, line: Line | None) -> None:
    shard, weights = load(tmp_path / "checkpoint", SHAPE)
    write_random_head(tmp_path / "head", shard.whole, seed=3, draft_vocab_size=300)
    plain, with_head = models(shard, weights)[::2]
    with_head.attach(*load_head(tmp_path / "head", shard.whole, torch.float32, DEVICE), 2)
    expected, _ = generate(plain, [prompt_of(5, seed=20)], 5, OPTIONS)
    options = dataclasses.replace(OPTIONS, speculation=Speculation(3, max_seqs=2))
    with waiting_for(line, TOKENS, GUESSES):
        tokens, stats = generate(with_head, [prompt_of(5, seed=20)], 5, options)
    assert tokens == expected
    assert stats.num_drafted_tokens > 0


@pytest.mark.filterwarnings("ignore:Synchronization debug mode:UserWarning")
def test_launch_when_block_tables_change_and_logits_are_edited_then_nothing_waits_for_the_step_under_way(
    tmp_path: Path,
) -> None:
    shard, weights = load(tmp_path / "checkpoint", SHAPE)
    model = GraphedModel(shard, weights)
    plan = model.plan_cache(CacheLimits(16, 4, 64, max_model_len=64, kv_cache_bytes=2**22))
    model.allocate_cache(plan)
    cache = KVCache(plan, model.config.sliding_window)
    sequence = Sequence(GenerationRequest("", prompt_of(15, seed=1), SamplingParams()), max_tokens=9)
    sequence.row, _ = cache.open(sequence.token_ids)
    cache.reserve(sequence.row, 15)
    draws = Draws.of_all([1.0], [0.5])
    batch = Batch.build([], [ScheduledSequence(sequence, 15, samples=True)])
    sampling = SamplingParams(logit_bias={3: 1.0}, presence_penalty=0.5, min_tokens=9, allowed_token_ids=(3, 5, 7))
    edits = LogitEdits.of(sampling, [3], frozenset({5}), Grammar(ToyMask([{3, 7}]), ""))
    assert edits is not None
    assert edits.prepare()
    torch.cuda.set_sync_debug_mode("error")
    try:
        steps = [model.launch(batch, cache, with_logits=False, draws=draws)]
        steps[0].amend(Edited([0], [edits], draws), Told([0], [5]))
        cache.reserve(sequence.row, 17)  # a second block
        batch = Batch([-1], [15], [sequence.row], [0], 1, [])
        steps.append(model.launch(batch, cache, with_logits=False, draws=draws))
        cache.reserve(sequence.row, 33)  # a third
        steps.append(model.launch(batch.following(), cache, with_logits=False, draws=draws))
    finally:
        torch.cuda.set_sync_debug_mode("default")
    outputs = [step.result() for step in steps]
    assert all(len(output.tokens) == 1 for output in outputs)
    assert outputs[0].tokens[0] in (3, 7)
    assert len(outputs[0].logprobs[0].top) == 5


@pytest.mark.skipif(not (IS_THERE and has_dependent_launch(DEVICE)), reason="needs a Hopper GPU or later")
def test_engine_when_kernels_begin_before_others_end_then_tokens_stay(tmp_path: Path) -> None:
    prompts = [prompt_of(length, seed=length) for length in range(3, 27)]  # experts for few rows and for many
    shard, weights = load(tmp_path / "checkpoint", SHAPE)
    for batch in (prompts[:1], prompts[:3], prompts):
        options = dataclasses.replace(OPTIONS, max_num_seqs=len(batch))
        models = [GraphedModel(shard, weights, dependent_launch=dependent) for dependent in (False, True)]
        expected, found = (generate(model, batch, 64, options)[0] for model in models)
        assert found == expected
