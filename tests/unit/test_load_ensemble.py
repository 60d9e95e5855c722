"""How the load test reads Triton's stream, and when messages are due."""

from __future__ import annotations

import struct
import time
from collections.abc import Sequence
from itertools import pairwise

import gevent
import pytest
from load.answer import AnswerTimes, ChatError
from load.ensemble_client import ensemble_of, read_answer
from load.users.arrivals import Arrivals
from tritonclient.grpc import service_pb2

from gptoss_backend.contract import (
    EVENT,
    EVENT_CODEC,
    TOKEN_IDS,
    Finished,
    FinishReason,
    GenerationErrorCode,
    Started,
    Timings,
    encode_error,
)

STARTED = EVENT_CODEC.encode(Started(prompt_tokens=9, cached_tokens=0))
FINISHED = EVENT_CODEC.encode(Finished(FinishReason.LENGTH, 9, 5, 0, Timings(0.0, 0.1, 0.2)))


def response(ids: Sequence[int] = (), event: bytes = b"") -> service_pb2.ModelStreamInferResponse:
    found = service_pb2.ModelStreamInferResponse()
    for name, raw in ((TOKEN_IDS.name, struct.pack(f"<{len(ids)}i", *ids)), (EVENT.name, event)):
        found.infer_response.outputs.add(name=name)
        found.infer_response.raw_output_contents.append(raw)
    return found


def test_stream_when_read_to_its_end_then_the_last_event_counts_the_tokens() -> None:
    answer = AnswerTimes(time.perf_counter())

    read_answer([response(event=STARTED), response([1, 2]), response([3, 4, 5], FINISHED)], answer)

    assert (answer.num_tokens, answer.num_deltas) == (5, 2)
    assert answer.ttft_s is not None


def test_stream_when_it_ends_early_or_with_an_error_then_the_chat_failed() -> None:
    busy = service_pb2.ModelStreamInferResponse(
        error_message=f"in ensemble 'x', {encode_error(GenerationErrorCode.QUEUE_FULL, 'as many wait as may')}"
    )

    with pytest.raises(ChatError, match="without its last event"):
        read_answer([response(event=STARTED), response([1])], AnswerTimes(0.0))
    with pytest.raises(ChatError, match=r"^Triton: as many wait as may$"):
        read_answer([busy], AnswerTimes(0.0))


@pytest.mark.parametrize(("model", "ensemble"), [("gpt-oss-20b", "gpt_oss_20b_chat"), ("gpt-oss", "gpt_oss_demo_chat")])
def test_ensemble_when_a_model_is_named_then_it_is_that_models(model: str, ensemble: str) -> None:
    assert ensemble_of(model) == ensemble


def test_arrivals_when_they_come_then_as_often_as_asked_and_the_same_for_the_same_seed() -> None:
    def gaps() -> list[float]:
        arrivals = Arrivals(400.0, "arrivals 7")
        due = [arrivals.next() for _ in range(80)]
        arrivals.stop()
        return [after - before for before, after in pairwise(due)]

    first = gaps()

    assert sum(first) / len(first) == pytest.approx(1 / 400, rel=0.4)
    assert gaps() == pytest.approx(first, abs=1e-6)


def test_arrivals_when_nobody_takes_them_up_then_stop_tells_when_they_were_due() -> None:
    began_s = time.time()
    arrivals = Arrivals(1000.0, "arrivals 0")
    gevent.sleep(0.1)
    left = arrivals.stop()

    assert len(left) > 20
    assert left == sorted(left)
    assert all(began_s < due_s <= time.time() for due_s in left)
