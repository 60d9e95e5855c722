"""A model that computes nothing and takes as long as a GPU was seen to: all around it can be measured without one.

Stage: 5 of a request's way, without arithmetic.
Owns: how long a step lasts, the device's own time line, the tokens said: a final answer of ordinary words.
Does not know: the engine, Triton.

As on a GPU a step lasts as long whatever the processor does meanwhile, and steps launched ahead follow one another
without a gap. What launching costs the processor is not part of it.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch

from gptoss_backend.demo.random_checkpoint import SHAPES, config_of
from gptoss_backend.engine.batch import Batch
from gptoss_backend.engine.block_tables import BlockTables
from gptoss_backend.engine.cache_plan import CacheLimits, CachePlan, plan_cache
from gptoss_backend.engine.config import ModelConfig
from gptoss_backend.engine.model import Draws, Edited, LaunchedStep, LocalModel, StepOutput, Told
from gptoss_backend.harmony.vocabulary import CHANNEL, MESSAGE, encoding

_CACHE_BYTES: Final = 40 * 2**30
# load/RESULTS.md, 2026-11-27, one H100 and the 20B: rows and milliseconds of a decode step, then a prompt's
_DECODES: Final = ((1, 2.42), (8, 7.13), (32, 10.13), (128, 14.85), (256, 20.66))
_PROMPT_MS: Final = 22.0
_PROMPT_TOKEN_MS: Final = 0.023


@dataclass(frozen=True, slots=True)
class Pace:
    """How long steps last, `speed` times as quick as the first measurement on an H100."""

    speed: float = 1.0

    def step_s(self, batch: Batch) -> float:
        """Return the seconds of one step: of its decodes, and what its chunks of prompts take besides."""
        taken_ms = _between(_DECODES, batch.num_decodes) if batch.num_decodes else 0.0
        num_chunk_tokens = sum(chunk.length for chunk in batch.chunks)
        if num_chunk_tokens:
            taken_ms = max(taken_ms, _PROMPT_MS) + _PROMPT_TOKEN_MS * num_chunk_tokens
        return taken_ms / 1000 / self.speed


class PacedModel(LocalModel):
    """Says `words` one after another, as the final answer where it is asked in Harmony."""

    can_draw = True
    runs_ahead = True

    def __init__(self, config: ModelConfig, pace: Pace, words: Sequence[int]) -> None:
        self.config = config
        self.device = torch.device("cpu")
        self.dtype = torch.bfloat16
        self._pace = pace
        assistant, final = (encoding().encode(word)[0] for word in ("assistant", "final"))
        self._next = dict(zip(words, [*words[1:], words[0]], strict=True))
        self._next |= {assistant: CHANNEL, CHANNEL: final, final: MESSAGE}
        self._first = words[0]
        self._done_at_s: float | None = None  # when the device has computed all that was launched
        self.busy_s = 0.0
        self.idle_s = 0.0
        """What passed between steps"""
        self._chosen: list[int] = []

    def plan_cache(self, limits: CacheLimits) -> CachePlan:
        """Plan as an H100 beside the 20B's weights; nothing of it is allocated."""
        return plan_cache(self.config, limits, budget_bytes=_CACHE_BYTES, element_size=2)

    def allocate_cache(self, plan: CachePlan) -> None:
        """There is nothing to remember."""

    def forward(self, batch: Batch, tables: BlockTables, *, with_logits: bool) -> StepOutput:
        """Nobody asks for a step that is not launched."""
        raise NotImplementedError

    def launch(
        self, batch: Batch, tables: BlockTables, *, with_logits: bool, draws: Draws | None = None
    ) -> LaunchedStep:
        """Let the device have a step after those it has."""
        now_s, takes_s = time.perf_counter(), self._pace.step_s(batch)
        done_at_s = now_s if self._done_at_s is None else self._done_at_s
        self.idle_s += max(0.0, now_s - done_at_s)
        self.busy_s += takes_s
        self._done_at_s = max(now_s, done_at_s) + takes_s
        sampled = [batch.token_ids[index] for index in batch.samples]
        tokens = [self._chosen[-1 - token] if token < 0 else token for token in sampled]
        self._chosen = [self._next.get(token, self._first) for token in tokens]
        return _PacedStep(self._done_at_s, self._chosen)


def paced_model(words: Sequence[int], speed: float) -> PacedModel:
    """Return one of the 20B's size that keeps an H100's pace, `speed` times as quick."""
    return PacedModel(config_of(SHAPES["20b"]), Pace(speed), words)


@dataclass(slots=True)
class _PacedStep:
    done_at_s: float
    tokens: list[int]
    edited: frozenset[int] = frozenset()

    def amend(self, edited: Edited | None, told: Told | None) -> None:
        """Nothing is chosen by edits here: grammars have to let come what is said, and nobody is told of logits."""
        self.edited = frozenset(edited.places if edited else ())

    def result(self) -> StepOutput:
        """Wait as one waits for a GPU: without holding other threads up."""
        time.sleep(max(0.0, self.done_at_s - time.perf_counter()))
        return StepOutput(self.tokens, None, edited=self.edited)


def _between(points: Sequence[tuple[int, float]], rows: int) -> float:
    """Return the value at `rows`, on straight lines between the points."""
    place = min(max(1, bisect_left(points, (rows, 0.0))), len(points) - 1)
    (left, low), (right, high) = points[place - 1], points[place]
    return low + (high - low) * (rows - left) / (right - left)
