"""What guessing ahead gains: on text that repeats what stands before it, on text that does not, where answers open.

Stage: 4 and 5 of a request's way, alone.
Owns: the texts, and the model that computes in earnest but says what the text says.
Does not know: how guesses are made.

Random weights copy nothing, so their own words would tell nothing about drafts. Here the arithmetic is the real model's
and only its choice is replaced: by the next token of a given text.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import median
from threading import Event
from time import perf_counter
from typing import Final

import torch

from gptoss_backend.contract import SamplingParams
from gptoss_backend.engine.batch import Batch
from gptoss_backend.engine.block_tables import BlockTables
from gptoss_backend.engine.cache_plan import CachePlan
from gptoss_backend.engine.engine import Engine
from gptoss_backend.engine.loading import load_model
from gptoss_backend.engine.model import LocalModel, StepOutput
from gptoss_backend.engine.options import EngineOptions
from gptoss_backend.engine.sequence import GenerationRequest, TokenDelta
from gptoss_backend.engine.speculation import NO_PHRASES, Phrases, Speculation
from gptoss_backend.harmony.phrases import usual_phrases
from gptoss_backend.harmony.vocabulary import START, encoding
from load.bench.checkpoints import PROJECT

_NUM_PROMPT: Final = 400
_NUM_NEW: Final = 300
_EDITED: Final = 0.05
"""Share of a copy's tokens that differ from the original's."""


def texts() -> dict[str, list[int]]:
    """Return prompt and answer in one, by kind: the first 400 tokens are the prompt."""
    original = _tokens("README.md")[:_NUM_PROMPT]
    rng = Random("edits")
    edited = [rng.choice(original) if rng.random() < _EDITED else token for token in original]
    return {
        "copied": [*original, *original],
        "copied, 5% edited": [*original, *edited],
        "other": [*original, *_tokens("ARCHITECTURE.md")[:_NUM_PROMPT]],
    }


@dataclass(frozen=True, slots=True)
class Gain:
    """Medians of some rounds."""

    text: str
    num_streams: int
    plain_tokens_per_s: float
    guessed_tokens_per_s: float
    num_accepted: int
    num_drafted: int


def measure_gain(folder: Path, speculation: Speculation, streams: list[int], rounds: int) -> Iterator[Gain]:
    """Decode each text with and without guesses, turn about, after its prompt has been computed."""
    model = load_model(folder, device=torch.device("cpu"))
    assert isinstance(model, LocalModel)  # noqa: S101 (nothing else was asked for)
    for kind, text in texts().items():
        scripted = ScriptedModel(model, text)
        runs = [_Run(scripted, choice) for choice in (None, speculation)]
        for num_streams in streams:
            times: list[list[float]] = [[], []]
            before = runs[1].engine.stats()
            for number in range(rounds + 1):  # the first is for warming up
                for run, collected in zip(runs, times, strict=True):
                    seconds = run.play(text[:_NUM_PROMPT], num_streams)
                    collected += [seconds] if number else []
            after = runs[1].engine.stats()
            plain_s, guessed_s = map(median, times)
            total = num_streams * _NUM_NEW
            yield Gain(
                kind,
                num_streams,
                total / plain_s,
                total / guessed_s,
                after.num_accepted_tokens - before.num_accepted_tokens,
                after.num_drafted_tokens - before.num_drafted_tokens,
            )
        for run in runs:
            run.engine.stop(0.0)


def measure_opening(folder: Path, lengths: list[int], rounds: int) -> Iterator[tuple[int, float, float]]:
    """Yield a prompt's length and the seconds to the first token of an answer's text, without guesses and with.

    What opens an answer in Harmony comes before that token. Medians, turn about; no prompt was there before.
    """
    model = load_model(folder, device=torch.device("cpu"))
    assert isinstance(model, LocalModel)  # noqa: S101 (nothing else was asked for)
    phrases = usual_phrases()
    [(latest, opening)] = [phrase for phrase in phrases.items() if phrase[0][0] == START]
    words, rng = _tokens("README.md"), Random("prompts")
    for length in lengths:
        text = [*rng.choices(words, k=length), *opening, *words[:8]]
        runs = [_Run(ScriptedModel(model, text), None, each) for each in (NO_PHRASES, Phrases(phrases))]
        times: list[list[float]] = [[], []]
        for number in range(rounds + 1):  # the first is for warming up
            for run, collected in zip(runs, times, strict=True):
                prompt = [*rng.choices(words, k=length - len(latest)), *latest]
                seconds = run.time_to(prompt, len(opening) + 1)
                collected += [seconds] if number else []
        yield length, median(times[0]), median(times[1])
        for run in runs:
            run.engine.stop(0.0)


class ScriptedModel(LocalModel):
    """Computes what the model computes and says what the text says."""

    def __init__(self, model: LocalModel, text: list[int]) -> None:
        self.config, self.device, self.dtype = model.config, model.device, model.dtype
        self._model = model
        self._text = text

    def allocate_cache(self, plan: CachePlan) -> None:
        """Once for all engines over the model: they take turns, with the same plan."""
        if not hasattr(self._model, "has_scripted_cache"):
            self._model.allocate_cache(plan)
            self._model.has_scripted_cache = True  # type: ignore[attr-defined]

    def forward(self, batch: Batch, tables: BlockTables, *, with_logits: bool) -> StepOutput:
        """Compute a step; each sample is followed by what stands behind its position in the text."""
        self._model.forward(batch, tables, with_logits=with_logits)
        return StepOutput([self._text[batch.positions[index] + 1] for index in batch.samples], None)


class _Run:
    def __init__(self, model: ScriptedModel, speculation: Speculation | None, phrases: Phrases = NO_PHRASES) -> None:
        self._ended = Event()
        self._num_left = 0
        self._first_s = self._last_s = 0.0
        options = EngineOptions(
            max_num_seqs=8, kv_cache_bytes=2**28, max_model_len=1024, speculation=speculation, phrases=phrases
        )
        self.engine = Engine(model, options, self._take)
        self.engine.start()

    def play(self, prompt: list[int], num_streams: int) -> float:
        """Return the seconds from the first token to the last."""
        self._ended.clear()
        self._num_left, self._first_s = num_streams, 0.0
        sampling = SamplingParams(max_tokens=_NUM_NEW, temperature=0.0, ignore_eos=True)
        for number in range(num_streams):
            self.engine.submit(GenerationRequest(f"{number}", prompt, sampling))
        self._ended.wait()
        return self._last_s - self._first_s

    def time_to(self, prompt: list[int], num_tokens: int) -> float:
        """Return the seconds from a prompt's coming to so many tokens of its answer."""
        self._ended.clear()
        self._num_left = 1
        began_s = perf_counter()
        sampling = SamplingParams(max_tokens=num_tokens, temperature=0.0, ignore_eos=True)
        self.engine.submit(GenerationRequest("one", prompt, sampling))
        self._ended.wait()
        return self._last_s - began_s

    def _take(self, deltas: list[TokenDelta]) -> None:
        self._last_s = perf_counter()
        self._first_s = self._first_s or self._last_s
        self._num_left -= sum(delta.is_last for delta in deltas)
        if not self._num_left:
            self._ended.set()


def _tokens(name: str) -> list[int]:
    text = (PROJECT / name).read_text(encoding="utf-8")
    return list(encoding().encode(text, disallowed_special=()))
