"""How much of a prompt is computed beside answers that are under way, where steps take long."""

from __future__ import annotations

import queue
import time

import pytest

from gptoss_backend.contract import SamplingParams
from gptoss_backend.engine import pace
from gptoss_backend.engine.batch import Batch
from gptoss_backend.engine.engine import Engine
from gptoss_backend.engine.model import BlockTables, Draws, LaunchedStep
from gptoss_backend.engine.options import EngineOptions
from gptoss_backend.engine.pace import Pace
from gptoss_backend.engine.sequence import GenerationRequest, TokenDelta
from support.fake_model import FakeModel


def test_pace_when_steps_take_long_then_a_chunk_beside_answers_takes_a_second() -> None:
    told = Pace(512)
    assert told.chunk(is_waited_for=True) == 512
    told.note(512, took_s=4.0)
    assert (told.chunk(is_waited_for=True), told.chunk(is_waited_for=False)) == (128, 512)
    told.note(128, took_s=1.6)  # what it takes to decode beside is in it
    assert told.chunk(is_waited_for=True) == 80


def test_pace_when_steps_are_quick_short_or_endless_then_chunks_are_within_bounds() -> None:
    told = Pace(512)
    for num_tokens, took_s in ((20, 0.004), (3, 60.0), (0, 60.0)):
        told.note(num_tokens, took_s)
        assert told.chunk(is_waited_for=True) == 512
    told.note(512, took_s=1000.0)
    assert told.chunk(is_waited_for=True) == 16
    told.note(16, took_s=0.01)  # it was a moment's trouble
    assert told.chunk(is_waited_for=True) == 512


class SlowModel(FakeModel):
    """Takes a millisecond for a token."""

    def launch(
        self, batch: Batch, tables: BlockTables, *, with_logits: bool, draws: Draws | None = None
    ) -> LaunchedStep:
        time.sleep(0.001 * len(batch.token_ids))
        return super().launch(batch, tables, with_logits=with_logits, draws=draws)


def test_long_prompt_when_its_chunks_take_long_then_those_beside_an_answer_are_short_and_the_others_whole(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(pace, "_MOST_S", 0.04)
    model, said = SlowModel(), queue.SimpleQueue[list[TokenDelta]]()
    options = EngineOptions(
        max_num_seqs=2, max_queue=4, prefill_chunk_tokens=128, max_model_len=512, kv_cache_bytes=2**22
    )
    engine = Engine(model, options, said.put)
    engine.start()

    def ask(name: str, prompt: range, max_tokens: int) -> None:
        sampling = SamplingParams(temperature=0.0, max_tokens=max_tokens)
        engine.submit(GenerationRequest(name, list(prompt), sampling))
        while not any(delta.request_id == name and delta.token_ids for delta in said.get(timeout=10)):
            pass

    ask("alone", range(300), 1)
    ask("answered", range(3), 400)
    ask("beside", range(100, 400), 1)
    engine.stop(drain_s=0.0)
    lengths = [chunk.length for batch in model.batches for chunk in batch.chunks]
    assert lengths[:4] == [128, 128, 44, 3]
    assert sum(lengths[4:]) == 300
    assert max(lengths[4:]) < 64
