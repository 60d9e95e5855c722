"""Attention and unembedding in eight bits: the rounding, the reference, and a model loaded so."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from gptoss_backend.demo.random_checkpoint import Shape, write_random_checkpoint
from gptoss_backend.engine import int8
from gptoss_backend.engine.checkpoint import load_weights
from gptoss_backend.engine.config import ModelConfig
from gptoss_backend.engine.errors import EngineError
from gptoss_backend.engine.int8 import EightBitMatrix
from gptoss_backend.engine.loading import load_model
from gptoss_backend.engine.operators import TorchOperators
from gptoss_backend.engine.options import EngineOptions
from gptoss_backend.engine.placement.memory_plan import Formats, plan_memory
from gptoss_backend.engine.placement.options import PlacementOptions
from gptoss_backend.engine.shard import Shard
from gptoss_backend.engine.torch_model import TorchModel
from support.generating import generate
from support.packed_experts import relative_error
from support.stepping import StepByStep, prompt_of

CPU = torch.device("cpu")
SHAPE = Shape(
    hidden_size=64, num_layers=2, num_experts=4, num_heads=4, num_kv_heads=2, intermediate_size=96, vocab_size=500
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("int8") / "checkpoint"
    write_random_checkpoint(folder, SHAPE, seed=3, name="test")
    return folder


def random_matrix(num_outputs: int, num_inputs: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(num_outputs)
    return torch.randn(num_outputs, num_inputs, generator=generator) * torch.rand(num_outputs, 1, generator=generator)


def test_rounding_when_rows_differ_in_size_then_each_is_near_by_half_of_its_own_step() -> None:
    matrix = random_matrix(50, 33)
    matrix[7] = 0.0
    rounded = EightBitMatrix.of(matrix, torch.float32, CPU)
    assert int(rounded.values.min()) >= -127
    torch.testing.assert_close(rounded.scales * 127, matrix.abs().amax(dim=1), rtol=1e-6, atol=1e-30)
    assert bool(((rounded.unpack() - matrix).abs() <= 0.5001 * rounded.scales[:, None]).all())
    assert not rounded.unpack()[7].any()
    assert rounded.nbytes == 50 * 33 + 50 * 4


def test_multiplying_when_a_matrix_is_unpacked_in_parts_then_it_is_as_in_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(int8, "_TILE_ROWS", 16)
    matrix, rows = random_matrix(50, 33), torch.randn(3, 33)
    rounded, bias = EightBitMatrix.of(matrix, torch.float32, CPU), torch.randn(50)
    whole = rows @ rounded.unpack().T
    torch.testing.assert_close(TorchOperators.linear(rows, rounded), whole)
    torch.testing.assert_close(TorchOperators.linear(rows, rounded, bias), whole + bias)
    torch.testing.assert_close(TorchOperators.project(rows, rounded, bias), whole + bias)
    memory = torch.full((5, 50), -1.0)
    TorchOperators.linear(rows, rounded, out=memory[:3])
    torch.testing.assert_close(memory[:3], whole)
    assert bool((memory[3:] == -1).all())


def test_model_when_in_eight_bits_then_logits_are_near_and_it_takes_what_was_planned(folder: Path) -> None:
    models = [
        load_model(folder, EngineOptions(cpu_kernels="torch", dense_weights=each), device=CPU)
        for each in ("auto", "int8")
    ]
    prompt = prompt_of(40, seed=1)
    logits = []
    for model in models:
        assert isinstance(model, TorchModel)
        run = StepByStep(model, prompt)
        run.prefill(40)
        logits.append(run.logits[0])
    assert 0 < relative_error(logits[1], logits[0]) < 0.05
    plain, rounded = (model.info for model in models)
    assert plain is not None
    assert rounded is not None
    assert "8-bit" not in plain.kernels
    assert rounded.kernels.endswith("8-bit attention and unembedding")
    assert rounded.weight_bytes < plain.weight_bytes


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_plan_when_in_eight_bits_then_it_is_what_is_read(folder: Path, dtype: torch.dtype) -> None:
    shard = Shard.of_all(ModelConfig.from_folder(folder))
    weights = load_weights(folder, shard, dtype, CPU, packed=True, eight_bit=True)
    plan = plan_memory(shard, Formats(dtype.itemsize, eight_bit=True))
    assert isinstance(weights.unembedding, EightBitMatrix)
    assert weights.norm is not None
    assert plan.unembedding_bytes == weights.unembedding.nbytes + weights.norm.nbytes
    attention = sum(
        part.nbytes
        for layer in weights.layers
        for part in (
            *(layer.attention_norm, layer.qkv, layer.qkv_bias, layer.output, layer.output_bias, layer.sinks),
            *(layer.expert_norm, layer.experts.router, layer.experts.router_bias),
        )
    )
    assert plan.attention_bytes == attention


def test_engine_when_in_eight_bits_then_greedy_answers_come_and_are_the_same_again(folder: Path) -> None:
    model = load_model(folder, EngineOptions(cpu_kernels="torch", dense_weights="int8"), device=CPU)
    prompts = [prompt_of(length, seed=length) for length in (3, 20)]
    options = EngineOptions(max_num_seqs=2, kv_cache_bytes=4 * 2**20)
    first, again = (generate(model, prompts, 4, options)[0] for _ in range(2))
    assert [len(tokens) for tokens in first] == [4, 4]
    assert first == again


@pytest.mark.parametrize("mode", ["pipeline", "tensor"])
def test_loading_when_eight_bits_meet_several_devices_then_a_sentence_refuses_them(folder: Path, mode: str) -> None:
    placement = PlacementOptions(mode=mode, num_devices=2)  # type: ignore[arg-type]
    with pytest.raises(EngineError, match=rf"dense_weights is int8, .* its placement is {mode}"):
        load_model(folder, EngineOptions(dense_weights="int8"), device=CPU, placement=placement)


def test_loading_when_eight_bits_meet_the_cpp_kernels_then_a_sentence_refuses_them(folder: Path) -> None:
    with pytest.raises(EngineError, match=r"cpu_kernels is native, but engine\.dense_weights is int8, and the kernels"):
        load_model(folder, EngineOptions(dense_weights="int8", cpu_kernels="native"), device=CPU)


def test_loading_when_nothing_is_said_of_kernels_then_torch_takes_eight_bits(
    folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        model = load_model(folder, EngineOptions(dense_weights="int8"), device=CPU)
    assert model.info.kernels == "torch, 8-bit attention and unembedding"
    assert "forward pass: torch, since engine.dense_weights is int8" in caplog.text
    assert "so answers differ from the checkpoint's" in caplog.text
