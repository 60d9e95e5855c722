"""The host's work in a decode step: all that is not the model, measured with a model that does nothing.

Stage: 4 and 5 of a request's way, without arithmetic.
Owns: the model that does nothing, and the clock between two of its calls.
Does not know: what the engine does between them.
"""

from __future__ import annotations

import threading
from dataclasses import dataclass, replace
from itertools import count
from statistics import median
from time import perf_counter, thread_time

import torch

from gptoss_backend.contract import SamplingParams
from gptoss_backend.engine.batch import Batch
from gptoss_backend.engine.block_tables import BlockTables
from gptoss_backend.engine.cache_plan import CachePlan
from gptoss_backend.engine.config import ModelConfig
from gptoss_backend.engine.engine import Engine
from gptoss_backend.engine.model import LocalModel, StepOutput
from gptoss_backend.engine.options import EngineOptions
from gptoss_backend.engine.sequence import GenerationRequest, TokenDelta

_PREFILL_CHUNK = 16_384
_BLOCK_SIZE = 16


class IdleModel(LocalModel):
    """Names a token for every sample, at once, and notes how long the engine took from one decode step to the next."""

    def __init__(self, config: ModelConfig, num_sequences: int) -> None:
        self.config = config
        self.device = torch.device("cpu")
        self.dtype = torch.bfloat16
        self.gaps_s: list[tuple[float, float]] = []
        """Between two steps in which all sequences decode, from the model's answer to its next call: (wall, CPU)."""
        self.may_answer = threading.Event()
        """Set once all requests are there: a model as quick as this one would be through with the first before."""
        self._num_sequences = num_sequences
        self._answered_s: tuple[float, float] | None = None

    def allocate_cache(self, plan: CachePlan) -> None:
        """Nothing is kept."""

    def forward(self, batch: Batch, tables: BlockTables, *, with_logits: bool) -> StepOutput:
        """Name a token for each sample."""
        self.may_answer.wait()
        if self._answered_s is not None:
            wall_s, cpu_s = self._answered_s
            self.gaps_s.append((perf_counter() - wall_s, thread_time() - cpu_s))
        num_samples = len(batch.samples)
        output = StepOutput([7] * num_samples, None)
        is_whole = num_samples == self._num_sequences == len(batch.token_ids)
        self._answered_s = (perf_counter(), thread_time()) if is_whole else None
        return output


@dataclass(frozen=True, slots=True)
class HostWork:
    """Medians over the decode steps, in milliseconds."""

    wall_ms: float
    cpu_ms: float
    """CPU time of the engine's thread: what the wall clock would say on a machine with nothing else to do."""


def measure_host_work(config: ModelConfig, *, num_sequences: int, context: int, num_steps: int) -> HostWork:
    """Return the host work of a decode step: schedule, batch, pick (greedy), deliver.

    context: tokens of each sequence when the measured steps begin. Blocks until they are done.
    """
    config = replace(config, max_positions=max(config.max_positions, context + 2 * num_steps))
    model = IdleModel(config, num_sequences)
    left = num_sequences
    all_ended = threading.Event()
    failures: list[str] = []

    def sink(deltas: list[TokenDelta]) -> None:
        nonlocal left
        for delta in deltas:
            failures.extend([delta.error] if delta.error else [])
            left -= delta.is_last
        if not left:
            all_ended.set()

    options = EngineOptions(
        max_num_seqs=num_sequences,
        prefill_chunk_tokens=_PREFILL_CHUNK,
        block_size=_BLOCK_SIZE,
        max_model_len=context + 2 * num_steps,
        kv_cache_bytes=2**46,  # nothing is allocated: as many blocks as the sequences can hold
    )
    engine = Engine(model, options, sink)
    # all decode together from the last prefill on: the earliest admitted must not be through by then
    num_prefill_steps = -(-num_sequences * context // _PREFILL_CHUNK)
    sampling = SamplingParams(max_tokens=num_steps + num_prefill_steps, temperature=0.0, ignore_eos=True)
    prompts = (torch.randint(0, config.vocab_size, (context,)).tolist() for _ in count())
    engine.start()
    for number, prompt in zip(range(num_sequences), prompts, strict=False):
        engine.submit(GenerationRequest(f"host-{number}", prompt, sampling))
    model.may_answer.set()
    all_ended.wait()
    engine.stop(0.0)
    if failures:
        raise RuntimeError(failures[0])
    wall_s, cpu_s = zip(*model.gaps_s, strict=True)
    return HostWork(median(wall_s) * 1000, median(cpu_s) * 1000)
