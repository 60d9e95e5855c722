"""A model over several processes that replay their steps, in Triton's interpreter; replaying is doing again."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from gptoss_backend.contract import SamplingParams
from gptoss_backend.demo.random_checkpoint import Shape, write_random_checkpoint
from gptoss_backend.engine.config import ModelConfig
from gptoss_backend.engine.kernels.graphed_model import GraphedModel
from gptoss_backend.engine.model import Model
from gptoss_backend.engine.options import EngineOptions
from gptoss_backend.engine.placement import jobs
from gptoss_backend.engine.placement.cluster import Cluster
from gptoss_backend.engine.placement.driver import DistributedModel
from gptoss_backend.engine.placement.layout import SpreadMode, divide
from gptoss_backend.engine.sequence import GenerationRequest
from support.generating import deltas_of
from support.interpreted_rank import let_ranks_replay
from support.stepping import CPU, load_torch_model, prompt_of

# a vocabulary that does not divide evenly
SHAPE = Shape(
    hidden_size=64,
    num_layers=2,
    num_experts=2,
    num_heads=4,
    num_kv_heads=2,
    intermediate_size=64,
    head_dim=16,
    vocab_size=501,
    max_positions=512,
)
OPTIONS = EngineOptions(max_num_seqs=4, prefill_chunk_tokens=12, kv_cache_bytes=4 * 2**20, max_model_len=64)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("spread") / "checkpoint"
    write_random_checkpoint(folder, SHAPE, seed=2, name="test")
    config = folder / "config.json"
    # of sorted pairs each program takes the interpreter 20 ms
    config.write_text(json.dumps(json.loads(config.read_text()) | {"num_experts_per_tok": 1}))
    return folder


@pytest.fixture(autouse=True)
def ranks_replay(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parents[1]))
    monkeypatch.setattr(jobs, "_MODULE", "support.interpreted_rank")
    let_ranks_replay(monkeypatch.setattr)


def spread(folder: Path, mode: SpreadMode) -> DistributedModel:
    shards = divide(ModelConfig.from_folder(folder), mode, 2)
    model = DistributedModel(folder, shards, Cluster((CPU, CPU), 2), torch.float32, packed=True, cuda_graphs=True)
    own = model._stage.model
    assert isinstance(own, GraphedModel)
    own.run_layers = None  # type: ignore[assignment, method-assign]  # every step is replayed
    return model


def answers_of(model: Model, num_tokens: int) -> dict[str, list[int]]:
    """Return the tokens of three requests: in a graph of four rows, with logits; then of two, drawn on the device."""
    drawn = SamplingParams(temperature=1.0, seed=3, max_tokens=num_tokens, ignore_eos=True)
    looked_at = replace(drawn, top_k=3, logprobs=2, max_tokens=2)
    requests = [
        GenerationRequest(str(length), prompt_of(length, seed=length), sampling)
        for length, sampling in ((2, looked_at), (3, drawn), (4, drawn))
    ]
    deltas, _ = deltas_of(model, *requests, options=OPTIONS)
    return {name: [token for delta in said for token in delta.token_ids] for name, said in deltas.items()}


# parts of each layer launch a step ahead; two stages take turns with two batches
@pytest.mark.parametrize("mode", ["pipeline", "tensor"])
def test_tokens_when_ranks_replay_their_steps_then_they_are_those_of_one_device(mode: SpreadMode, folder: Path) -> None:
    expected = answers_of(load_torch_model(folder), 3)
    assert [len(tokens) for tokens in expected.values()] == [2, 3, 3]
    assert answers_of(spread(folder, mode), 3) == expected
