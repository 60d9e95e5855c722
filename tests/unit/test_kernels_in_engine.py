"""The whole engine with experts applied by the GPU's kernels, in Triton's interpreter where there is no GPU."""

from __future__ import annotations

from pathlib import Path

import torch

from gptoss_backend.demo.random_checkpoint import Shape, write_random_checkpoint
from gptoss_backend.engine.checkpoint import load_weights
from gptoss_backend.engine.config import ModelConfig
from gptoss_backend.engine.engine import EngineOptions
from gptoss_backend.engine.experts import mix_experts
from gptoss_backend.engine.kernels.experts import mix_packed_experts
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


def test_engine_when_kernels_apply_the_experts_then_its_tokens_are_those_of_plain_torch(tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    write_random_checkpoint(folder, SHAPE, seed=2, name="test")
    shard = Shard.of_all(ModelConfig.from_folder(folder))
    weights = load_weights(folder, shard, torch.float32, DEVICE, packed=True)
    prompts = [prompt_of(length, seed=length) for length in (3, 20)]
    tokens = [
        generate(TorchModel(shard, weights, mixer=mixer), prompts, 5, OPTIONS)[0]
        for mixer in (mix_experts, mix_packed_experts)
    ]
    assert tokens[0] == tokens[1]
