"""Trying tiles of the experts' kernels, in Triton's interpreter where there is no GPU."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from load.gpu_tiles import ExpertLayer, table_of, time_tiles
from torch import Tensor

from gptoss_backend.engine.kernels.gemv import TENSOR_CORES, GemvTiles
from gptoss_backend.engine.kernels.grouped_gemm import GemmTile
from support.shapes import tiny_config

DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")


@pytest.fixture(scope="module")
def layer() -> ExpertLayer:
    return ExpertLayer(tiny_config(sliding_window=32), DEVICE, torch.float32)


def test_work_when_done_either_way_then_the_outcome_is_the_same(layer: ExpertLayer) -> None:
    few, many = (layer.work(3, tile)() for tile in (TENSOR_CORES, GemmTile(16)))
    assert few.shape[0] == 3 * layer.top_k
    torch.testing.assert_close(few, many)


def test_tiles_when_timed_then_the_quickest_is_first_and_what_fails_is_counted(layer: ExpertLayer) -> None:
    calls = iter(range(1000, 0, -1))

    def timer(work: Callable[[], Tensor]) -> float:
        number = next(calls)
        if number % 7 == 0:
            raise RuntimeError("no room")
        return number * 1e-6

    timings = time_tiles(layer, 4, timer)
    times = [timing.seconds for timing in timings if timing.seconds is not None]
    assert times == sorted(times)
    assert len(times) < len(timings)
    assert {type(timing.tile) for timing in timings} == {GemvTiles, GemmTile}
    assert len({timing.tile for timing in timings}) == len(timings)
    rows = table_of(layer, 4, timings, best=2).rows
    assert [row[0] for row in rows if "did not run" in row[1]] == ["one by one", "sorted"]
    assert len([row for row in rows if row[0] == "one by one"]) in (3, 4)  # today's may be among the best


@pytest.mark.parametrize("num_tokens", [1, 4, 64])
def test_tiles_when_tried_then_today_s_are_among_them(layer: ExpertLayer, num_tokens: int) -> None:
    timings = time_tiles(layer, num_tokens, lambda work: 1.0)
    marked = [row for row in table_of(layer, num_tokens, timings, best=0).rows if row[3]]
    assert [row[0] for row in marked] == (["sorted"] if num_tokens > 32 else ["one by one", "sorted"])
