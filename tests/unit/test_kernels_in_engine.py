"""The whole engine computed by the GPU's kernels, in Triton's interpreter where there is no GPU."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import torch

from gptoss_backend.demo.random_checkpoint import Shape, write_random_checkpoint
from gptoss_backend.engine.checkpoint import Weights, load_weights
from gptoss_backend.engine.config import ModelConfig
from gptoss_backend.engine.engine import EngineOptions
from gptoss_backend.engine.experts import mix_experts
from gptoss_backend.engine.kernels.experts import mix_packed_experts
from gptoss_backend.engine.kernels.operators import KernelOperators
from gptoss_backend.engine.operators import TorchOperators
from gptoss_backend.engine.shard import Shard
from gptoss_backend.engine.torch_model import TorchModel
from support.generating import generate
from support.stepping import prompt_of

SHAPE = Shape(
    hidden_size=64,
    num_layers=2,
    num_experts=6,
    num_heads=4,
    num_kv_heads=2,
    intermediate_size=96,
    head_dim=16,
    vocab_size=500,
    max_positions=512,
)
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
OPTIONS = EngineOptions(max_num_seqs=4, prefill_chunk_tokens=16, kv_cache_bytes=4 * 2**20)


def load(folder: Path, shape: Shape) -> tuple[Shard, Weights]:
    write_random_checkpoint(folder, shape, seed=2, name="test")
    shard = Shard.of_all(ModelConfig.from_folder(folder))
    return shard, load_weights(folder, shard, torch.float32, DEVICE, packed=True)


def models(shard: Shard, weights: Weights) -> list[TorchModel]:
    """Return the reference and the kernels' path."""
    return [
        TorchModel(shard, weights, mixer=mix_experts, operators=TorchOperators(DEVICE)),
        TorchModel(shard, weights, mixer=mix_packed_experts, operators=KernelOperators(DEVICE)),
    ]


def test_engine_when_kernels_compute_then_its_tokens_are_those_of_plain_torch(tmp_path: Path) -> None:
    # the second prompt spans two chunks and joins the first one's decoding
    prompts = [prompt_of(length, seed=length) for length in (3, 20)]
    tokens = [generate(model, prompts, 5, OPTIONS)[0] for model in models(*load(tmp_path / "checkpoint", SHAPE))]
    assert tokens[0] == tokens[1]


def test_engine_when_prompts_share_a_prefix_and_leave_the_window_then_kernels_give_torch_s_tokens(
    tmp_path: Path,
) -> None:
    shard, weights = load(tmp_path / "checkpoint", SHAPE)
    config = dataclasses.replace(shard.whole, sliding_window=24)
    shared = prompt_of(50, seed=1)
    prompts = [shared + prompt_of(length, seed=length) for length in (1, 9)]
    found = [
        generate(model, prompts, 4, dataclasses.replace(OPTIONS, prefill_chunk_tokens=32))
        for model in models(Shard.of_all(config), weights)
    ]
    assert found[0][0] == found[1][0]
    assert found[1][1].num_prefix_hits >= 16
