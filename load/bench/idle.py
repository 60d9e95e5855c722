"""How long a device waits for the engine between its steps, over a model that keeps a GPU's pace without one.

Stage: 4 and 5 of a request's way, without arithmetic.
Owns: the answers asked for, of one length and of many.
Does not know: what the engine does between steps, how the model knows how long it had none (paced.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final

from gptoss_backend.engine.engine import Engine
from gptoss_backend.engine.options import EngineOptions
from load.bench.engine_runner import EngineRunner
from load.bench.paced import paced_model
from load.bench.tokenizer import single_token_words
from load.bench.workload import make_prompts

_PROMPT_TOKENS: Final = 20
# in words, their lengths, and how many requests there are for each stream
_ANSWERS: Final = (
    ("all of 208 tokens", (208, 208), 1),
    ("of 32 to 384 tokens", (32, 384), 1),
    ("of 32 to 384 tokens, each end followed by a prompt", (32, 384), 4),
)


@dataclass(frozen=True, slots=True)
class IdleShare:
    """Requests that come at once, or one for each that ends, until the last one's answer is there."""

    num_streams: int
    answers: str
    """How long they are, in words"""
    tokens_per_s: float
    idle: float
    """0 to 1: of the time between the first step's beginning and the last one's end"""


def measure_idle(all_streams: list[int], speed: float) -> Iterator[IdleShare]:
    """Yield what each number of streams came to: with answers of one length, of many, with more in their wake.

    speed: times as quick as the H100 of `load/bench/paced.py`. Raises PeerError where the engine fails a request.
    """
    words = single_token_words()
    for num_streams in all_streams:
        for answers, (least, most), num_rounds in _ANSWERS:
            rng = Random(f"{num_streams} answers {answers}")
            lengths = [rng.randint(least, most) for _ in range(num_rounds * num_streams)]
            yield _share_of(answers, num_streams, lengths, words, speed)


def _share_of(answers: str, num_streams: int, lengths: list[int], words: Sequence[int], speed: float) -> IdleShare:
    model, options = paced_model(words, speed), EngineOptions(max_num_seqs=num_streams)
    runner = EngineRunner(lambda sink: Engine(model, options, sink))
    _, wall_s = runner.play(make_prompts(words, len(lengths), _PROMPT_TOKENS, seed=answers), num_streams, lengths)
    runner.engine.stop(0.0)
    return IdleShare(num_streams, answers, sum(lengths) / wall_s, model.idle_s / (model.idle_s + model.busy_s))
