"""An FP8 KV cache: what is rounded how, how much memory it takes, where it is refused. Kernels run as conftest says."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest
import torch
import triton
import triton.language as tl

from gptoss_backend.demo.random_checkpoint import Shape, write_random_checkpoint
from gptoss_backend.engine.cache_plan import CacheLimits, CachePlan
from gptoss_backend.engine.config import RopeConfig
from gptoss_backend.engine.errors import EngineError
from gptoss_backend.engine.kernels.float8 import float8_of
from gptoss_backend.engine.kernels.operators import KernelOperators
from gptoss_backend.engine.loading import load_model
from gptoss_backend.engine.operators import LayerCache, Operators, TorchOperators
from gptoss_backend.engine.options import EngineOptions
from gptoss_backend.engine.placement.memory_plan import Formats, plan_memory
from gptoss_backend.engine.precision import FLOAT8, FLOAT8_MOST, choose_cache_dtype
from gptoss_backend.engine.rope import RotaryEmbedding
from gptoss_backend.engine.shard import Shard
from gptoss_backend.engine.torch_model import TorchModel
from support.attention_cases import AttentionCase, Heads
from support.generating import generate
from support.packed_experts import relative_error
from support.shapes import published_config
from support.stepping import CPU, prompt_of

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
ROPE = RopeConfig(150000.0, 32.0, 32.0, 1.0, 4096, truncate=False)
CODES = torch.arange(256, dtype=torch.uint8).view(FLOAT8)
NO_NUMBERS = torch.tensor([0x7F, 0xFF])
SHAPE = Shape(
    hidden_size=64,
    num_layers=2,
    num_experts=4,
    num_heads=4,
    num_kv_heads=2,
    intermediate_size=64,
    head_dim=16,
    vocab_size=500,
    max_positions=512,
)
OPTIONS = EngineOptions(max_num_seqs=4, prefill_chunk_tokens=16, kv_cache_bytes=2**20)
BOTH = pytest.mark.parametrize("operators", [TorchOperators, KernelOperators], ids=["torch", "kernels"])


@triton.jit
def round_all(values: tl.tensor, codes: tl.tensor, count: tl.constexpr) -> None:
    place = tl.arange(0, count)
    tl.store(codes + place, float8_of(tl.load(values + place)))


@triton.jit
def widen_all(codes: tl.tensor, values: tl.tensor, count: tl.constexpr) -> None:
    place = tl.arange(0, count)
    tl.store(values + place, tl.load(codes + place, mask=place < count, other=0.0).to(values.dtype.element_ty))


def rounded(values: torch.Tensor) -> torch.Tensor:
    codes = torch.empty(len(values), dtype=FLOAT8, device=DEVICE)
    round_all[(1,)](values.to(DEVICE), codes, len(values))
    return codes.cpu().view(torch.uint8)


def test_rounding_when_a_value_is_a_code_s_then_it_is_that_code() -> None:
    assert torch.equal(rounded(CODES.float()) & 0x7F, CODES.view(torch.uint8) & 0x7F)
    numbers = CODES.float().isfinite()
    assert torch.equal(rounded(CODES.float())[numbers], CODES.view(torch.uint8)[numbers])


def test_rounding_when_values_lie_between_codes_then_the_nearest_is_taken_as_torch_does() -> None:
    codes = CODES.float()[:0x7F]
    middles = (codes[:-1] + codes[1:]) / 2
    beside = [torch.nextafter(middles, torch.tensor(end)) for end in (-1000.0, 1000.0)]
    generator = torch.Generator().manual_seed(0)
    anywhere = torch.randn(646, generator=generator) * 2 ** (torch.rand(646, generator=generator) * 24 - 14)
    values = torch.cat([middles, *beside, anywhere])
    assert len(values) == 1024
    for each in (values, -values):
        expected = each.clamp(-FLOAT8_MOST, FLOAT8_MOST).to(FLOAT8)
        assert torch.equal(rounded(each), expected.view(torch.uint8))


def test_rounding_when_values_are_beyond_the_largest_then_it_is_the_largest_and_no_number_stays_none() -> None:
    values = torch.tensor([448.0, 449.0, 464.0, 480.0, 1e5, 3e38, float("inf"), -500.0])
    assert rounded(values).view(FLOAT8).float().tolist() == [448.0] * 7 + [-448.0]
    assert rounded(torch.full((2,), float("nan"))).view(FLOAT8).float().isnan().all()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16], ids=str)
def test_widening_when_all_codes_are_read_then_the_values_are_torch_s(dtype: torch.dtype) -> None:
    values = torch.empty(256, dtype=dtype, device=DEVICE)
    widen_all[(1,)](CODES.to(DEVICE), values, 256)
    found, expected = values.cpu().float(), CODES.float()
    if DEVICE.type == "cpu":  # the interpreter reads the two codes that are no numbers as 480; none is ever written
        found[NO_NUMBERS] = float("nan")
    assert torch.equal(found.nan_to_num(nan=1e4), expected.nan_to_num(nan=1e4))


def attend(operators: Operators, case: AttentionCase, *, sliding: bool = False) -> tuple[torch.Tensor, LayerCache]:
    rope = RotaryEmbedding(ROPE, case.shape.head_dim, DEVICE)
    cache = LayerCache(case.keys.clone(), case.values.clone(), is_sliding=sliding)
    step = operators.attention(case.batch, case.tables, rope, case.heads.dtype)
    return step.attend(case.heads, case.identity(), cache, case.sinks), cache


@BOTH
@pytest.mark.parametrize("sliding", [False, True], ids=["full", "sliding"])
def test_attention_when_the_cache_is_float8_then_the_error_is_bounded(
    operators: type[TorchOperators | KernelOperators], sliding: bool
) -> None:
    full, rough = (
        AttentionCase.random(
            [3, 90], [(0, 17)], Heads(4, 2, 16), window=32, dtype=torch.float32, device=DEVICE, cache_dtype=dtype
        )
        for dtype in (None, FLOAT8)
    )
    exact, _ = attend(TorchOperators(DEVICE), full, sliding=sliding)
    output, _ = attend(operators(DEVICE), rough, sliding=sliding)
    # three bits of mantissa are off by 1/16 at most, and by less than half of that on average
    assert 1e-3 < relative_error(output, exact) < 1 / 16


@BOTH
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16], ids=str)
def test_attention_when_keys_and_values_exceed_float8_then_they_are_its_largest_numbers(
    operators: type[TorchOperators | KernelOperators], dtype: torch.dtype
) -> None:
    case = AttentionCase.random([20], [], Heads(2, 1, 16), window=32, dtype=dtype, device=DEVICE, cache_dtype=FLOAT8)
    case.heads[:, 2 * 16 :] *= 1e4
    output, cache = attend(operators(DEVICE), case)
    slot = case.slot(case.batch.rows[0], 20)
    for memory in (cache.keys, cache.values):
        written = memory.float()[0, slot]
        assert float(written.abs().max()) == FLOAT8_MOST
        assert written.isfinite().all()
    assert output.isfinite().all()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("fp8") / "checkpoint"
    write_random_checkpoint(folder, SHAPE, seed=3, name="test")
    return folder


def load(folder: Path) -> TorchModel:
    model = load_model(folder, EngineOptions(kv_cache_dtype="fp8"), device=CPU)
    assert isinstance(model, TorchModel)
    return model


def test_load_when_a_cpu_computes_then_torch_does_it_and_the_operator_is_told(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO):
        model = load(folder)
    assert model.info is not None
    assert model.info.kernels == "torch, FP8 KV cache"
    assert "FP8 KV cache: keys and values are rounded to float8 e4m3" in caplog.text
    assert "forward pass: torch, since engine.kv_cache_dtype is fp8" in caplog.text


def test_load_when_native_kernels_are_asked_for_then_it_is_refused_in_one_sentence(folder: Path) -> None:
    with pytest.raises(EngineError, match=r"^engine\.cpu_kernels is native, but engine\.kv_cache_dtype is fp8, "):
        load_model(folder, EngineOptions(cpu_kernels="native", kv_cache_dtype="fp8"), device=CPU)


@pytest.mark.parametrize(("capability", "is_taken"), [((8, 0), False), ((8, 6), False), ((8, 9), True), ((9, 0), True)])
def test_cache_dtype_when_a_card_cannot_convert_then_it_is_refused_in_one_sentence(
    capability: tuple[int, int], is_taken: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: capability)
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: "a card")
    card = torch.device("cuda")
    assert choose_cache_dtype("auto", torch.bfloat16, card) == torch.bfloat16
    if is_taken:
        assert choose_cache_dtype("fp8", torch.bfloat16, card) == FLOAT8
        return
    sentence = rf"^engine\.kv_cache_dtype is fp8, .* a card has {capability[0]}\.{capability[1]}: set it to auto$"
    with pytest.raises(EngineError, match=sentence):
        choose_cache_dtype("fp8", torch.bfloat16, card)


def plan_of(model: TorchModel) -> CachePlan:
    return model.plan_cache(CacheLimits(16, 8, 64, kv_cache_bytes=500_000))


def test_plan_when_the_cache_is_float8_then_a_value_is_one_byte(folder: Path) -> None:
    rough = load(folder)
    plan = plan_of(rough)
    rough.allocate_cache(plan)
    taken = sum(memory.nbytes for layer in rough._cache for memory in (layer.keys, layer.values))
    assert taken == plan.num_bytes
    halves = load_model(folder, EngineOptions(dtype="float16", cpu_kernels="torch"), device=CPU)
    assert isinstance(halves, TorchModel)
    assert plan.num_tokens >= 2 * plan_of(halves).num_tokens


def test_memory_plan_when_the_cache_is_float8_then_a_token_takes_half_and_weights_stay() -> None:
    shard = Shard.of_all(published_config("20b"))
    full, rough = (plan_memory(shard, Formats(kv_element_size=size)) for size in (None, 1))
    assert full.kv_bytes_per_token == 2 * rough.kv_bytes_per_token
    assert full.weight_bytes == rough.weight_bytes


def test_engine_when_a_prefix_is_found_in_a_float8_cache_then_the_answer_is_that_of_computing_it(folder: Path) -> None:
    model = load(folder)
    prompts = [prompt_of(50, seed=1) + prompt_of(length, seed=length) for length in (1, 9, 20)]
    together, stats = generate(model, prompts, 8, OPTIONS)
    assert stats.num_prefix_hits > 0
    assert together == [generate(model, [prompt], 8, OPTIONS)[0][0] for prompt in prompts]
