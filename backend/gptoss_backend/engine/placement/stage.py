"""One rank's share of a step.

Stage 5 of a request: step. Owns: what a rank computes and hands on, and in which order.
Does not know: processes, lines, who asked.
"""

from __future__ import annotations

import torch

from gptoss_backend.engine.batch import Batch
from gptoss_backend.engine.checkpoint import Weights
from gptoss_backend.engine.kv_cache import BlockTables
from gptoss_backend.engine.model import StepOutput
from gptoss_backend.engine.placement.group import StageLinks, TensorGroup
from gptoss_backend.engine.shard import Shard
from gptoss_backend.engine.torch_model import TorchModel


class Stage:
    """A shard in the process group. Made once all ranks have joined it."""

    def __init__(self, shard: Shard, weights: Weights, cache_dtype: torch.dtype) -> None:
        self.shard = shard
        is_tensor = shard.num_parts > 1
        group = TensorGroup([len(part.vocab) for part in shard.all_parts]) if is_tensor else None
        self.model = TorchModel(shard, weights, group, cache_dtype=cache_dtype)
        self._links = None if is_tensor else StageLinks()

    def run(self, batch: Batch, tables: BlockTables, *, with_logits: bool) -> StepOutput | None:
        """Compute this rank's share; returns the output where it comes out, at the last stage and the first part."""
        model, shard, links = self.model, self.shard, self._links
        if shard.is_first:
            hidden = model.embed(batch)
        else:
            assert links is not None  # noqa: S101 (parts of a layer all begin with the embedding)
            hidden = links.take_over(model.empty_hidden(len(batch.token_ids)))
        hidden = model.run_layers(hidden, batch, tables)
        if not shard.is_last:
            assert links is not None  # noqa: S101
            links.pass_on(hidden)
            return None
        output = model.unembed(hidden, batch, with_logits=with_logits)
        return output if shard.is_first_part else None

    def send_back(self, output: StepOutput) -> None:
        """Send a step's logits, where there are any, from the last stage to the first."""
        if self._links is not None and output.logits is not None:
            self._links.send_back(output.logits)

    def receive_back(self, num_samples: int) -> torch.Tensor:
        """Wait for a step's logits at the first stage."""
        assert self._links is not None  # noqa: S101 (only a pipeline sends them)
        shape = (num_samples, self.shard.whole.vocab_size)
        return self._links.receive_back(torch.empty(shape, dtype=torch.float32, device=self.model.device))
