"""What parts of a layer exchange and read of the host, recorded as CUDA graphs. NCCL: one part alone on one card."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import torch.distributed as dist

from gptoss_backend.demo.random_checkpoint import Shape, write_random_checkpoint
from gptoss_backend.engine.checkpoint import load_weights
from gptoss_backend.engine.config import ModelConfig
from gptoss_backend.engine.kernels.embedding import look_up
from gptoss_backend.engine.kernels.graphed_model import GraphedModel
from gptoss_backend.engine.kernels.recording import CudaRecorder
from gptoss_backend.engine.options import EngineOptions
from gptoss_backend.engine.placement.group import TensorGroup
from gptoss_backend.engine.shard import Shard
from support.generating import generate
from support.stepping import prompt_of

pytestmark = pytest.mark.skipif(
    not torch.cuda.is_available() or torch.cuda.get_device_capability() < (8, 0), reason="needs an Ampere GPU or later"
)
CUDA = torch.device("cuda", 0)
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
OPTIONS = EngineOptions(max_num_seqs=8, prefill_chunk_tokens=64, kv_cache_bytes=2**24, max_model_len=256)


@pytest.fixture
def group(tmp_path: Path) -> Iterator[TensorGroup]:
    dist.init_process_group("nccl", init_method=f"file://{tmp_path}/store", rank=0, world_size=1, device_id=CUDA)
    try:
        yield TensorGroup([SHAPE.vocab_size], 60.0, lambda: False)
    finally:
        dist.destroy_process_group()


def test_sums_when_they_are_recorded_then_tokens_are_those_of_a_model_without_parts(
    tmp_path: Path, group: TensorGroup
) -> None:
    write_random_checkpoint(tmp_path / "checkpoint", SHAPE, seed=2, name="test")
    shard = Shard.of_all(ModelConfig.from_folder(tmp_path / "checkpoint"))
    weights = load_weights(tmp_path / "checkpoint", shard, torch.bfloat16, CUDA, packed=True)
    prompts = [prompt_of(length, seed=length) for length in (3, 20, 40)]
    for sampling in ({}, {"temperature": 1.0, "seed": 3}, {"temperature": 1.0, "seed": 3, "logprobs": 2}):
        expected, found = (
            generate(GraphedModel(shard, weights, group=parts), prompts, 24, OPTIONS, **sampling)[0]
            for parts in (None, group)
        )
        assert found == expected


def test_logits_when_their_joining_is_recorded_then_each_replay_joins_what_is_there(group: TensorGroup) -> None:
    mine, joined = torch.zeros(3, SHAPE.vocab_size, device=CUDA), torch.zeros(3, SHAPE.vocab_size, device=CUDA)

    def join() -> None:
        group.join(mine, joined)

    replay = CudaRecorder(torch.cuda.Stream(CUDA))(join)
    for value in (1.0, 2.0):
        mine.fill_(value)
        replay()
        assert joined.eq(value).all()


def test_embedding_when_its_look_up_is_recorded_then_each_replay_reads_the_host_s_rows() -> None:
    table = torch.randn(SHAPE.vocab_size, 2880, dtype=torch.bfloat16).pin_memory()
    ids, rows = torch.zeros(5, dtype=torch.int64, device=CUDA), torch.zeros(5, 2880, dtype=torch.bfloat16, device=CUDA)

    def read() -> None:
        rows.copy_(look_up(table, ids, torch.bfloat16))

    replay = CudaRecorder(torch.cuda.Stream(CUDA))(read)
    for first in (7, 300):
        ids.copy_(torch.arange(first, first + 5))
        replay()
        assert torch.equal(rows.cpu(), table[first : first + 5])
