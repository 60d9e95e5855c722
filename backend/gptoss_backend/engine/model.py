"""What the engine asks of a model, whatever computes it and wherever.

Owns: the protocol between the loop and a forward pass. `LocalModel` is one device's: `TorchModel` runs anywhere and is
the reference, `native.NativeModel` on CPUs with AVX2 or AVX-512. `placement.DistributedModel` spreads over several.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from typing import Protocol

import torch
from torch import Tensor

from gptoss_backend.contract import TokenLogprob
from gptoss_backend.engine.batch import Batch
from gptoss_backend.engine.block_tables import BlockTables
from gptoss_backend.engine.cache_plan import CacheLimits, CachePlan
from gptoss_backend.engine.cache_sizing import size_cache
from gptoss_backend.engine.config import ModelConfig
from gptoss_backend.engine.edits import LogitEdits
from gptoss_backend.engine.errors import ModelLost, first_line
from gptoss_backend.engine.kv_cache import KVCache


@dataclass(frozen=True, slots=True)
class Draws:
    """How the token of each of a batch's samples is chosen."""

    temperatures: list[float]
    """0: the likeliest"""
    uniforms: list[float]
    """From 0 to 1, without 1: where in the cumulative distribution the token lies"""
    top_ks: list[float]
    """0: of all"""
    top_ps: list[float]
    """1: of all"""
    min_ps: list[float]
    """0: of all"""

    @classmethod
    def of_all(cls, temperatures: list[float], uniforms: list[float]) -> Draws:
        """Return draws without filters."""
        count = len(temperatures)
        return cls(temperatures, uniforms, [0.0] * count, [1.0] * count, [0.0] * count)

    @property
    def lines(self) -> tuple[list[float], ...]:
        """The five, one below the other."""
        return self.temperatures, self.uniforms, self.top_ks, self.top_ps, self.min_ps

    def part(self, indices: list[int]) -> Draws:
        """Return some of the draws."""
        return Draws(*([line[index] for index in indices] for line in self.lines))


@dataclass(frozen=True, slots=True)
class Edited:
    """Samples whose logits are changed before their tokens are chosen."""

    places: list[int]
    """Among the step's samples"""
    edits: list[LogitEdits]
    """Of each"""
    draws: Draws
    """Of these"""

    def part(self, indices: list[int]) -> Edited:
        """Return some of the samples, in the order in which they are."""
        return Edited([self.places[i] for i in indices], [self.edits[i] for i in indices], self.draws.part(indices))

    def barren(self, are_left: list[bool]) -> set[int]:
        """Return the samples of which a grammar leaves nothing. are_left: of each, whether it leaves a token."""
        return {place for place, is_left in zip(self.places, are_left, strict=True) if not is_left}


@dataclass(frozen=True, slots=True)
class Told:
    """Samples whose tokens' log probabilities are told, by the logits as they were."""

    places: list[int]
    """Among the step's samples"""
    counts: list[int]
    """Of each, how many of the likeliest tokens are told besides."""


@dataclass(frozen=True, slots=True)
class StepOutput:
    """What a step says of the next tokens, one entry for each of the batch's samples."""

    tokens: list[int]
    """The likeliest token, the lowest id among equals; where the step was told of draws, what was drawn."""
    logits: Tensor | None
    """[num_samples, vocab] float32, where asked for."""
    logprobs: dict[int, TokenLogprob] = field(default_factory=dict)
    """By samples; of those that the step was told of by `amend`."""
    edited: frozenset[int] = frozenset()
    """Samples that were chosen by edits."""
    barren: frozenset[int] = frozenset()
    """Those of which edits left no token at all; what was chosen there means nothing."""

    def amend(self, edited: Edited | None, told: Told | None) -> None:
        """Only steps of models that run ahead are amended."""
        raise NotImplementedError

    def result(self) -> StepOutput:
        """Return itself: a step that is computed already needs no waiting for."""
        return self


@dataclass(frozen=True, slots=True)
class ModelInfo:
    """What an operator wants to know of a loaded model."""

    device: str
    num_devices: int
    dtype: str
    why_dtype: str
    placement: str
    why_placed: str
    kernels: str
    """What computes: "C++ (AVX2)", "torch", "Triton-language"; and "FP8 KV cache" where that changes the numbers."""
    weight_bytes: int
    """On the device that holds the most."""


class LaunchedStep(Protocol):
    """A step under way."""

    def amend(self, edited: Edited | None, told: Told | None) -> None:
        """Have some samples chosen anew, by edits that are known by now, and log probabilities told in the result.

        Of a model that runs ahead: at most once, before the next step is launched, which goes on with these tokens; of
        a step that was launched without logits. Waits for no device.
        """

    def result(self) -> StepOutput:
        """Wait for it to be computed. Raises what its computation raised."""


class Model(Protocol):
    """A loaded GPT-OSS. Used by one thread."""

    config: ModelConfig
    device: torch.device
    """Where logits come out."""
    dtype: torch.dtype
    """Of weights and arithmetic."""
    info: ModelInfo | None
    """None for models that tests make."""
    can_draw: bool
    """True where `launch` takes draws."""
    runs_ahead: bool
    """True where `launch` takes decodes of tokens that the step launched before has yet to choose.

    So a step's edits may not be known when it is launched: it can be amended.
    """
    can_draft: bool
    """True where `draft` guesses."""
    max_in_flight: int
    """Steps without a common sequence that may be under way at once; what runs ahead is not counted."""

    @property
    def fault(self) -> str | None:
        """Why the model is at an end, in one sentence; None while it is not. May be asked by any thread."""

    def check(self) -> None:
        """Find out, after a step has failed, whether another can be computed. Raises ModelLost where none can."""

    def close(self) -> None:
        """Let go of everything outside this process."""

    def plan_cache(self, limits: CacheLimits) -> CachePlan:
        """Say how many blocks there is room for. Raises EngineError where there are too few."""

    def allocate_cache(self, plan: CachePlan) -> None:
        """Take the memory for keys and values. Called once, before the first step."""

    def rehearse(self, cache: KVCache) -> None:
        """Make sure, before the first request, that what computes together can; `cache` is as empty as it was.

        Blocks for as long as ranks may wait for one another. Raises EngineError.
        """

    def launch(self, batch: Batch, cache: KVCache, *, with_logits: bool, draws: Draws | None = None) -> LaunchedStep:
        """Begin a step: it writes its keys and values into the blocks that `cache` has given to its rows by now.

        Steps compute in the order of their launch, so a block that changes hands between two of them is not torn.
        Raises ModelLost, as the step's `result` does, where the model is at an end.
        """

    def draft(self, batch: Batch, cache: KVCache, num_tokens: int) -> list[list[int]]:
        """Guess `num_tokens` tokens after each of a batch of decodes, for each of which `cache` has so much more room.

        None of them is a sequence's first token.
        """


def check_device(device: torch.device) -> None:
    """Raise ModelLost where a GPU computes no more for this process; waits for it.

    Most errors of a GPU, unlike a lack of memory, end all that a process has there: each later call fails at once.
    """
    if device.type != "cuda":
        return
    try:
        torch.cuda.synchronize(device)
    except RuntimeError as error:
        raise ModelLost(f"the GPU computes no more for this process: {first_line(error)}") from error


class LocalModel(ABC):
    """A model, or a shard of one, on one device: a step is done when `forward` returns."""

    config: ModelConfig
    device: torch.device
    dtype: torch.dtype
    info: ModelInfo | None = None
    can_draw = False
    can_draft = False
    runs_ahead = False
    max_in_flight = 1
    fault: str | None = None

    @property
    def cache_dtype(self) -> torch.dtype:
        """Of keys and values: that of the weights, but where a model says otherwise."""
        return self.dtype

    def check(self) -> None:
        """Ask the device, as `Model.check` says."""
        check_device(self.device)

    def close(self) -> None:  # noqa: B027 (there is something to do for some)
        """There is nothing outside this process."""

    def plan_cache(self, limits: CacheLimits) -> CachePlan:
        """Plan by what is free on the device, as `Model.plan_cache` says."""
        return size_cache(self.config, self.device, self.cache_dtype.itemsize, limits)

    def rehearse(self, cache: KVCache) -> None:  # noqa: B027 (there is something to do for some)
        """One device needs no other."""

    def launch(
        self, batch: Batch, tables: BlockTables, *, with_logits: bool, draws: Draws | None = None
    ) -> LaunchedStep:
        """Compute a step, without draws."""
        return self.forward(batch, tables, with_logits=with_logits)

    def draft(self, batch: Batch, cache: KVCache, num_tokens: int) -> list[list[int]]:
        """There is nothing that could guess."""
        raise NotImplementedError

    @abstractmethod
    def allocate_cache(self, plan: CachePlan) -> None:
        """Take the memory for keys and values. Called once, before the first step."""

    @abstractmethod
    def forward(self, batch: Batch, tables: BlockTables, *, with_logits: bool) -> StepOutput:
        """Compute a step: write its keys and values where `tables` say, and return what follows its samples."""
