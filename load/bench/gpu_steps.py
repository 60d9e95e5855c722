"""Steps of a model driven by hand, timed, and held against what their bytes need.

Stage: none of a request's; stage 5 alone, without the engine's loop, Triton and HTTP.
Owns: what is timed and how, the limit of a step. Does not know: how a model computes, how figures are shown.

The limit of a step is the bytes it has to read over the rate of a large copy in the same run.
"""

from __future__ import annotations

import gc
import time
from collections.abc import Callable
from dataclasses import dataclass
from statistics import median

import torch
from torch.profiler import ProfilerActivity, profile

from gptoss_backend.contract import SamplingParams
from gptoss_backend.engine.batch import Batch, ScheduledSequence
from gptoss_backend.engine.cache_plan import CacheLimits
from gptoss_backend.engine.config import ModelConfig
from gptoss_backend.engine.errors import EngineError
from gptoss_backend.engine.kv_cache import KVCache
from gptoss_backend.engine.model import LaunchedStep
from gptoss_backend.engine.sequence import GenerationRequest, Sequence
from gptoss_backend.engine.torch_model import TorchModel
from load.bench.choosing import Choosing

_BLOCK_SIZE = 16
_CHUNK_TOKENS = 2048
_NUM_RUNS = 5
_NUM_STEPS = 8
"""Of a run."""
_NUM_NEW = (_NUM_RUNS + 1) * _NUM_STEPS
_SCALE_BYTES = 4
_MXFP4_BYTES = 17 / 32  # 32 four-bit values and their scale
_AS_MOST = Choosing()


@dataclass(frozen=True, slots=True)
class Traffic:
    """What a decode step has to read at least, in bytes."""

    weights: float
    cache: float

    @classmethod
    def of(
        cls,
        config: ModelConfig,
        batch: int,
        context: int,
        element_size: int,
        *,
        eight_bit: bool = False,
        kv_element_size: int | None = None,
    ) -> Traffic:
        """Count a step of `batch` rows, all at `context`; each row picks its experts at random.

        eight_bit: attention's matrices and the unembedding are int8, a scale beside each of their rows.
        element_size, kv_element_size: bytes of a weight, and of a value in the cache; None: as many.
        """

        def dense(num_rows: int, num_columns: int) -> int:
            return num_rows * (num_columns + _SCALE_BYTES if eight_bit else num_columns * element_size)

        num_queries = config.num_heads * config.head_dim
        num_qkv = num_queries + 2 * config.num_kv_heads * config.head_dim
        attention = dense(num_qkv, config.hidden_size) + dense(config.hidden_size, num_queries)
        router = config.num_experts * config.hidden_size * element_size
        unread = (1 - config.num_experts_per_token / config.num_experts) ** batch
        experts = config.num_experts * (1 - unread) * 3 * config.hidden_size * config.intermediate_size * _MXFP4_BYTES
        unembedding = dense(config.vocab_size, config.hidden_size)
        position = 2 * config.num_kv_heads * config.head_dim * (kv_element_size or element_size)
        seen = len(config.full_layers) * context + len(config.sliding_layers) * min(context, config.sliding_window)
        return cls(config.num_layers * (attention + router + experts) + unembedding, batch * position * seen)


@dataclass(frozen=True, slots=True)
class DecodeFigures:
    """A decode step of some rows, all at one context."""

    batch: int
    context: int
    step_s: float | None
    """None: it does not fit"""
    limit_s: float

    @property
    def tokens_per_s(self) -> float | None:
        """All rows together."""
        return None if self.step_s is None else self.batch / self.step_s

    @property
    def share(self) -> float | None:
        """Of the limit, 1 at best."""
        return None if self.step_s is None else self.limit_s / self.step_s


class Rows:
    """Sequences of one length, stepped through a model by hand."""

    def __init__(
        self, model: TorchModel, num_rows: int, context: int, num_new: int, choosing: Choosing = _AS_MOST
    ) -> None:
        """Raises EngineError where the cache has no room for them. choosing: for a model that draws by itself."""
        self._model = model
        self._choosing = choosing
        model.free_cache()  # earlier rows', which would count as taken
        free(model.device)
        limits = CacheLimits(_BLOCK_SIZE, num_rows, _CHUNK_TOKENS, max_model_len=context + num_new + 1)
        plan = model.plan_cache(limits)
        if plan.num_tokens < num_rows * (context + num_new):
            raise EngineError(f"the cache holds {plan.num_tokens:,} positions")
        model.allocate_cache(plan)
        self._cache = KVCache(plan, model.config.sliding_window)
        self._shape = (num_rows, context)
        self._num_new = num_new
        self._sequences: list[Sequence] = []
        self.begin(seed=0)

    def begin(self, seed: int) -> None:
        """Take other prompts in place of those before."""
        for sequence in self._sequences:
            self._cache.close(sequence.row)
        generator = torch.Generator().manual_seed(seed)
        prompts = torch.randint(0, self._model.config.vocab_size, self._shape, generator=generator).tolist()
        self._sequences = []
        for row, prompt in enumerate(prompts):
            sequence = Sequence(GenerationRequest(str(row), prompt, SamplingParams()), max_tokens=self._num_new)
            sequence.row, _ = self._cache.open(prompt)
            self._sequences.append(sequence)

    @property
    def tokens(self) -> list[list[int]]:
        """Of each row, prompt and all after it."""
        return [list(sequence.token_ids) for sequence in self._sequences]

    def prefill(self) -> None:
        """Compute all prompts, each followed by its first token."""
        for sequence in self._sequences:
            length = len(sequence.token_ids)
            for start in range(0, length, _CHUNK_TOKENS):
                count = min(_CHUNK_TOKENS, length - start)
                part = ScheduledSequence(sequence, count, samples=start + count == length)
                self._reserve([sequence], count)
                self._take(self._launch(Batch.build([], [part])), [sequence], count)

    def decode(self, num_steps: int) -> None:
        """Compute the next tokens of each row, each step launched before the last is read where the model can."""
        sequences = self._sequences
        self._reserve(sequences, 1)
        batch = Batch.build(sequences, [])
        launched = self._launch(batch)
        for _ in range(num_steps - 1):
            if self._model.runs_ahead:
                self._hold(launched)
                self._reserve(sequences, 2)
                batch = batch.following()
                following = self._launch(batch)
                self._take(launched, sequences, 1)
                launched = following
            else:
                self._take(launched, sequences, 1)
                self._reserve(sequences, 1)
                launched = self._launch(Batch.build(sequences, []))
        if self._model.runs_ahead:
            self._hold(launched)
        self._take(launched, sequences, 1)

    def _reserve(self, sequences: list[Sequence], num_tokens: int) -> None:
        for sequence in sequences:
            self._cache.reserve(sequence.row, sequence.num_computed + num_tokens)

    def _hold(self, launched: LaunchedStep) -> None:
        edited = self._choosing.edited(len(self._sequences), self._model.config.vocab_size)
        if edited is not None:
            launched.amend(edited, None)

    def _launch(self, batch: Batch) -> LaunchedStep:
        draws = None
        if self._model.can_draw:
            draws = self._choosing.draws(len(batch.samples))
        return self._model.launch(batch, self._cache, with_logits=False, draws=draws)

    def _take(self, launched: LaunchedStep, sequences: list[Sequence], num_tokens: int) -> None:
        tokens = launched.result().tokens
        for sequence in sequences:
            sequence.num_computed += num_tokens
            self._cache.commit(sequence.row, sequence.token_ids, sequence.num_computed)
        for sequence, token in zip(sequences, tokens, strict=False):  # a prompt's first chunks give none
            sequence.token_ids.append(token)


def copy_rate(device: torch.device) -> float:
    """Return how many bytes a second a large copy reads and writes."""
    source = torch.ones(2**30 if device.type == "cuda" else 2**26, dtype=torch.uint8, device=device)
    target = torch.empty_like(source)
    times = [_seconds(lambda: target.copy_(source), device) for _ in range(10)]
    return 2 * source.numel() / median(times[2:])


def time_decode(
    model: TorchModel, batch: int, context: int, rate: float, *, eight_bit: bool = False, choosing: Choosing = _AS_MOST
) -> DecodeFigures:
    """Return the median step of `batch` rows at `context`. rate: of a copy, in bytes/s. eight_bit: see `Traffic`."""
    sizes = (model.dtype.itemsize, model.cache_dtype.itemsize)
    traffic = Traffic.of(model.config, batch, context, sizes[0], eight_bit=eight_bit, kv_element_size=sizes[1])
    limit_s = (traffic.weights + traffic.cache) / rate
    try:
        rows = Rows(model, batch, context, _NUM_NEW, choosing)
    except EngineError:
        return DecodeFigures(batch, context, None, limit_s)
    rows.prefill()
    times = [_seconds(lambda: rows.decode(_NUM_STEPS), model.device) for _ in range(_NUM_RUNS)]
    return DecodeFigures(batch, context, median(times[1:]) / _NUM_STEPS, limit_s)


def time_prompt(model: TorchModel, length: int) -> float | None:
    """Return the median seconds from a prompt to its first token; None: it does not fit."""
    try:
        rows = Rows(model, 1, length, 1)
    except EngineError:
        return None
    times = []
    for seed in range(4):  # the first warms up
        rows.begin(seed)
        times.append(_seconds(rows.prefill, model.device))
    return median(times[1:])


def kernel_times(model: TorchModel, batch: int, context: int, choosing: Choosing = _AS_MOST) -> str:
    """Return where the time of a few decode steps goes, as a table."""
    rows = Rows(model, batch, context, 2 * _NUM_STEPS, choosing)
    rows.prefill()
    rows.decode(_NUM_STEPS)
    on_gpu = model.device.type == "cuda"
    with profile(activities=[ProfilerActivity.CUDA if on_gpu else ProfilerActivity.CPU]) as seen:
        rows.decode(_NUM_STEPS)
    table: str = seen.key_averages().table(sort_by=f"self_{'cuda' if on_gpu else 'cpu'}_time_total", row_limit=20)
    return f"{_NUM_STEPS} steps, {batch} rows at {context:,}\n{table}"


def free(device: torch.device) -> None:
    """Let go of what nobody uses."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.empty_cache()


def _seconds(work: Callable[[], object], device: torch.device) -> float:
    _wait(device)
    started_s = time.perf_counter()
    work()
    _wait(device)
    return time.perf_counter() - started_s


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
