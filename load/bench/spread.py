"""What spreading a model over cards gives, and what replaying its steps does to that.

Stage: 4 and 5 of a request's way, alone.
Owns: the engines, one after the other, and their rounds. Does not know: how ranks talk.

Two engines do not fit side by side, so the placements take no turns: figures compare as far as the machine is quiet.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import median
from typing import Final

import torch

from gptoss_backend.engine.config import ModelConfig
from gptoss_backend.engine.options import EngineOptions
from gptoss_backend.engine.placement.choice import SINGLE, PlacementMode
from gptoss_backend.engine.placement.options import PlacementOptions
from load.bench.engine_runner import EngineRunner

_NUM_PROMPT: Final = 256
_NUM_NEW: Final = 64


@dataclass(frozen=True, slots=True)
class SpreadRate:
    """Medians of some rounds at one number of streams."""

    placement: str
    kernels: str
    """What computed, as `ModelInfo` tells it"""
    num_streams: int
    tokens_per_s: float
    ttft_ms: float
    inter_token_ms: float


def measure_spread(
    folder: Path, modes: Sequence[PlacementMode], num_devices: int, streams: Sequence[int], rounds: int
) -> Iterator[SpreadRate]:
    """Decode random prompts by each placement; on GPUs replayed, then launched kernel by kernel, else in processes."""
    on_gpus = torch.cuda.is_available()
    for mode in modes:
        for cuda_graphs in (True, False) if on_gpus else (True,):
            options = EngineOptions(cuda_graphs=cuda_graphs, max_num_seqs=max(streams))
            placement = PlacementOptions(mode, 1 if mode == SINGLE else num_devices)
            device = torch.device("cuda:0" if on_gpus else "cpu")
            runner = EngineRunner.load(folder, options, device=device, placement=placement)
            try:
                yield from _rates(runner, ModelConfig.from_folder(folder).vocab_size, streams, rounds)
            finally:
                runner.engine.stop(0.0)


def _rates(runner: EngineRunner, vocab_size: int, streams: Sequence[int], rounds: int) -> Iterator[SpreadRate]:
    info, rng = runner.engine.info, Random("spread")
    assert info is not None  # noqa: S101 (it was loaded from a folder)
    for num_streams in streams:
        rates, firsts, others = [], [], []
        for number in range(rounds + 1):  # the first is for warming up
            prompts = [[rng.randrange(vocab_size) for _ in range(_NUM_PROMPT)] for _ in range(num_streams)]
            replies, wall_s = runner.play(prompts, num_streams, _NUM_NEW)
            if number:
                rates.append(num_streams * _NUM_NEW / wall_s)
                firsts.append(1000 * median(reply.first_token_s for reply in replies))
                others.append(1000 * median(reply.inter_token_s for reply in replies))
        placement = f"{info.placement} over {info.num_devices}"
        yield SpreadRate(placement, info.kernels, num_streams, median(rates), median(firsts), median(others))
