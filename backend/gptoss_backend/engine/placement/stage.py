"""One rank's share of every step.

Stage 5 of a request: step. Owns: a shard, its copy of the block tables, its place among the ranks.
Does not know: processes, lines, who asked.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from gptoss_backend.engine.cache_plan import CachePlan
from gptoss_backend.engine.checkpoint import Weights
from gptoss_backend.engine.making import make_model
from gptoss_backend.engine.model import LaunchedStep, StepOutput
from gptoss_backend.engine.placement.group import StageLinks, TensorGroup, unhurried
from gptoss_backend.engine.placement.messages import MirroredTables, StepMessage
from gptoss_backend.engine.shard import Shard


class Stage:
    """A shard in the process group. Made once all ranks have joined it; `allocate_cache` comes before any step."""

    def __init__(
        self,
        shard: Shard,
        weights: Weights,
        cache_dtype: torch.dtype,
        *,
        cuda_graphs: bool,
        timeout_s: float,
        is_over: Callable[[], bool] = lambda: False,
    ) -> None:
        """cuda_graphs: all ranks replay steps (see `can_replay`). timeout_s, is_over: see `TensorGroup`."""
        self.shard = shard
        self._timeout_s = timeout_s
        is_tensor = shard.num_parts > 1
        widths = [len(part.vocab) for part in shard.all_parts]
        self._links = None if is_tensor else StageLinks()
        self.model = make_model(
            shard,
            weights,
            cuda_graphs=cuda_graphs,
            cache_dtype=cache_dtype,
            group=TensorGroup(widths, timeout_s, is_over) if is_tensor else None,
            links=self._links,
        )

    def allocate_cache(self, plan: CachePlan) -> None:
        """Take the memory for keys and values. Where steps are recorded all ranks do so at once, together."""
        with unhurried(self._timeout_s):
            self.model.allocate_cache(plan)
        self._tables = MirroredTables(plan, self.model.config.sliding_window)

    def launch(self, message: StepMessage) -> LaunchedStep:
        """Begin this rank's share of a step; its result says something only where `shard.has_output`."""
        self._tables.apply(message)
        return self.model.launch(message.batch, self._tables, with_logits=message.with_logits, draws=message.draws)

    def let_go(self) -> None:
        """Destroy what was recorded, once the device is done with it."""
        if self.model.device.type == "cuda":
            torch.cuda.synchronize(self.model.device)
        self.model.free_cache()

    def send_back(self, output: StepOutput) -> None:
        """Send a step's logits, where there are any, from the last stage to the first."""
        if self._links is not None and output.logits is not None:
            self._links.send_back(output.logits)

    def receive_back(self, num_samples: int) -> torch.Tensor:
        """Wait for a step's logits at the first stage."""
        assert self._links is not None  # noqa: S101 (only a pipeline sends them)
        shape = (num_samples, self.shard.whole.vocab_size)
        return self._links.receive_back(torch.empty(shape, dtype=torch.float32, device=self.model.device))
