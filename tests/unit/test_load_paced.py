"""The model that keeps a GPU's pace without one."""

from __future__ import annotations

import time
from threading import Event

import pytest
from load.bench.engine_runner import EngineRunner
from load.bench.idle import measure_idle
from load.bench.paced import Pace
from load.bench.tokenizer import single_token_words
from load.serving_bench import paced_engine

from gptoss_backend.contract import SamplingParams
from gptoss_backend.engine.batch import Batch, Chunk
from gptoss_backend.engine.engine import Engine
from gptoss_backend.engine.options import EngineOptions
from gptoss_backend.engine.sequence import GenerationRequest, TokenDelta
from gptoss_backend.harmony.vocabulary import encoding


def _step(num_decodes: int, *chunks: int) -> Batch:
    num_tokens = num_decodes + sum(chunks)
    parts = [Chunk(0, length, 0, 0) for length in chunks]
    return Batch([1] * num_tokens, [0] * num_tokens, [0] * num_tokens, [], num_decodes, parts)


@pytest.mark.parametrize(("rows", "milliseconds"), [(1, 2.42), (8, 7.13), (20, 8.63), (256, 20.66)])
def test_pace_when_rows_decode_then_a_step_lasts_as_measured_or_in_between(rows: int, milliseconds: float) -> None:
    assert Pace().step_s(_step(rows)) * 1000 == pytest.approx(milliseconds)
    assert Pace(2.0).step_s(_step(rows)) * 2000 == pytest.approx(milliseconds)


def test_pace_when_a_prompt_joins_then_a_step_lasts_longer() -> None:
    assert Pace().step_s(_step(0, 256)) * 1000 == pytest.approx(27.9, abs=0.1)
    assert Pace().step_s(_step(256, 256)) > Pace().step_s(_step(1, 256)) - 1e-9 > Pace().step_s(_step(256))


def test_pace_when_a_batch_follows_then_it_lasts_as_long_as_the_one_before() -> None:
    assert Pace().step_s(_step(8).following()) == Pace().step_s(_step(8))


def test_paced_model_when_asked_in_harmony_then_it_gives_a_final_answer_of_words() -> None:
    tokens: list[int] = []
    ended = Event()

    def sink(deltas: list[TokenDelta]) -> None:
        for delta in deltas:
            tokens.extend(delta.token_ids)
            if delta.is_last:
                ended.set()

    engine: Engine = paced_engine(100.0, EngineOptions(), sink)
    engine.start()
    prompt = encoding().encode("<|start|>assistant", allowed_special="all")
    engine.submit(GenerationRequest("one", prompt, SamplingParams(max_tokens=8)))
    assert ended.wait(10)
    engine.stop(0.0)
    assert encoding().decode(tokens[:3]) == "<|channel|>final<|message|>"
    assert set(tokens[3:]) <= set(single_token_words())
    assert len(tokens) == 8


def test_paced_model_when_many_decode_then_all_take_as_long_as_their_steps() -> None:
    runner = EngineRunner(lambda sink: paced_engine(10.0, EngineOptions(max_num_seqs=8), sink))
    started_s = time.monotonic()
    replies, _ = runner.play([[1, 2, 3]] * 8, 8, 33)
    taken_s = time.monotonic() - started_s
    runner.engine.stop(0.0)
    assert [reply.num_tokens for reply in replies] == [33] * 8
    assert taken_s >= 32 * Pace(10.0).step_s(_step(8))


def test_idle_when_it_is_measured_then_it_is_a_share_of_the_time_whatever_answers_are_asked_for() -> None:
    shares = list(measure_idle([4], speed=20.0))
    assert len({share.answers for share in shares}) == 4
    for share in shares:
        assert share.num_streams == 4
        assert 0.0 <= share.idle < 1.0
        assert share.tokens_per_s > 0
