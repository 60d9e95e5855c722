"""What the engine asks of a model, whatever computes it.

Owns: the protocol between the loop and a forward pass. `TorchModel` runs anywhere and is the reference;
`native.NativeModel` runs on CPUs with AVX-512 BF16.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from gptoss_backend.engine.batch import Batch
from gptoss_backend.engine.config import ModelConfig
from gptoss_backend.engine.kv_cache import CachePlan, KVCache


@dataclass(frozen=True, slots=True)
class StepOutput:
    """What a step says of the next tokens, one entry for each of the batch's samples."""

    best: list[int]
    """The likeliest token, the lowest id among equals."""
    logits: Tensor | None
    """[num_samples, vocab] float32, where asked for."""


class Model(Protocol):
    """A loaded GPT-OSS on one device. Used by one thread."""

    config: ModelConfig
    device: torch.device
    dtype: torch.dtype
    """Of weights, keys and values."""

    def allocate_cache(self, plan: CachePlan) -> None:
        """Take the memory for keys and values. Called once, before the first step."""

    def forward(self, batch: Batch, cache: KVCache, *, with_logits: bool) -> StepOutput:
        """Compute a step: write its keys and values into the blocks that `cache` has given to its rows."""
