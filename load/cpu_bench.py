"""Each kind of forward pass this processor has, turn about in one process: full-size layers with random weights.

Stage: none of a request's; stage 5 alone, without the engine's loop, Triton and HTTP.
Owns: the command, the turns, its table. Does not know: how a model computes.

A few layers are enough: the time of a step is that of its layers, which are alike, and of the unembedding. What a whole
model would do is reckoned from both. The memory's rate is that of a sum over a large array, on as many threads.

    .venv/bin/python -m load.cpu_bench --threads 1 2
    .venv/bin/python -m load.cpu_bench --threads 2 --layers 2 --torch
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Final

import torch

from gptoss_backend.contract import SamplingParams
from gptoss_backend.demo.random_checkpoint import SHAPES, config_of
from gptoss_backend.engine.batch import Batch, ScheduledSequence
from gptoss_backend.engine.cache_plan import CacheLimits, plan_cache
from gptoss_backend.engine.checkpoint import Weights
from gptoss_backend.engine.config import ModelConfig
from gptoss_backend.engine.kv_cache import KVCache
from gptoss_backend.engine.model import LocalModel
from gptoss_backend.engine.mxfp4 import PackedMatrices
from gptoss_backend.engine.native.library import INSTRUCTION_SETS, missing_features
from gptoss_backend.engine.native.model import BLOCK_SIZE, NativeModel
from gptoss_backend.engine.sequence import GenerationRequest, Sequence
from gptoss_backend.engine.shard import Shard
from gptoss_backend.engine.torch_model import TorchModel
from load.bench.figures import markdown
from load.bench.random_weights import RandomWeights

_CPU: Final = torch.device("cpu")
_CONTEXT: Final = 64
_MXFP4_BYTES: Final = 17 / 32  # 32 four-bit values and their scale


def main() -> int:
    """Run the command."""
    options = _parser().parse_args()
    whole = config_of(SHAPES[options.shape])
    config = replace(whole, num_layers=options.layers, layer_types=whole.layer_types[: options.layers])
    weights = _on_disk_layout(RandomWeights(config, _CPU, torch.bfloat16).model())
    contestants = [
        Contestant(name, num_threads, whole.num_layers, Rows(model))
        for num_threads in options.threads
        for name, model in _models(config, weights, num_threads, with_torch=options.torch)
    ]
    for number in range(options.rounds + 1):  # the first is for warming up
        for contestant in contestants:
            contestant.play(options.streams, options.prompt, keep=number > 0)
    rates = {count: _read_rate(count) for count in options.threads}
    header = ("forward pass", "threads", *(f"tokens/s, {n} streams" for n in options.streams))
    header = (*header, f"prompt of {options.prompt}, tokens/s", "GB/s of weights, 1 stream", "of a sum")
    rows = [each.row(config, options.prompt, rates[each.num_threads]) for each in contestants]
    sys.stdout.write(markdown([header, *rows]) + "\n")
    return 0


def _models(
    config: ModelConfig, weights: Weights, num_threads: int, *, with_torch: bool
) -> Iterator[tuple[str, LocalModel]]:
    for each in INSTRUCTION_SETS:
        if not missing_features(each):
            yield each.name, NativeModel(config, [weights], num_threads, each)
    if with_torch:
        yield "torch, bfloat16", TorchModel(Shard.of_all(config), _with_matrices(weights, PackedMatrices.unpack))


def _on_disk_layout(weights: Weights) -> Weights:
    """Take the random half bytes for those of a file: one order of them is as random as another."""
    return _with_matrices(weights, lambda matrices: replace(matrices, is_repacked=False))


def _with_matrices(weights: Weights, change: Callable[[PackedMatrices], torch.Tensor | PackedMatrices]) -> Weights:
    layers = []
    for layer in weights.layers:
        gate_up, down = layer.experts.gate_up, layer.experts.down
        assert isinstance(gate_up, PackedMatrices)  # noqa: S101 (drawn so)
        assert isinstance(down, PackedMatrices)  # noqa: S101
        layers.append(replace(layer, experts=replace(layer.experts, gate_up=change(gate_up), down=change(down))))
    return replace(weights, layers=tuple(layers))


class Rows:
    """Random sequences that a model computes one step of."""

    def __init__(self, model: LocalModel) -> None:
        self._model = model
        limits = CacheLimits(BLOCK_SIZE, 16, 2048, max_model_len=1024)
        plan = plan_cache(model.config, limits, budget_bytes=2**27, element_size=model.cache_dtype.itemsize)
        model.allocate_cache(plan)
        self._cache = KVCache(plan, model.config.sliding_window)
        self._generator = torch.Generator().manual_seed(1)

    def time_decode(self, count: int, *, samples: bool) -> float:
        """Return the seconds of a step of `count` rows. samples: the unembedding is computed, too."""
        sequences = [self._open(_CONTEXT + 1) for _ in range(count)]
        self._forward(Batch.build([], [ScheduledSequence(each, _CONTEXT, samples=False) for each in sequences]))
        for sequence in sequences:
            sequence.num_computed = _CONTEXT
        seconds = self._forward(Batch.build([], [ScheduledSequence(each, 1, samples=samples) for each in sequences]))
        self._close(sequences)
        return seconds

    def time_prompt(self, length: int) -> float:
        """Return the seconds of one step with a prompt."""
        sequence = self._open(length)
        seconds = self._forward(Batch.build([], [ScheduledSequence(sequence, length, samples=False)]))
        self._close([sequence])
        return seconds

    def _open(self, length: int) -> Sequence:
        prompt = torch.randint(0, self._model.config.vocab_size, (length,), generator=self._generator).tolist()
        sequence = Sequence(GenerationRequest("row", prompt, SamplingParams()), max_tokens=1)
        sequence.row, _ = self._cache.open(prompt)
        self._cache.reserve(sequence.row, length)
        return sequence

    def _close(self, sequences: list[Sequence]) -> None:
        for sequence in sequences:
            self._cache.close(sequence.row)

    def _forward(self, batch: Batch) -> float:
        started_s = time.perf_counter()
        self._model.forward(batch, self._cache, with_logits=False)
        return time.perf_counter() - started_s


@dataclass(slots=True)
class Contestant:
    """A forward pass, and the seconds its steps took."""

    name: str
    num_threads: int
    num_layers: int
    """Of the whole model"""
    rows: Rows
    layers_s: dict[int, list[float]] = field(default_factory=dict)
    """By streams"""
    steps_s: dict[int, list[float]] = field(default_factory=dict)
    prompts_s: list[float] = field(default_factory=list)

    def play(self, streams: list[int], prompt: int, *, keep: bool) -> None:
        """Take a turn."""
        torch.set_num_threads(self.num_threads)
        for count in streams:
            layers_s = self.rows.time_decode(count, samples=False)
            step_s = self.rows.time_decode(count, samples=True)
            if keep:
                self.layers_s.setdefault(count, []).append(layers_s)
                self.steps_s.setdefault(count, []).append(step_s)
        prompt_s = self.rows.time_prompt(prompt)
        if keep:
            self.prompts_s.append(prompt_s)

    def row(self, config: ModelConfig, prompt: int, rate: float) -> tuple[str, ...]:
        """Return a line of the table. config: of what was computed; rate: of the memory, bytes/s."""
        speeds = [f"{count / self._whole_s(count, config.num_layers):.1f}" for count in self.steps_s]
        prompt_s = median(self.prompts_s) * self.num_layers / config.num_layers
        weights = _weight_bytes(config, in_mxfp4=self.name != "torch, bfloat16")
        one = next(iter(self.layers_s))
        figures = (f"{prompt / prompt_s:.0f}", f"{weights / median(self.layers_s[one]) / 1e9:.1f}", f"{rate / 1e9:.1f}")
        return (self.name, str(self.num_threads), *speeds, *figures)

    def _whole_s(self, count: int, num_layers: int) -> float:
        """Return the seconds of a step of the whole model."""
        layers_s, step_s = median(self.layers_s[count]), median(self.steps_s[count])
        return step_s + layers_s * (self.num_layers / num_layers - 1)


def _weight_bytes(config: ModelConfig, *, in_mxfp4: bool) -> float:
    """Return what the layers read of their weights for one token."""
    num_query = config.num_heads * config.head_dim
    width = 2 * num_query + 2 * config.num_kv_heads * config.head_dim
    experts = config.num_experts_per_token * 3 * config.hidden_size * config.intermediate_size
    return config.num_layers * (width * config.hidden_size * 2 + experts * (_MXFP4_BYTES if in_mxfp4 else 2))


def _read_rate(num_threads: int) -> float:
    """Return the bytes a second that a sum over a large array reads."""
    torch.set_num_threads(num_threads)
    values = torch.ones(2**28, dtype=torch.float32)
    times = []
    for _ in range(7):
        started_s = time.perf_counter()
        values.sum()
        times.append(time.perf_counter() - started_s)
    return values.nbytes / median(times)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--shape", choices=sorted(SHAPES), default="20b")
    parser.add_argument("--layers", type=int, default=2, help="computed; more of them fill the memory [default: 2]")
    parser.add_argument("--threads", type=int, nargs="+", default=[2])
    parser.add_argument("--streams", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--prompt", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--torch", action="store_true", help="plain torch, too: 3.7 times the memory for experts")
    return parser


if __name__ == "__main__":
    sys.exit(main())
