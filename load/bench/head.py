"""What a draft head costs: decoding with and without one that guesses nothing right.

Stage: 4 and 5 of a request's way, alone.
Owns: the two engines, and whose turn it is. Does not know: how a head guesses.

A random head's guesses never stand but by chance, so all that it does comes on top of the model's work: what is left of
the speed is the price at which a trained head begins to gain.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import median
from typing import Final

from gptoss_backend.demo.random_head import write_random_head
from gptoss_backend.engine.config import ModelConfig
from gptoss_backend.engine.options import EngineOptions
from gptoss_backend.engine.speculation import Speculation
from load.bench.engine_runner import EngineRunner

_NUM_PROMPT: Final = 128
_NUM_NEW: Final = 64
_SEED: Final = 20


@dataclass(frozen=True, slots=True)
class HeadCost:
    """Medians of some rounds, without the head and with it."""

    num_streams: int
    tokens_per_s: tuple[float, float]
    step_ms: tuple[float, float]
    """The engine's time in a step, prompts' steps among them"""
    num_accepted: int
    num_drafted: int


def random_head(target: Path) -> Path:
    """Return the folder of a random head for a checkpoint, made beside it where it is not there yet."""
    folder = target.with_name(f"{target.name}-head")
    if not folder.exists():
        write_random_head(folder, ModelConfig.from_folder(target), seed=_SEED)
    return folder


def measure_cost(
    folder: Path, speculation: Speculation, streams: list[int], rounds: int, num_threads: int | None
) -> Iterator[HeadCost]:
    """Decode the same prompts with lookups alone and with the head of `speculation` besides, turn about."""
    without = Speculation(speculation.num_tokens, speculation.max_seqs)
    runners = [EngineRunner.load(folder, _options(choice, num_threads)) for choice in (without, speculation)]
    vocab_size, rng = ModelConfig.from_folder(folder).vocab_size, Random("head")
    for num_streams in streams:
        rates: tuple[list[float], list[float]] = ([], [])
        steps: tuple[list[float], list[float]] = ([], [])
        drafted = accepted = 0
        for number in range(rounds + 1):  # the first is for warming up
            prompts = [[rng.randrange(vocab_size) for _ in range(_NUM_PROMPT)] for _ in range(num_streams)]
            for place, runner in enumerate(runners):
                before = runner.engine.stats()
                _, wall_s = runner.play(prompts, num_streams, _NUM_NEW)
                after = runner.engine.stats()
                if number:
                    rates[place].append(num_streams * _NUM_NEW / wall_s)
                    steps[place].append(1000 * (after.busy_s - before.busy_s) / (after.num_steps - before.num_steps))
            drafted += after.num_drafted_tokens - before.num_drafted_tokens if number else 0
            accepted += after.num_accepted_tokens - before.num_accepted_tokens if number else 0
        pairs = [(median(first), median(second)) for first, second in (rates, steps)]
        yield HeadCost(num_streams, pairs[0], pairs[1], accepted, drafted)
    for runner in runners:
        runner.engine.stop(0.0)


def _options(speculation: Speculation, num_threads: int | None) -> EngineOptions:
    return EngineOptions(
        max_num_seqs=8,
        kv_cache_bytes=2**28,
        max_model_len=1024,
        num_threads=num_threads,
        cpu_kernels="torch",
        speculation=speculation,
    )
