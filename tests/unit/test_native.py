"""The C++ forward pass against the torch one, and its promise that a batch never changes a row's bits."""

from __future__ import annotations

import errno
import random
import re
import shutil
import subprocess
import tempfile
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from gptoss_backend.contract import SamplingParams
from gptoss_backend.demo.random_checkpoint import Shape, write_random_checkpoint
from gptoss_backend.engine.batch import Batch, ScheduledSequence
from gptoss_backend.engine.cache_plan import CacheLimits, plan_cache
from gptoss_backend.engine.checkpoint import Weights, load_weights
from gptoss_backend.engine.config import ModelConfig
from gptoss_backend.engine.errors import CheckpointError, EngineError
from gptoss_backend.engine.kv_cache import KVCache
from gptoss_backend.engine.loading import load_model
from gptoss_backend.engine.mxfp4 import PackedMatrices
from gptoss_backend.engine.native import library
from gptoss_backend.engine.native.library import (
    AVX2,
    AVX512,
    INSTRUCTION_SETS,
    InstructionSet,
    NativeUnavailableError,
    choose_instruction_set,
    missing_features,
)
from gptoss_backend.engine.native.model import NativeModel, check_native
from gptoss_backend.engine.options import EngineOptions, ExpertFormat
from gptoss_backend.engine.sequence import GenerationRequest, Sequence
from gptoss_backend.engine.shard import Shard
from gptoss_backend.engine.torch_model import TorchModel
from support.reference import make_reference
from support.stepping import CPU, StepByStep, load_torch_model, prompt_of

# every expert is used, so that no rounding sends a token elsewhere: what differs is rounding alone
SHAPES = {
    "base": {"num_local_experts": 4},
    "odd_sizes": {
        "vocab_size": 509,
        "num_local_experts": 3,
        "num_experts_per_tok": 3,
        "intermediate_size": 96,
        "hidden_size": 80,
        "num_attention_heads": 6,
        "num_key_value_heads": 1,
        "sliding_window": 24,
    },
}


@pytest.fixture(params=INSTRUCTION_SETS, ids=[each.name for each in INSTRUCTION_SETS])
def kernels(request: pytest.FixtureRequest) -> InstructionSet:
    """Each that this machine has: the best is chosen, the others run here all the same."""
    chosen: InstructionSet = request.param
    if missing := missing_features(chosen):
        pytest.skip(f"the processor lacks {', '.join(missing)}")
    return chosen


def native_or_skip(folder: Path, kernels: InstructionSet, num_threads: int = 1, **changed: torch.Tensor) -> NativeModel:
    """changed: weights other than the folder's."""
    config = config_or_skip(folder)
    weights = load_weights(folder, Shard.of_all(config), torch.bfloat16, CPU, packed=True)
    return NativeModel(config, [replace(weights, **changed)], num_threads, kernels)


def config_or_skip(folder: Path) -> ModelConfig:
    config = ModelConfig.from_folder(folder)
    try:
        check_native(config, block_size=16)
    except NativeUnavailableError as reason:
        pytest.skip(str(reason))
    return config


# one block of inputs, an odd number of them, and the published models' number; some panels are left over by fours
PACKED_SHAPES = {
    "one_block": Shape(32, num_layers=2, num_experts=4, num_heads=2, num_kv_heads=1, intermediate_size=32, head_dim=32),
    "odd": Shape(96, num_layers=3, num_experts=4, num_heads=4, num_kv_heads=2, intermediate_size=160, head_dim=32),
    "wide": Shape(2880, num_layers=1, num_experts=8, num_heads=2, num_kv_heads=1, intermediate_size=96),
}


def make_packed(shape: str, folder: Path) -> None:
    write_random_checkpoint(folder, replace(PACKED_SHAPES[shape], vocab_size=509), seed=1, name=shape)


def with_every_code_and_scale(weights: Weights) -> Weights:
    """Return weights whose packed matrices have all half bytes, minus zero among them, and scales that make nothing.

    2^-63 (64) is the least that counts; what is less is zero.
    """
    generator = torch.Generator().manual_seed(1)

    def drawn(matrices: torch.Tensor | PackedMatrices) -> PackedMatrices:
        assert isinstance(matrices, PackedMatrices)
        blocks = torch.randint(0, 256, matrices.blocks.shape, generator=generator, dtype=torch.uint8)
        scales = torch.randint(112, 122, matrices.scales.shape, generator=generator, dtype=torch.uint8)
        for tiny in (0, 2, 63, 64, 80):
            scales[torch.rand(scales.shape, generator=generator) < 0.05] = tiny
        return PackedMatrices(blocks, scales, torch.bfloat16)

    layers = []
    for layer in weights.layers:
        experts = replace(layer.experts, gate_up=drawn(layer.experts.gate_up), down=drawn(layer.experts.down))
        layers.append(replace(layer, experts=experts))
    return replace(weights, layers=tuple(layers))


def unpacked(weights: Weights) -> Weights:
    """Return the same weights with experts as torch unpacks them."""
    layers = []
    for layer in weights.layers:
        gate_up, down = layer.experts.gate_up, layer.experts.down
        assert isinstance(gate_up, PackedMatrices)
        assert isinstance(down, PackedMatrices)
        layers.append(replace(layer, experts=replace(layer.experts, gate_up=gate_up.unpack(), down=down.unpack())))
    return replace(weights, layers=tuple(layers))


PROMPT = prompt_of(137, seed=1)


@pytest.mark.parametrize("shape", sorted(SHAPES))
@pytest.mark.parametrize("num_threads", [1, 3])
def test_native_when_run_past_the_window_then_it_is_closer_to_float32_than_torch_in_bfloat16_is(
    shape: str, num_threads: int, kernels: InstructionSet, tmp_path: Path
) -> None:
    make_reference(SHAPES[shape], tmp_path, dtype=torch.bfloat16)
    exact = StepByStep(load_torch_model(tmp_path), PROMPT)
    native = StepByStep(native_or_skip(tmp_path, kernels, num_threads), PROMPT)
    rounded = StepByStep(load_torch_model(tmp_path, torch.bfloat16), PROMPT)
    for run in (exact, native, rounded):
        for chunk in (50, 1, 86):
            run.prefill(chunk)
    for _ in range(80):
        exact.decode()
        native.decode(exact.sequence.token_ids[-1])
        rounded.decode(exact.sequence.token_ids[-1])
    expected = torch.cat(exact.logits)
    error = (torch.cat(native.logits) - expected).std()
    assert error < (torch.cat(rounded.logits) - expected).std()
    assert error < 0.15 * expected.std()


def cache_for(model: NativeModel | TorchModel, num_rows: int) -> KVCache:
    plan = plan_cache(model.config, CacheLimits(16, num_rows, 2048), budget_bytes=64 * 2**20, element_size=2)
    model.allocate_cache(plan)
    return KVCache(plan, model.config.sliding_window)


def opened(cache: KVCache, prompt: list[int], name: str) -> Sequence:
    sequence = Sequence(GenerationRequest(name, prompt, SamplingParams()), max_tokens=100)
    sequence.row, sequence.num_computed = cache.open(prompt)
    cache.reserve(sequence.row, len(prompt))
    return sequence


@pytest.mark.parametrize("num_threads", [1, 3])
@pytest.mark.parametrize("packed", [False, True])
def test_native_when_rows_share_a_batch_in_any_way_then_their_logits_are_the_same_bits(
    packed: bool, num_threads: int, kernels: InstructionSet, tmp_path: Path
) -> None:
    if packed:
        make_packed("odd", tmp_path / "packed")
    else:
        make_reference("base", tmp_path / "unpacked", dtype=torch.bfloat16)
    model = native_or_skip(tmp_path / ("packed" if packed else "unpacked"), kernels, num_threads)
    cache = cache_for(model, num_rows=20)
    prompts = [prompt_of(length, seed=length) for length in (1, 3, 16, 17, 40, 130, 200)]

    def logits_of(prompt: list[int], others: list[list[int]], chunk: int) -> torch.Tensor:
        """Compute `prompt` in chunks, `others` beside its last; returns its last logits."""
        sequence = opened(cache, prompt, "this")
        company = [opened(cache, other, "other") for other in others]
        while True:
            count = min(chunk, sequence.num_pending)
            last = count == sequence.num_pending
            parts = [ScheduledSequence(sequence, count, samples=last)]
            if last:
                parts += [ScheduledSequence(other, other.num_pending, samples=True) for other in company]
                random.Random(chunk).shuffle(parts)
            output = model.forward(Batch.build([], parts), cache, with_logits=True)
            sequence.num_computed += count
            if last:
                break
        for each in [sequence, *company]:
            cache.close(each.row)
        assert output.logits is not None
        return output.logits[[part.sequence for part in parts].index(sequence)]

    for prompt in prompts:
        alone = logits_of(prompt, [], chunk=1000)
        for chunk in (7, 16, 64, 1000):
            assert torch.equal(logits_of(prompt, prompts, chunk), alone)


@pytest.mark.parametrize("shape", sorted(PACKED_SHAPES))
@pytest.mark.parametrize("num_threads", [1, 3])
def test_native_when_experts_stay_packed_then_logits_are_the_bits_of_those_that_torch_unpacked(
    shape: str, num_threads: int, kernels: InstructionSet, tmp_path: Path
) -> None:
    make_packed(shape, tmp_path / "model")
    config = config_or_skip(tmp_path / "model")
    weights = load_weights(tmp_path / "model", Shard.of_all(config), torch.bfloat16, CPU, packed=True)
    weights = with_every_code_and_scale(weights)
    models = [NativeModel(config, [each], num_threads, kernels) for each in (weights, unpacked(weights))]
    runs = [StepByStep(model, PROMPT) for model in models]
    for run in runs:
        for chunk in (1, 2, 5, 7, 12, 14, 16, 19, 26, 35):  # rows of an expert, where all are used by each token
            run.prefill(chunk)
        run.decode(7)
    packed_logits, unpacked_logits = (torch.cat(run.logits) for run in runs)
    assert packed_logits.isfinite().all()
    assert packed_logits.std() > 0.1
    assert torch.equal(packed_logits, unpacked_logits)


@pytest.mark.parametrize("shape", sorted(PACKED_SHAPES))
def test_native_when_experts_stay_packed_then_it_is_closer_to_float32_than_torch_in_bfloat16_is(
    shape: str, kernels: InstructionSet, tmp_path: Path
) -> None:
    make_packed(shape, tmp_path / "model")
    native = native_or_skip(tmp_path / "model", kernels)
    models = (load_torch_model(tmp_path / "model"), native, load_torch_model(tmp_path / "model", torch.bfloat16))
    runs = [StepByStep(model, PROMPT) for model in models]
    for run in runs:
        run.prefill(len(PROMPT))
    exact, ours, rounded = (run.logits[0] for run in runs)
    # the median of the positions: in some of them rounding chooses another expert
    error, torch_error = ((logits - exact).std(-1).median() for logits in (ours, rounded))
    assert error < torch_error
    assert error < 0.05 * exact.std()


def test_native_when_a_packed_scale_is_out_of_range_then_the_checkpoint_is_called_damaged(
    kernels: InstructionSet, tmp_path: Path
) -> None:
    make_packed("one_block", tmp_path / "model")
    config = config_or_skip(tmp_path / "model")
    weights = load_weights(tmp_path / "model", Shard.of_all(config), torch.bfloat16, CPU, packed=True)
    down = weights.layers[1].experts.down
    assert isinstance(down, PackedMatrices)
    scales = down.scales.clone()
    scales[0, 0, 0] = 255
    experts = replace(weights.layers[1].experts, down=replace(down, scales=scales))
    weights = replace(weights, layers=(weights.layers[0], replace(weights.layers[1], experts=experts)))
    with pytest.raises(CheckpointError, match="damaged"):
        NativeModel(config, [weights], 1, kernels)


def test_native_when_shards_come_one_after_the_other_then_each_is_let_go_before_the_next_is_read(
    kernels: InstructionSet, tmp_path: Path
) -> None:
    make_packed("odd", tmp_path / "model")
    config = config_or_skip(tmp_path / "model")
    living: list[weakref.ref[torch.Tensor]] = []

    def shards() -> Iterator[Weights]:
        for index in range(config.num_layers):
            assert [reference() for reference in living] == [None] * index
            shard = Shard(config, range(index, index + 1))
            weights = load_weights(tmp_path / "model", shard, torch.bfloat16, CPU, packed=True)
            living.append(weakref.ref(weights.layers[0].qkv_bias))
            yield weights
            del weights

    in_shards = StepByStep(NativeModel(config, shards(), 1, kernels), PROMPT)
    whole = StepByStep(native_or_skip(tmp_path / "model", kernels), PROMPT)
    assert len(living) == config.num_layers
    for run in (in_shards, whole):
        run.prefill(len(PROMPT))
    assert torch.equal(in_shards.logits[0], whole.logits[0])


def test_loading_when_experts_are_to_be_packed_or_not_then_they_are_and_logits_are_the_same(tmp_path: Path) -> None:
    make_packed("odd", tmp_path / "model")
    config_or_skip(tmp_path / "model")
    formats: tuple[ExpertFormat, ...] = ("auto", "packed", "unpacked")
    runs = []
    for each in formats:
        model = load_model(tmp_path / "model", EngineOptions(experts=each), device=CPU)
        assert isinstance(model, NativeModel)
        assert model.has_packed_experts == (each != "unpacked")
        runs.append(StepByStep(model, PROMPT))
        runs[-1].prefill(len(PROMPT))
    assert torch.equal(runs[0].logits[0], runs[1].logits[0])
    assert torch.equal(runs[0].logits[0], runs[2].logits[0])


def unembeddings() -> dict[str, torch.Tensor]:
    """[509, 80]: what makes it hard to tell the largest logit from a rounded one, or easy to get it wrong."""
    generator = torch.Generator().manual_seed(1)
    random_rows = torch.randn(509, 80, generator=generator)
    sizes = 10.0 ** torch.randint(-3, 3, (509, 1), generator=generator)
    lone = torch.zeros(509, 80)
    lone[508, 79] = 1.0  # in the last, padded panel
    return {
        "random": random_rows,
        "rows_of_all_sizes": random_rows * sizes,
        "all_alike": random_rows[:1].expand(509, 80),
        "in_pairs": random_rows[:255].repeat_interleave(2, dim=0)[:509],
        "differing_by_less_than_a_rounded_weight": random_rows[:1] + 1e-3 * random_rows,
        "zero": torch.zeros(509, 80),
        "lone": lone,
        "lone_and_negative": -lone,
        "all_logits_negative": -1e3 * torch.ones(509, 80) + random_rows,
    }


@pytest.mark.parametrize("kind", sorted(unembeddings()))
@pytest.mark.parametrize("num_threads", [1, 3])
def test_native_when_no_logits_are_asked_for_then_the_best_tokens_are_the_same(
    kind: str, num_threads: int, kernels: InstructionSet, tmp_path: Path
) -> None:
    make_reference(SHAPES["odd_sizes"], tmp_path, dtype=torch.bfloat16)
    model = native_or_skip(tmp_path, kernels, num_threads, unembedding=unembeddings()[kind].to(torch.bfloat16))
    cache = cache_for(model, num_rows=2)
    batch = Batch.build([], [ScheduledSequence(opened(cache, PROMPT, "a"), len(PROMPT), samples=True)])
    batch.samples[:] = range(len(PROMPT))
    with_logits = model.forward(batch, cache, with_logits=True)
    assert with_logits.logits is not None
    likeliest = with_logits.logits.argmax(-1).tolist()
    assert with_logits.tokens == likeliest
    assert model.forward(batch, cache, with_logits=False).tokens == likeliest
    for at in (0, 77, 136):  # alone, other panels are looked at side by side
        batch.samples[:] = [at]
        assert model.forward(batch, cache, with_logits=False).tokens == likeliest[at : at + 1]


def test_native_when_a_row_is_not_finite_then_it_ends_there_and_the_others_are_as_ever(
    kernels: InstructionSet, tmp_path: Path
) -> None:
    make_reference(SHAPES["odd_sizes"], tmp_path, dtype=torch.bfloat16)
    config = ModelConfig.from_folder(tmp_path)
    broken = load_weights(tmp_path, Shard.of_all(config), torch.bfloat16, CPU).embedding
    assert broken is not None
    broken = broken.clone()
    broken[7] = torch.nan
    model = native_or_skip(tmp_path, kernels, embedding=broken)
    cache = cache_for(model, num_rows=2)
    good, bad = opened(cache, [1, 2, 3], "good"), opened(cache, [4, 5, 7], "bad")
    batch = Batch.build([], [ScheduledSequence(each, 3, samples=True) for each in (good, bad)])
    alone = Batch.build([], [ScheduledSequence(good, 3, samples=True)])
    best = model.forward(batch, cache, with_logits=False).tokens
    assert best == model.forward(batch, cache, with_logits=True).tokens
    assert best[:1] == model.forward(alone, cache, with_logits=False).tokens


def test_loading_when_the_kernels_cannot_run_then_torch_takes_over_or_a_sentence_says_why(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_reference("base", tmp_path, dtype=torch.bfloat16)
    monkeypatch.setattr(library, "_flags_of_processor", lambda: ["sse2"])
    model = load_model(tmp_path, device=CPU)
    assert isinstance(model, TorchModel)
    assert model.dtype == torch.float32
    with pytest.raises(EngineError, match=r"cpu_kernels is native, but the processor lacks avx2, fma"):
        load_model(tmp_path, EngineOptions(cpu_kernels="native"), device=CPU)


def test_loading_when_the_processor_has_avx2_but_not_avx512_then_its_kernels_compute_and_experts_stay_packed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    make_packed("odd", tmp_path / "model")
    config_or_skip(tmp_path / "model")
    monkeypatch.setattr(library, "_flags_of_processor", lambda: ["sse2", *AVX2.features])
    model = load_model(tmp_path / "model", device=CPU)
    assert isinstance(model, NativeModel)
    assert model.has_packed_experts
    assert model.info is not None
    assert model.info.kernels == "C++ (AVX2)"


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ((*AVX2.features, *AVX512.features), AVX512),
        ((*AVX2.features, *AVX512.features[:-2], "fma"), AVX2),  # no VNNI
        (("avx", "f16c", *AVX2.features), AVX2),
    ],
)
def test_instruction_set_when_chosen_then_it_is_the_best_whose_every_feature_the_processor_has(
    flags: tuple[str, ...], expected: InstructionSet, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library, "_flags_of_processor", lambda: flags)
    monkeypatch.setattr(library, "load_library", lambda instruction_set: None)
    assert choose_instruction_set() == expected


def test_instruction_set_when_the_compiler_does_not_know_the_best_then_it_is_the_next(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def load(instruction_set: InstructionSet) -> None:
        if instruction_set == AVX512:
            raise NativeUnavailableError("g++ cannot build the CPU kernels: unrecognized option '-mavx512bf16'")

    monkeypatch.setattr(library, "_flags_of_processor", lambda: (*AVX2.features, *AVX512.features))
    monkeypatch.setattr(library, "load_library", load)
    assert choose_instruction_set() == AVX2


def test_library_when_built_for_avx2_then_it_has_no_instruction_of_avx512() -> None:
    disassembler = shutil.which("objdump")
    if disassembler is None or missing_features(AVX2):
        pytest.skip("objdump or AVX2 is missing")
    built = str(library._built(AVX2))
    shown = subprocess.run([disassembler, "-d", "--no-show-raw-insn", built], capture_output=True, check=True).stdout
    assert b"%ymm15" in shown
    assert re.search(rb"%zmm|%[xy]mm(1[6-9]|2\d|3[01])\b|%k[0-7]\b", shown) is None


def test_loading_when_another_precision_is_asked_for_then_torch_computes_in_it(tmp_path: Path) -> None:
    make_reference("base", tmp_path, dtype=torch.bfloat16)
    model = load_model(tmp_path, EngineOptions(dtype="float32"), device=CPU)
    assert isinstance(model, TorchModel)
    config_or_skip(tmp_path)
    with pytest.raises(EngineError, match=r"cpu_kernels is native, but engine\.dtype is float32"):
        load_model(tmp_path, EngineOptions(dtype="float32", cpu_kernels="native"), device=CPU)
    with pytest.raises(EngineError, match=r"block_size is 8, the kernels take 16"):
        load_model(tmp_path, EngineOptions(cpu_kernels="native", block_size=8), device=CPU)


def test_library_when_there_is_no_compiler_then_the_sentence_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(library.shutil, "which", lambda name: None)
    with pytest.raises(NativeUnavailableError, match=r"no C\+\+ compiler"):
        library._built(AVX2)


def test_library_when_what_was_built_is_damaged_then_torch_computes_and_it_is_built_anew_next_time(
    tmp_path: Path,
) -> None:
    damaged = tmp_path / "forward-0.so"
    damaged.write_bytes(b"\x7fELF")
    with pytest.raises(NativeUnavailableError, match="cannot be loaded"):
        library._opened(damaged)
    assert not damaged.exists()


def test_library_when_nothing_can_be_written_then_torch_computes(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> str:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(tempfile, "mkdtemp", full)
    monkeypatch.setattr(library.Path, "home", full)
    with pytest.raises(NativeUnavailableError, match=r"no folder for the CPU kernels: .*No space left"):
        library._cache_folder()


def test_library_when_there_is_no_room_to_build_it_then_torch_computes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(library, "_cache_folder", lambda: tmp_path / "gone")
    with pytest.raises(NativeUnavailableError, match="no room for the CPU kernels"):
        library._built(AVX2)


def test_cache_folder_when_there_is_no_home_or_others_may_write_to_it_then_it_is_one_of_its_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(library.Path, "home", no_home)
    assert library._cache_folder().parent == tmp_path
    monkeypatch.setattr(library.Path, "home", lambda: tmp_path)
    ours = library._cache_folder()
    assert ours == tmp_path / ".cache" / "gptoss"
    ours.chmod(0o777)
    assert library._cache_folder() != ours
