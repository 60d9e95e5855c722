"""Running one sequence through a model by hand, step by step."""

from __future__ import annotations

import dataclasses
import random
from pathlib import Path

import torch

from gptoss_backend.contract import SamplingParams
from gptoss_backend.engine.batch import Batch, ScheduledSequence
from gptoss_backend.engine.cache_plan import CacheLimits, plan_cache
from gptoss_backend.engine.checkpoint import load_weights
from gptoss_backend.engine.config import ModelConfig
from gptoss_backend.engine.kv_cache import KVCache
from gptoss_backend.engine.model import LocalModel
from gptoss_backend.engine.sequence import GenerationRequest, Sequence
from gptoss_backend.engine.shard import Shard
from gptoss_backend.engine.torch_model import TorchModel

CPU = torch.device("cpu")


def load_torch_model(
    folder: Path, dtype: torch.dtype = torch.float32, cache_dtype: torch.dtype | None = None
) -> TorchModel:
    """Load a checkpoint folder on the CPU."""
    config = ModelConfig.from_folder(folder)
    shard = Shard.of_all(config)
    return TorchModel(shard, load_weights(folder, shard, dtype, CPU), cache_dtype=cache_dtype)


def prompt_of(length: int, seed: int) -> list[int]:
    """Return random token ids below 500."""
    generator = random.Random(seed)
    return [generator.randrange(500) for _ in range(length)]


class StepByStep:
    """Runs one sequence through a model, keeping the logits of every position."""

    def __init__(self, model: LocalModel, prompt_ids: list[int]) -> None:
        self._model = model
        plan = plan_cache(
            model.config, CacheLimits(16, 2, 1024), budget_bytes=64 * 2**20, element_size=model.cache_dtype.itemsize
        )
        model.allocate_cache(plan)
        self._cache = KVCache(plan, model.config.sliding_window)
        self.sequence = Sequence(GenerationRequest("one", prompt_ids, SamplingParams()), max_tokens=1000)
        self.sequence.row, _ = self._cache.open(prompt_ids)
        self.logits: list[torch.Tensor] = []

    def prefill(self, num_tokens: int) -> None:
        """Compute the next tokens of the prompt as one chunk."""
        part = ScheduledSequence(self.sequence, num_tokens, samples=True)
        self._run(Batch.build([], [part]), num_tokens)

    def decode(self, token: int | None = None) -> None:
        """Append a token, without one the greedy token, and compute it."""
        self.sequence.token_ids.append(int(self.logits[-1][-1].argmax()) if token is None else token)
        self._run(Batch.build([self.sequence], []), 1)

    def _run(self, batch: Batch, num_tokens: int) -> None:
        sequence = self.sequence
        self._cache.reserve(sequence.row, sequence.num_computed + num_tokens)
        every_position = dataclasses.replace(batch, samples=list(range(num_tokens)))
        output = self._model.forward(every_position, self._cache, with_logits=True)
        assert output.logits is not None
        assert output.tokens == output.logits.argmax(dim=-1).tolist()
        self.logits.append(output.logits)
        sequence.num_computed += num_tokens
        self._cache.commit(sequence.row, sequence.token_ids, sequence.num_computed)
