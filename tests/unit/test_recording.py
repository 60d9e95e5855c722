"""Which steps are recorded: that all batches find one."""

from __future__ import annotations

import pytest
import torch

from gptoss_backend.engine.batch import Batch, Chunk
from gptoss_backend.engine.kernels.recording import graph_sizes, pass_sizes
from gptoss_backend.engine.kernels.step_inputs import PassRows


def test_graph_sizes_when_all_are_recorded_then_every_batch_finds_one() -> None:
    assert graph_sizes(1) == [1]
    assert graph_sizes(5) == [1, 2, 3, 4, 5]
    assert graph_sizes(22) == [*range(1, 9), 10, 12, 14, 16, 20, 24]
    assert graph_sizes(256)[-2:] == [248, 256]
    assert len(graph_sizes(256)) == 43
    assert graph_sizes(300)[-1] == 320
    assert graph_sizes(1000)[-1] == 512


@pytest.mark.parametrize("lengths", [[512], [5] * 60, [8] * 60, [17] * 30, [18] * 28, [36] * 14, [500, 12], [1]])
def test_pass_when_many_prompts_end_in_a_step_then_it_is_recorded_all_the_same(lengths: list[int]) -> None:
    passes = [PassRows(size, 64, torch.device("cpu")) for size in pass_sizes(512 + 64)]
    assert any(rows.holds(batch_of_chunks(lengths)) for rows in passes)
    assert not any(rows.holds(batch_of_chunks([577])) for rows in passes)


def batch_of_chunks(lengths: list[int]) -> Batch:
    starts = [sum(lengths[:row]) for row in range(len(lengths))]
    chunks = [Chunk(start, length, row, 0) for row, (start, length) in enumerate(zip(starts, lengths, strict=True))]
    count = sum(lengths)
    return Batch([1] * count, [0] * count, [0] * count, [], 0, chunks)


def test_pass_sizes_when_all_are_recorded_then_every_step_finds_one() -> None:
    assert pass_sizes(0) == []
    assert pass_sizes(16) == [8, 16]
    assert pass_sizes(20) == [8, 16, 32]
    assert pass_sizes(512 + 64)[-3:] == [448, 528, 576]
    assert pass_sizes(1024 + 32)[-2:] == [1024, 1056]
    assert pass_sizes(5000)[-1] == 1024
