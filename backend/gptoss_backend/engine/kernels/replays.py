"""What is kept of recorded steps: where they leave their results, what they read, and a step under way.

Owns: the shapes of these, what of a step under way is still to come to the host.
Does not know: what a step computes, when it is replayed.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Generic, TypeVar

import torch
from torch import Tensor

from gptoss_backend.engine.kernels.choosing import Amended
from gptoss_backend.engine.kernels.recording import Work
from gptoss_backend.engine.kernels.step_inputs import DecodeRows, PassRows
from gptoss_backend.engine.model import Edited, StepOutput, Told
from gptoss_backend.engine.torch_model import Group
from gptoss_backend.engine.transfer import fetched


@dataclass(frozen=True, slots=True)
class StepMemory:
    """What steps leave their results in: only those of one are looked at."""

    incoming: Tensor
    """[most tokens, hidden]: the residual stream of the stage before; empty in the first"""
    hidden: Tensor
    """[most tokens, hidden]: the residual stream behind the layers"""
    logits: Tensor
    """[most rows, vocab] in the compute dtype; empty in a stage before the last"""
    chosen: Tensor
    """[most samples] int64: the tokens of the step launched last, in which the next looks for those it goes on with"""
    features: Tensor
    """[most rows, hidden]: what a draft head goes on from; empty where there is none"""


Rows = TypeVar("Rows", DecodeRows, PassRows)


@dataclass(frozen=True, slots=True)
class Recorded(Generic[Rows]):
    """A step that has been recorded."""

    rows: Rows
    """What it reads, filled before each replay."""
    replay: Work


class Replayed:
    """A step under way. Logits that lie in the graphs' memory are overwritten by the next one."""

    def __init__(self, chosen: Tensor, logits: Tensor, group: Group, *, wants_logits: bool) -> None:
        """chosen: [num_samples] int64, which the step after this one goes on with; logits: [num_samples, vocab]."""
        self._chosen = chosen
        self._logits = logits
        self._group = group
        self._wants_logits = wants_logits
        self._amended: Amended | None = None
        self._fetch()

    def amend(self, edited: Edited | None, told: Told | None) -> None:
        """Choose some samples anew, as `LaunchedStep.amend` says."""
        self._amended = Amended.of(self._logits, self._chosen, edited, told)
        self._fetch()

    def result(self) -> StepOutput:
        """Wait for this step, not for what was launched after it."""
        if self._done is not None:
            self._group.wait(self._done)
        logits = self._logits.float() if self._wants_logits else None
        tokens, amended = self._tokens.tolist(), self._amended
        if amended is None:
            return StepOutput(tokens, logits)
        return StepOutput(tokens, logits, amended.logprobs, amended.edited, amended.barren)

    def _fetch(self) -> None:
        """Send the tokens to the host as soon as they are there."""
        self._tokens = fetched(self._chosen)
        self._done = _mark(self._chosen.device)


def _mark(device: torch.device) -> torch.cuda.Event | None:
    """Return an event behind all that a device has been given; None where it has done it."""
    if device.type != "cuda":
        return None
    event = torch.cuda.Event()  # type: ignore[no-untyped-call]
    event.record(torch.cuda.current_stream(device))
    return event
