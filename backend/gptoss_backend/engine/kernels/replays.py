"""What is kept of recorded steps: where they leave their results, what they read, and a step under way.

Owns: nothing but the shapes. Does not know: what a step computes, when it is replayed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

from gptoss_backend.engine.kernels.recording import Work
from gptoss_backend.engine.kernels.step_inputs import DecodeRows, PassRows
from gptoss_backend.engine.model import StepOutput
from gptoss_backend.engine.torch_model import Group


@dataclass(frozen=True, slots=True)
class StepMemory:
    """What all graphs leave their results in, since only those of one are looked at."""

    incoming: Tensor
    """[most tokens, hidden]: the residual stream of the stage before; empty in the first"""
    hidden: Tensor
    """[most tokens, hidden]: the residual stream behind the layers"""
    logits: Tensor
    """[most rows, vocab] in the compute dtype; empty in a stage before the last"""
    chosen: Tensor
    """[most rows] int64: the rows' next tokens"""
    features: Tensor
    """[most rows, hidden]: what a draft head goes on from; empty where there is none"""


Rows = TypeVar("Rows", DecodeRows, PassRows)


@dataclass(frozen=True, slots=True)
class Recorded(Generic[Rows]):
    """A step that has been recorded."""

    rows: Rows
    """What it reads, filled before each replay."""
    replay: Work


@dataclass(frozen=True, slots=True)
class Replayed:
    """A step under way. Its logits stay until the next one is launched, where they are not its own."""

    tokens: Tensor
    """On the host, once `done`"""
    logits: Tensor
    wants_logits: bool
    done: torch.cuda.Event | None
    """None: it is done"""
    group: Group

    def result(self, *, with_logits: bool = False) -> StepOutput:
        """Wait for this step, not for what was launched after it."""
        if self.done is not None:
            self.group.wait(self.done)
        return StepOutput(self.tokens.tolist(), self.logits.float() if self.wants_logits or with_logits else None)
