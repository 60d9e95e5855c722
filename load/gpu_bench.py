"""How near to the memory's limit a GPU decodes, and how soon a prompt is computed: random weights at full size.

Stage: none of a request's; stage 5 alone, without the engine's loop, Triton and HTTP.
Owns: the command, what is timed, the limit it is held against. Does not know: how a model computes.

    .venv/bin/python -m load.gpu_bench
    .venv/bin/python -m load.gpu_bench --no-graphs
    .venv/bin/python -m load.gpu_bench --device cpu --shapes tiny --batches 1 4 --contexts 64 --prompts 64

The limit of a step is the bytes it has to read over the rate of a large copy in the same run.
"""

from __future__ import annotations

import argparse
import gc
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch
from rich.console import Console
from torch.profiler import ProfilerActivity, profile

from gptoss_backend.contract import SamplingParams
from gptoss_backend.demo.random_checkpoint import SHAPES, config_of
from gptoss_backend.engine.batch import Batch, ScheduledSequence
from gptoss_backend.engine.cache_sizing import CacheLimits
from gptoss_backend.engine.config import ModelConfig
from gptoss_backend.engine.errors import EngineError
from gptoss_backend.engine.kv_cache import KVCache
from gptoss_backend.engine.loading import make_model
from gptoss_backend.engine.memory import processor_name
from gptoss_backend.engine.precision import choose_precision
from gptoss_backend.engine.sequence import GenerationRequest, Sequence
from gptoss_backend.engine.shard import Shard
from gptoss_backend.engine.torch_model import TorchModel
from load.bench.random_weights import RandomWeights

_BLOCK_SIZE = 16
_CHUNK_TOKENS = 2048
_NUM_STEPS = 24
_NUM_WARM_STEPS = 4
_MXFP4_BYTES = 17 / 32  # 32 four-bit values and their scale
_console = Console(markup=False, highlight=False, soft_wrap=True)


@dataclass(frozen=True, slots=True)
class Traffic:
    """What a decode step has to read at least, in bytes."""

    weights: float
    cache: float

    @classmethod
    def of(cls, config: ModelConfig, batch: int, context: int, element_size: int) -> Traffic:
        """Count a step of `batch` rows, all at `context`; each row picks its experts at random."""
        heads = config.num_heads + 2 * config.num_kv_heads
        attention = (heads + config.num_heads) * config.head_dim * config.hidden_size * element_size
        router = config.num_experts * config.hidden_size * element_size
        unread = (1 - config.num_experts_per_token / config.num_experts) ** batch
        experts = config.num_experts * (1 - unread) * 3 * config.hidden_size * config.intermediate_size * _MXFP4_BYTES
        unembedding = config.vocab_size * config.hidden_size * element_size
        position = 2 * config.num_kv_heads * config.head_dim * element_size
        seen = len(config.full_layers) * context + len(config.sliding_layers) * min(context, config.sliding_window)
        return cls(config.num_layers * (attention + router + experts) + unembedding, batch * position * seen)


class Rows:
    """Sequences of one length, stepped through a model by hand."""

    def __init__(self, model: TorchModel, num_rows: int, context: int, num_new: int) -> None:
        """Raises EngineError where the cache has no room for them."""
        self._model = model
        limits = CacheLimits(_BLOCK_SIZE, num_rows, _CHUNK_TOKENS, context + num_new + 1, None)
        plan = model.plan_cache(limits)
        if plan.num_tokens < num_rows * (context + num_new):
            raise EngineError(f"the cache holds {plan.num_tokens:,} positions")
        model.allocate_cache(plan)
        self._cache = KVCache(plan, model.config.sliding_window)
        generator = torch.Generator().manual_seed(context)
        self._sequences = []
        for row in range(num_rows):
            prompt = torch.randint(0, model.config.vocab_size, (context,), generator=generator).tolist()
            sequence = Sequence(GenerationRequest(str(row), prompt, SamplingParams()), max_tokens=num_new)
            sequence.row, _ = self._cache.open(prompt)
            self._sequences.append(sequence)

    def prefill(self) -> None:
        """Compute all prompts, each followed by its first token."""
        for sequence in self._sequences:
            length = len(sequence.token_ids)
            for start in range(0, length, _CHUNK_TOKENS):
                count = min(_CHUNK_TOKENS, length - start)
                part = ScheduledSequence(sequence, count, samples=start + count == length)
                self._run(Batch.build([], [part]), [sequence], count)

    def decode(self) -> None:
        """Compute one token of each row."""
        self._run(Batch.build(self._sequences, []), self._sequences, 1)

    def _run(self, batch: Batch, sequences: list[Sequence], num_tokens: int) -> None:
        for sequence in sequences:
            self._cache.reserve(sequence.row, sequence.num_computed + num_tokens)
        best = self._model.launch(batch, self._cache, with_logits=False).result().best
        for sequence in sequences:
            sequence.num_computed += num_tokens
            self._cache.commit(sequence.row, sequence.token_ids, sequence.num_computed)
        for sequence, token in zip(sequences, best, strict=False):  # a prompt's first chunks give none
            sequence.token_ids.append(token)


def main() -> int:
    """Run the bench; returns the exit status."""
    options = _parser().parse_args()
    device = torch.device(options.device)
    precision = choose_precision("auto", device)
    rate = copy_rate(device)
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else processor_name()
    dtype = str(precision.dtype).removeprefix("torch.")
    _console.print(f"{name}; torch {torch.__version__}; {dtype}; a copy moves {rate / 1e9:,.0f} GB/s")
    for shape in options.shapes:
        config = config_of(SHAPES[shape])
        weights = RandomWeights(config, device, precision.dtype).model()
        model = make_model(Shard.of_all(config), weights, cuda_graphs=options.graphs)
        _console.print(f"\n{shape}, {type(model).__name__}\n")
        _console.print("| batch | context | step | tokens/s | of the limit |\n|---|---|---|---|---|")
        for context in options.contexts:
            for batch in options.batches:
                _console.print(decode_row(model, batch, context, rate))
        _console.print("\n| prompt | first token |\n|---|---|")
        for length in options.prompts:
            _console.print(prompt_row(model, length))
        if options.profile:
            _console.print(kernel_times(model, options.batches[0], options.contexts[0]))
        del model, weights
        _free(device)
    return 0


def copy_rate(device: torch.device) -> float:
    """Return how many bytes a second a large copy reads and writes."""
    source = torch.ones(2**30 if device.type == "cuda" else 2**26, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    times = [_seconds(lambda: target.copy_(source), device) for _ in range(10)]
    return 2 * source.numel() / median(times[2:])


def decode_row(model: TorchModel, batch: int, context: int, rate: float) -> str:
    """Return a line of the table: the median step of `batch` rows at `context`, against what its bytes need."""
    _free(model.device)
    try:
        rows = Rows(model, batch, context, _NUM_STEPS)
    except EngineError as error:
        return f"| {batch} | {context:,} | does not fit: {error} | | |"
    rows.prefill()
    times = [_seconds(rows.decode, model.device) for _ in range(_NUM_STEPS - 1)]
    step_s = median(times[_NUM_WARM_STEPS:])
    traffic = Traffic.of(model.config, batch, context, model.dtype.itemsize)
    share = (traffic.weights + traffic.cache) / rate / step_s
    return f"| {batch} | {context:,} | {step_s * 1e3:.2f} ms | {batch / step_s:,.0f} | {share:.0%} |"


def prompt_row(model: TorchModel, length: int) -> str:
    """Return a line of the table: the median time from a prompt to its first token."""
    times = []
    for _ in range(4):  # the first warms up
        _free(model.device)
        try:
            rows = Rows(model, 1, length, 1)
        except EngineError as error:
            return f"| {length:,} | does not fit: {error} |"
        times.append(_seconds(rows.prefill, model.device))
    return f"| {length:,} | {median(times[1:]) * 1e3:.1f} ms |"


def kernel_times(model: TorchModel, batch: int, context: int) -> str:
    """Return where the time of one decode step goes."""
    rows = Rows(model, batch, context, _NUM_STEPS)
    rows.prefill()
    for _ in range(_NUM_WARM_STEPS):
        rows.decode()
    on_gpu = model.device.type == "cuda"
    with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as seen:
        rows.decode()
    table: str = seen.key_averages().table(sort_by=f"self_{'cuda' if on_gpu else 'cpu'}_time_total", row_limit=20)
    return f"\none step, {batch} rows at {context:,}\n{table}"


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    _wait(device)
    started_s = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - started_s


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def _free(device: torch.device) -> None:
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="where to compute: cuda or cpu")
    parser.add_argument("--shapes", nargs="+", default=["20b", "120b"], choices=sorted(SHAPES))
    parser.add_argument("--batches", nargs="+", type=int, default=[1, 8, 32, 128, 256])
    parser.add_argument("--contexts", nargs="+", type=int, default=[1024, 8192])
    parser.add_argument("--prompts", nargs="+", type=int, default=[256, 2048, 16384], help="lengths to time")
    parser.add_argument("--no-graphs", dest="graphs", action="store_false", help="launch each kernel from the host")
    parser.add_argument("--profile", action="store_true", help="print where the time of one step goes")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
