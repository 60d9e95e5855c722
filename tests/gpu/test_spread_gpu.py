"""A model over two GPUs: what one card cannot show of NCCL."""

from __future__ import annotations

import os
import queue
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from gptoss_backend.contract import SamplingParams
from gptoss_backend.demo.random_checkpoint import Shape, write_random_checkpoint
from gptoss_backend.engine.checkpoint import load_weights
from gptoss_backend.engine.config import ModelConfig
from gptoss_backend.engine.engine import Engine
from gptoss_backend.engine.making import make_model
from gptoss_backend.engine.options import EngineOptions
from gptoss_backend.engine.placement import jobs
from gptoss_backend.engine.placement.cluster import Cluster
from gptoss_backend.engine.placement.driver import DistributedModel
from gptoss_backend.engine.placement.layout import SpreadMode, divide
from gptoss_backend.engine.sequence import GenerationRequest, TokenDelta
from gptoss_backend.engine.shard import Shard
from support.float32_rank import let_float32_replay
from support.generating import generate
from support.ranks import pids_of_ranks
from support.stepping import prompt_of

pytestmark = pytest.mark.skipif(
    torch.cuda.device_count() < 2 or torch.cuda.get_device_capability() < (8, 0),
    reason="needs two Ampere GPUs or later",
)
SHAPE = Shape(
    hidden_size=256,
    num_layers=4,
    num_experts=8,
    num_heads=8,
    num_kv_heads=4,
    intermediate_size=160,
    head_dim=64,
    vocab_size=517,
    max_positions=2048,
)
OPTIONS = EngineOptions(max_num_seqs=8, prefill_chunk_tokens=64, kv_cache_bytes=2**26, max_model_len=512)
CARDS = (torch.device("cuda", 0), torch.device("cuda", 1))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("spread") / "checkpoint"
    write_random_checkpoint(folder, SHAPE, seed=5, name="test")
    return folder


def spread(folder: Path, mode: SpreadMode, dtype: torch.dtype) -> DistributedModel:
    shards = divide(ModelConfig.from_folder(folder), mode, 2)
    model = DistributedModel(folder, shards, Cluster(CARDS, 2), dtype, packed=True, cuda_graphs=True)
    assert model.can_draw  # else nothing is recorded
    return model


@pytest.mark.parametrize("mode", ["pipeline", "tensor"])
def test_tokens_when_two_cards_replay_their_steps_then_they_are_those_of_one_and_the_end_is_orderly(
    mode: SpreadMode, folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]), prepend=os.pathsep)
    monkeypatch.setattr(jobs, "_MODULE", "support.float32_rank")
    let_float32_replay(monkeypatch.setattr)
    shard = Shard.of_all(ModelConfig.from_folder(folder))
    weights = load_weights(folder, shard, torch.float32, CARDS[0], packed=True)
    prompts = [prompt_of(length, seed=length) for length in (3, 17, 40, 130, 200)]
    alone, both = make_model(shard, weights, cuda_graphs=True), spread(folder, mode, torch.float32)
    expected, _ = generate(alone, prompts, 32, OPTIONS, temperature=1.0, seed=3)
    assert generate(both, prompts, 32, OPTIONS, temperature=1.0, seed=3)[0] == expected
    assert "does not end" not in caplog.text


@pytest.mark.parametrize("mode", ["pipeline", "tensor"])
@pytest.mark.parametrize("is_decoding", [True, False])
def test_engine_when_the_other_card_s_rank_is_killed_amid_replays_then_its_requests_are_told_soon(
    is_decoding: bool, mode: SpreadMode, folder: Path
) -> None:
    said: queue.SimpleQueue[list[TokenDelta]] = queue.SimpleQueue()
    options = replace(OPTIONS, max_model_len=2048)
    engine = Engine(spread(folder, mode, torch.bfloat16), options, said.put)
    engine.start()
    endless = SamplingParams(max_tokens=2000, ignore_eos=True)
    for name in ("one", "other"):
        # of the long ones each has thirty chunks, of which nobody is told before the last
        engine.submit(GenerationRequest(name, prompt_of(20 if is_decoding else 1900, seed=1), endless))
    said.get(timeout=60.0)  # from here on steps are replayed
    [pid] = pids_of_ranks()
    os.kill(pid, signal.SIGKILL)
    ended: dict[str, str | None] = {}
    while len(ended) < 2:
        ended |= {delta.request_id: delta.error for delta in said.get(timeout=5.0) if delta.is_last}
    assert None not in ended.values()
    assert engine.fault == "rank 1 of 2 died of signal 9"
    engine.stop(0.0, at_most_s=5.0)
