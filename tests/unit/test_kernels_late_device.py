"""The GPU that is not there: that it tells of what it is for, and that a model starts and answers on it."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
import triton
import triton.language as tl

from gptoss_backend.demo.random_checkpoint import Shape, write_random_checkpoint
from gptoss_backend.engine.kernels import graphed_model, recording
from gptoss_backend.engine.kernels.graphed_model import GraphedModel
from gptoss_backend.engine.kernels.recording import CudaRecorder
from gptoss_backend.engine.loading import load_model
from gptoss_backend.engine.options import EngineOptions
from gptoss_backend.engine.transfer import fetched, sent, to_device
from support.generating import generate
from support.late_device import has_late_device, late_device
from support.late_tensors import DEVICE, Line, OnDevice
from support.stepping import prompt_of

pytestmark = [
    pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU"),
    pytest.mark.skipif(not has_late_device(), reason="needs g++"),
]


@pytest.fixture
def line() -> Iterator[Line]:
    with late_device() as line:
        yield line


def test_tensor_when_nobody_has_waited_then_nothing_is_computed(line: Line) -> None:
    there = to_device([1, 2], torch.int64, DEVICE)
    doubled = fetched(there * 2)
    assert doubled.tolist() == [113, 113]
    assert not line.waits
    assert there.tolist() == [1, 2]
    assert doubled.tolist() == [2, 4]
    assert line.waits == ["a test"]


def test_copy_when_the_host_overwrites_what_is_on_its_way_then_it_is_lost(line: Line) -> None:
    here = torch.tensor([1], pin_memory=True)
    there = here.to(DEVICE, non_blocking=True)
    here.fill_(2)
    assert there.tolist() == [2]


def test_copy_when_memory_is_not_pinned_or_another_dtype_then_it_waits(line: Line) -> None:
    there = torch.empty(1, dtype=torch.int64, device=DEVICE)
    line.may_wait = False
    for here in (torch.tensor([1]), torch.tensor([1], dtype=torch.int32, pin_memory=True)):
        with pytest.raises(RuntimeError, match="waits for the device"):
            there.copy_(here, non_blocking=True)


def test_operation_when_a_tensor_is_the_host_s_then_it_is_refused(line: Line) -> None:
    with pytest.raises(RuntimeError, match="same device"):
        torch.zeros(3, device=DEVICE) + torch.zeros(3)
    with pytest.raises(ValueError, match="cannot read"):
        _add_one[(1,)](torch.zeros(1))


def test_memory_when_it_is_only_taken_then_it_says_nothing(line: Line) -> None:
    assert torch.empty(2, device=DEVICE).isnan().all()
    assert torch.empty(2, dtype=torch.int64, device=DEVICE).tolist() == [113, 113]


def test_graph_when_it_is_replayed_then_kernels_and_operations_run_again_with_what_was_known(line: Line) -> None:
    number = 10
    numbers, added = torch.zeros(1, device=DEVICE), torch.zeros(1, device=DEVICE)

    def work() -> None:
        _add_one[(1,)](numbers)
        torch.add(numbers, number, out=added)

    replay = CudaRecorder(torch.cuda.Stream(DEVICE))(work)
    assert numbers.tolist() == [0.0]  # what compiles is passed over
    number = 20
    replay()
    replay()
    assert (numbers.tolist(), added.tolist()) == ([2.0], [12.0])


def test_graph_when_it_would_wait_or_read_the_host_then_it_is_refused(line: Line) -> None:
    numbers = torch.zeros(1, device=DEVICE)
    record = CudaRecorder(torch.cuda.Stream(DEVICE))
    with pytest.raises(RuntimeError, match="capturing"):
        record(numbers.item)
    with pytest.raises(RuntimeError, match="is recorded"):
        record(lambda: sent(torch.ones(1), DEVICE))


def test_event_when_it_is_awaited_then_what_was_given_later_waits_on(line: Line) -> None:
    numbers = torch.zeros(1, device=DEVICE)
    told = fetched(numbers.add_(1))
    event = torch.cuda.Event()
    event.record(torch.cuda.current_stream(DEVICE))
    later = fetched(numbers.add_(1))
    line.may_wait = False
    assert not event.query()
    assert event.query()
    line.may_wait = True
    assert told.item() == 1
    assert later.isnan()


def test_load_model_when_there_is_a_gpu_then_it_answers_in_bfloat16_and_waits_for_tokens_only(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, line: Line
) -> None:
    monkeypatch.setattr(recording, "_STEPS", (1, 2))
    monkeypatch.setattr(recording, "_PASSES", (16,))
    monkeypatch.setattr(graphed_model, "_SAMPLES_COMPILED", (2, 2))
    shape = Shape(64, 2, 4, 2, 1, intermediate_size=32, head_dim=16, vocab_size=500, max_positions=512)
    write_random_checkpoint(tmp_path / "checkpoint", shape, seed=2, name="test")
    options = EngineOptions(max_num_seqs=2, prefill_chunk_tokens=12, kv_cache_bytes=4 * 2**20, max_model_len=128)
    caplog.set_level(logging.INFO)
    model = load_model(tmp_path / "checkpoint", options, device=DEVICE)
    assert isinstance(model, GraphedModel)
    assert isinstance(model._weights.norm, OnDevice)
    assert model.info.dtype == "bfloat16"
    assert "steps in CUDA graphs" in model.info.kernels
    line.waits.clear()
    tokens, _ = generate(model, [prompt_of(5, seed=1), prompt_of(20, seed=2)], 4, options)
    assert [len(each) for each in tokens] == [4, 4]
    assert set(line.waits) == {"engine/torch_model.py:wait"}
    assert "recorded 2 of 2 graphs of decodes" in caplog.text
    kernels = [name for name, _ in model._steps[0].replay.__self__.works if name.startswith("_")]
    around, layer = 6, 8  # set-up, norm, unembedding and three to choose; and each full layer joins parts of its keys
    assert (kernels[0], kernels[-1]) == ("_set_up", "_choose")
    assert len(kernels) == around + layer * shape.num_layers + kernels.count("_join_splits")


@triton.jit
def _add_one(numbers: tl.tensor) -> None:
    tl.store(numbers, tl.load(numbers) + 1)
