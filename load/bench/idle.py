"""How long a device waits for the engine between its steps, over a model that keeps a GPU's pace without one.

Stage: 4 and 5 of a request's way, without arithmetic.
Owns: the answers asked for, of one length and of many, free and held by grammars.
Does not know: what the engine does between steps, how the model knows how long it had none (paced.py).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from random import Random
from typing import Final, NamedTuple

from gptoss_backend.engine.engine import Engine
from gptoss_backend.engine.grammar import TokenMask
from gptoss_backend.engine.options import EngineOptions
from gptoss_backend.harmony.vocabulary import VOCAB_SIZE
from load.bench.choosing import AnyToken
from load.bench.engine_runner import EngineRunner
from load.bench.paced import paced_model
from load.bench.tokenizer import single_token_words
from load.bench.workload import make_prompts

_PROMPT_TOKENS: Final = 20


class _Traffic(NamedTuple):
    """Answers alike in what they ask of the engine."""

    name: str
    """In words"""
    lengths: tuple[int, int]
    """The least and the most tokens of an answer"""
    num_rounds: int = 1
    """Requests for each stream"""
    held_every: int = 0
    """Every n-th request has a grammar that has a say about all its tokens; 0: none has."""


_TRAFFIC: Final = (
    _Traffic("all of 208 tokens", (208, 208)),
    _Traffic("of 32 to 384 tokens", (32, 384)),
    _Traffic("of 32 to 384 tokens, each end followed by a prompt", (32, 384), num_rounds=4),
    _Traffic("the same, one in eight held by a grammar", (32, 384), num_rounds=4, held_every=8),
)


@dataclass(frozen=True, slots=True)
class IdleShare:
    """Requests that come at once, or one for each that ends, until the last one's answer is there."""

    num_streams: int
    answers: str
    """What they are, in words"""
    tokens_per_s: float
    idle: float
    """0 to 1: of the time between the first step's beginning and the last one's end"""


def measure_idle(all_streams: list[int], speed: float) -> Iterator[IdleShare]:
    """Yield what each number of streams came to: with answers of one length, of many, with more in their wake, held.

    speed: times as quick as the H100 of `load/bench/paced.py`. Raises PeerError where the engine fails a request.
    """
    words = single_token_words()
    for num_streams in all_streams:
        for traffic in _TRAFFIC:
            yield _share_of(traffic, num_streams, words, speed)


def _share_of(traffic: _Traffic, num_streams: int, words: Sequence[int], speed: float) -> IdleShare:
    seed = f"{traffic.lengths}, {traffic.num_rounds}"  # held or not, they are the same
    rng = Random(f"{num_streams} answers {seed}")
    lengths = [rng.randint(*traffic.lengths) for _ in range(traffic.num_rounds * num_streams)]
    model, options = paced_model(words, speed), EngineOptions(max_num_seqs=num_streams)

    def mask_of(number: int) -> TokenMask | None:
        return AnyToken(VOCAB_SIZE) if traffic.held_every and not number % traffic.held_every else None

    runner = EngineRunner(lambda sink: Engine(model, options, sink), mask_of)
    _, wall_s = runner.play(make_prompts(words, len(lengths), _PROMPT_TOKENS, seed=seed), num_streams, lengths)
    runner.engine.stop(0.0)
    return IdleShare(num_streams, traffic.name, sum(lengths) / wall_s, model.idle_s / (model.idle_s + model.busy_s))
