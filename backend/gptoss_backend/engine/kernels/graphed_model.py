"""A model on one GPU that replays its steps as CUDA graphs: one launch in place of hundreds.

Stage 5 of a request: step. Owns: which steps are recorded, their memory, their replaying.
Does not know: what a step computes, which is `TorchModel`'s; sequences.

A graph is a step of a fixed number of rows, in memory that stays where it is; a batch takes the smallest that holds it.
Decodes alone are recorded up to their tokens. Of a step with chunks of prompts or drafts the layers are, for numbers of
tokens that lie further apart; what follows its samples is then computed. What no graph holds is computed as
`TorchModel` does.
"""

from __future__ import annotations

import logging
from bisect import bisect_left, bisect_right
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from gptoss_backend.engine.batch import Batch
from gptoss_backend.engine.cache_plan import CachePlan
from gptoss_backend.engine.checkpoint import LayerWeights, Weights
from gptoss_backend.engine.errors import EngineError
from gptoss_backend.engine.experts import Addition
from gptoss_backend.engine.kernels.dependent_launch import launch_dependently
from gptoss_backend.engine.kernels.experts import norm_and_mix
from gptoss_backend.engine.kernels.norm import Norm
from gptoss_backend.engine.kernels.operators import KernelOperators
from gptoss_backend.engine.kernels.sampling import choose_tokens
from gptoss_backend.engine.kernels.skinny import MOST_ROWS
from gptoss_backend.engine.kernels.step_inputs import CHUNK_TILE, DecodeRows, DeviceTables, PassRows
from gptoss_backend.engine.kv_cache import KVCache
from gptoss_backend.engine.model import Draws, LaunchedStep, StepOutput
from gptoss_backend.engine.shard import Shard
from gptoss_backend.engine.torch_model import TorchModel
from gptoss_backend.engine.transfer import to_device

logger = logging.getLogger(__name__)

_LARGEST = 256
# experts of few rows are computed for each row by itself (the 120B: up to 24), those that stand in included
_STEPS = (*range(1, 9), *range(10, 17, 2), 20, *range(24, _LARGEST + 1, 8))
# one of each number of rows for which there is another kernel
_SAMPLES_COMPILED = (1, MOST_ROWS // 2, MOST_ROWS - 1, MOST_ROWS, MOST_ROWS + 1)
_PASSES = (8, 16, 32, 64, 128, 192, 256, 384, 512, 768, 1024)
# beyond, the device has work for longer than the host takes to launch it
_LARGEST_PASS = _PASSES[-1] + _LARGEST

Work = Callable[[], None]
Recorder = Callable[[Work], Work]
"""Returns what does the same work again, on the same memory."""


def graph_sizes(max_rows: int) -> list[int]:
    """Return the numbers of rows to record steps for, so that all batches up to `max_rows`, or 256, find one."""
    return list(_STEPS[: bisect_left(_STEPS, min(max_rows, _LARGEST)) + 1])


def pass_sizes(max_tokens: int) -> list[int]:
    """Return the numbers of tokens to record passes for, so that all steps up to `max_tokens` find one.

    The last is for a full chunk beside all that decode, which is most steps under load. Where steps may be larger than
    the largest pass, those up to 1,024 find one.
    """
    if max_tokens > _LARGEST_PASS:
        return list(_PASSES)
    sizes = list(_PASSES[: bisect_right(_PASSES, max_tokens)])
    return [*sizes, -(-max_tokens // CHUNK_TILE) * CHUNK_TILE] if max_tokens > (sizes or [0])[-1] else sizes


class CudaRecorder:
    """Records work as CUDA graphs that share one pool of memory: they must not run at the same time."""

    def __init__(self, stream: torch.cuda.Stream) -> None:
        """stream: to record on, not the device's own."""
        self._stream = stream
        self._pool = torch.cuda.graph_pool_handle()

    def __call__(self, work: Work) -> Work:
        """Run the work twice, which compiles its kernels, and record it."""
        with torch.cuda.device(self._stream.device):
            self._stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(self._stream):
                work()
                work()
            torch.cuda.current_stream().wait_stream(self._stream)
            graph = torch.cuda.CUDAGraph()
            # other threads of this process may use the device meanwhile
            with torch.cuda.graph(graph, pool=self._pool, stream=self._stream, capture_error_mode="thread_local"):
                work()
        return graph.replay


class GraphedModel(TorchModel):
    """A whole GPT-OSS with packed experts, by the kernels in here."""

    can_draw = True
    max_rows_ahead = _LARGEST

    def __init__(
        self,
        shard: Shard,
        weights: Weights,
        recorder: Recorder | None = None,
        operators: KernelOperators | None = None,
        *,
        cache_dtype: torch.dtype | None = None,
        dependent_launch: bool = False,
    ) -> None:
        """recorder: None: CUDA graphs. operators: None: what is best on the weights' device.

        cache_dtype: as in `TorchModel`. dependent_launch: in decode steps a kernel begins while the one before it ends,
        for GPUs that can (`has_dependent_launch`).
        """
        self._kernels = operators or KernelOperators(weights.layers[0].qkv_bias.device)
        super().__init__(shard, weights, operators=self._kernels, cache_dtype=cache_dtype)
        self._recorder = recorder
        self._dependent_launch = dependent_launch
        self._steps: list[_RecordedStep] = []
        self._passes: list[_RecordedPass] = []

    def allocate_cache(self, plan: CachePlan) -> None:
        """Take the memory for keys and values, and record steps on it. Raises EngineError."""
        super().allocate_cache(plan)
        self._tables = DeviceTables(plan, self.config.sliding_window, self.device)
        try:
            self._record_all(plan, self._recorder or CudaRecorder(self._side_stream))
            if self._recorder is None:
                self.compile_rest()
        except RuntimeError as error:
            # torch's own exception is one of these; what the driver says when a graph is made is another
            if "out of memory" not in str(error):
                raise
            raise EngineError(
                "the GPU has no memory left for CUDA graphs: lower engine.kv_cache_bytes, engine.max_num_seqs or "
                "engine.prefill_chunk_tokens, or set engine.cuda_graphs to false"
            ) from error

    def free_cache(self) -> None:
        """Let go of the memory for keys and values, and of the steps that are recorded on it."""
        self._steps.clear()
        self._passes.clear()
        super().free_cache()

    @cached_property
    def _side_stream(self) -> torch.cuda.Stream:
        """What all is recorded on: each stream that has multiplied keeps 32 MiB of cuBLAS's for as long as we live."""
        return torch.cuda.Stream(self.device)  # type: ignore[no-untyped-call]

    def launch(self, batch: Batch, cache: KVCache, *, with_logits: bool, draws: Draws | None = None) -> LaunchedStep:
        """Replay what is recorded of such a step, and compute the rest."""
        place = bisect_left(self._steps, batch.num_decodes, key=lambda step: step.rows.size)
        if batch.chunks or place == len(self._steps):
            return self._pass(batch, cache, with_logits=with_logits, draws=draws)
        step = self._steps[place]
        with torch.inference_mode():
            self._tables.follow(cache)
            step.rows.fill(batch, draws, step.chosen)
            step.replay()
            return step.read(batch.num_decodes, with_logits=with_logits)

    def _experts(self, hidden: Tensor, addition: Tensor, layer: LayerWeights) -> tuple[Tensor, Addition]:
        norm = Norm(layer.expert_norm, self.config.rms_norm_eps, self.dtype)
        return norm_and_mix(hidden, addition, norm, layer.experts, self._expert_shape)

    def _pass(self, batch: Batch, cache: KVCache, *, with_logits: bool, draws: Draws | None) -> StepOutput:
        recorded = next((recorded for recorded in self._passes if recorded.rows.holds(batch)), None)
        if recorded is None:
            hidden = self.run_layers(self.embed(batch), batch, cache)
        else:
            with torch.inference_mode():
                self._tables.follow(cache)
                recorded.rows.fill(batch)
                recorded.replay()
            hidden = recorded.hidden
        if draws is None:
            return self.unembed(hidden, batch, with_logits=with_logits)
        with torch.inference_mode():
            return _drawn(self._sample_logits(hidden, batch), draws)

    @torch.inference_mode()
    def _record_all(self, plan: CachePlan, recorder: Recorder) -> None:
        # a draft head notes a pass's tokens as the host lays them out
        passes = pass_sizes(plan.max_step_tokens) if self._head is None else []
        steps = graph_sizes(plan.num_rows)
        # one memory for the results of all graphs, since only one of them is looked at
        hidden = self.empty_hidden(max(passes, default=0))
        logits = torch.empty(steps[-1], self.config.vocab_size, dtype=self.dtype, device=self.device)
        # the largest first: the pool's memory then suffices for the others
        for index, size in enumerate(reversed(passes), start=1):
            self._passes.insert(0, self._record_pass(PassRows(size, steps[-1], self.device), hidden[:size], recorder))
            logger.info("recorded %d of %d graphs of passes: %d tokens", index, len(passes), size)
        for index, size in enumerate(reversed(steps), start=1):
            self._steps.insert(0, self._record(size, logits, recorder))
            logger.info("recorded %d of %d graphs of decodes: %d rows", index, len(steps), size)

    @torch.inference_mode()
    def compile_rest(self) -> None:
        """Compute once what follows a pass and is not recorded, so that no prompt has to wait for a compiler."""
        logits = [self._logits(self.empty_hidden(num_samples).zero_()) for num_samples in _SAMPLES_COMPILED]
        for count in (1, 2):  # for an even number Triton compiles another kernel: the uniform numbers lie otherwise
            _drawn(logits[1][:count], Draws([1.0] * count, [0.5] * count))

    def _record_pass(self, rows: PassRows, hidden: Tensor, recorder: Recorder) -> _RecordedPass:
        longest = self._tables.plan.max_model_len

        def compute() -> None:
            attention = self._kernels.recorded_attention(rows, self._tables, self._rope, longest)
            hidden.copy_(self._add(*self._through_layers(self._embed(rows.token_ids), attention)))

        return _RecordedPass(rows, hidden, recorder(compute))

    def _record(self, size: int, all_logits: Tensor, recorder: Recorder) -> _RecordedStep:
        rows, logits = DecodeRows(size, self.device), all_logits[:size]
        chosen = torch.zeros(size, dtype=torch.int64, device=self.device)
        longest = self._tables.plan.max_model_len

        def compute() -> None:
            attention = self._kernels.recorded_attention(rows, self._tables, self._rope, longest)
            places = None if self._head is None else rows.places(self._tables)
            self._logits(*self._through_layers(self._embed(rows.token_ids), attention, places), out=logits)
            choose_tokens(logits, rows.draws, chosen)

        with launch_dependently(self._dependent_launch):
            return _RecordedStep(rows, logits, chosen, recorder(compute))


def _drawn(logits: Tensor, draws: Draws) -> StepOutput:
    tokens = torch.empty(len(logits), dtype=torch.int64, device=logits.device)
    numbers = to_device([draws.temperatures, draws.uniforms], torch.float64, logits.device)
    with torch.cuda.device_of(logits):  # type: ignore[no-untyped-call]
        choose_tokens(logits, numbers, tokens)
    return StepOutput(tokens.tolist(), None)


@dataclass(frozen=True, slots=True)
class _RecordedPass:
    rows: PassRows
    hidden: Tensor
    """[size, hidden]: the residual stream after the last layer"""
    replay: Work


@dataclass(frozen=True, slots=True)
class _RecordedStep:
    rows: DecodeRows
    logits: Tensor
    """[size, vocab] in the compute dtype"""
    chosen: Tensor
    """[size] int64: the rows' next tokens"""
    replay: Work

    def read(self, count: int, *, with_logits: bool) -> _Replayed:
        """Send what the replay will leave of the first rows to the host, as soon as it is there."""
        logits = self.logits[:count] if with_logits else None
        if self.chosen.device.type != "cuda":
            return _Replayed(self.chosen[:count].clone(), logits, None)
        tokens = torch.empty(count, dtype=torch.int64, pin_memory=True)
        tokens.copy_(self.chosen[:count], non_blocking=True)
        done = torch.cuda.Event()  # type: ignore[no-untyped-call]
        done.record(torch.cuda.current_stream(self.chosen.device))
        return _Replayed(tokens, logits, done)


@dataclass(frozen=True, slots=True)
class _Replayed:
    """A step under way. Its logits stay until the next one is launched."""

    tokens: Tensor
    """On the host, once `done`"""
    logits: Tensor | None
    done: torch.cuda.Event | None
    """None: it is done"""

    def result(self) -> StepOutput:
        """Wait for this step, not for what was launched after it."""
        if self.done is not None:
            self.done.synchronize()
        return StepOutput(self.tokens.tolist(), None if self.logits is None else self.logits.float())
