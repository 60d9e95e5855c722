"""How long a device waits for the engine between its steps, over a model that keeps a GPU's pace without one.

Stage: 4 and 5 of a request's way, without arithmetic.
Owns: the answers asked for, of one length and of many, and the share of the time in which nothing is computed.
Does not know: what the engine does between steps.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise
from random import Random
from threading import Event
from time import perf_counter
from typing import Final

from gptoss_backend.contract import SamplingParams
from gptoss_backend.demo.random_checkpoint import SHAPES, config_of
from gptoss_backend.engine.engine import Engine
from gptoss_backend.engine.options import EngineOptions
from gptoss_backend.engine.sequence import GenerationRequest, TokenDelta
from load.bench.paced import Pace, PacedModel
from load.bench.stream import PeerError
from load.bench.tokenizer import single_token_words

_PROMPT_TOKENS: Final = 20
_LENGTHS: Final = {"all of 208 tokens": (208, 208), "of 32 to 384 tokens": (32, 384)}


@dataclass(frozen=True, slots=True)
class IdleShare:
    """Requests that come at once, until the last one's answer is there."""

    num_streams: int
    answers: str
    """How long they are, in words"""
    tokens_per_s: float
    idle: float
    """0 to 1: of the time between the first step's beginning and the last one's end"""


def measure_idle(all_streams: list[int], speed: float) -> Iterator[IdleShare]:
    """Yield what each number of streams came to, first with answers of one length, then of many.

    speed: times as quick as the H100 of `load/bench/paced.py`. Raises PeerError where the engine fails a request.
    """
    vocabulary = single_token_words()
    for num_streams in all_streams:
        for answers, (least, most) in _LENGTHS.items():
            yield _Round(num_streams, speed, vocabulary).play(answers, least, most)


class _Round:
    def __init__(self, num_streams: int, speed: float, vocabulary: list[int]) -> None:
        self._num_streams = num_streams
        self._vocabulary = vocabulary
        self._model = PacedModel(config_of(SHAPES["20b"]), Pace(speed), vocabulary)
        self._engine = Engine(self._model, EngineOptions(max_num_seqs=num_streams), self._take)
        self._num_tokens = 0
        self._num_left = num_streams
        self._faults: list[str] = []
        self._ended = Event()

    def play(self, answers: str, least: int, most: int) -> IdleShare:
        rng = Random(f"{self._num_streams} answers {answers}")
        for number in range(self._num_streams):
            prompt = rng.choices(self._vocabulary, k=_PROMPT_TOKENS)
            sampling = SamplingParams(max_tokens=rng.randint(least, most), ignore_eos=True, seed=number)
            self._engine.submit(GenerationRequest(str(number), prompt, sampling))
        started_s = perf_counter()
        self._engine.start()
        self._ended.wait()
        self._engine.stop(0.0)
        if self._faults:
            raise PeerError(self._faults[0])
        steps = self._model.steps
        num_idle_s = sum(following.began_s - before.ended_s for before, following in pairwise(steps))
        rate = self._num_tokens / (perf_counter() - started_s)
        return IdleShare(self._num_streams, answers, rate, num_idle_s / (steps[-1].ended_s - steps[0].began_s))

    def _take(self, deltas: list[TokenDelta]) -> None:
        for delta in deltas:
            self._num_tokens += len(delta.token_ids)
            self._num_left -= delta.is_last
            if delta.error is not None:
                self._faults.append(delta.error)
        if not self._num_left:
            self._ended.set()
