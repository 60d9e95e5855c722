"""From the engine's deltas to responses: what is joined, what stays apart, where log probabilities travel."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from types import ModuleType

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptoss_backend.contract import (
    EVENT,
    EVENT_CODEC,
    TOKEN_IDS,
    Continued,
    Finished,
    FinishReason,
    GenerationEvent,
    Started,
    Timings,
    TokenLogprob,
)
from gptoss_backend.engine.sequence import TokenDelta
from support.live_server import wait_until
from support.stub_tensor import Tensor

STARTED = Started(3, 1)
FINISHED = Finished(FinishReason.STOP, 3, 2, 1, Timings(0.0, 0.1, 0.2))


class TritonError(Exception):
    INTERNAL, UNAVAILABLE = 1, 2


@dataclass
class Response:
    tensors: list[Tensor] = field(default_factory=list)
    error: TritonError | None = None

    def bytes_of(self, name: str) -> bytes:
        return next(tensor.array for tensor in self.tensors if tensor.name == name).tobytes()


@dataclass
class Sender:
    """Keeps what a stream sends."""

    responses: list[Response] = field(default_factory=list)
    cancelled: bool = False
    flags: list[int] = field(default_factory=list)
    fails: bool = False

    def is_cancelled(self) -> bool:
        if self.fails:
            raise RuntimeError("no shared memory")
        return self.cancelled

    def send(self, response: Response, flags: int) -> None:
        if self.fails:
            raise RuntimeError("no shared memory")
        self.responses.append(response)
        self.flags.append(flags)


@pytest.fixture(scope="module")
def module() -> Iterator[ModuleType]:
    library = ModuleType("triton_python_backend_utils")
    vars(library).update(
        Tensor=Tensor,
        InferenceResponse=Response,
        TRITONSERVER_RESPONSE_COMPLETE_FINAL=1,
        TritonError=TritonError,
    )
    ours = [f"gptoss_backend.triton.{name}" for name in ("responses", "tensors")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, library.__name__, library)
        for name in ours:
            patch.delitem(sys.modules, name, raising=False)
        from gptoss_backend.triton import responses

        yield responses
        for name in ours:
            sys.modules.pop(name, None)


def logprob_of(token: int) -> TokenLogprob:
    return TokenLogprob(token, -float(token))


def deltas_of(request_id: str, tokens: list[int], with_logprobs: bool, ends: bool) -> list[TokenDelta]:
    """Return one request's deltas as the engine makes them, a token each; the first may be the last."""
    deltas = [
        TokenDelta(request_id, (token,), logprobs=(logprob_of(token),) if with_logprobs else ()) for token in tokens
    ]
    if not ends or len(deltas) > 1:
        deltas[0] = deltas[0]._replace(event=STARTED)
    else:
        deltas.insert(0, TokenDelta(request_id, event=STARTED))
    return [*deltas[:-1], deltas[-1]._replace(event=FINISHED)] if ends else deltas


@given(st.lists(st.integers(0, 99), min_size=1, max_size=6), st.booleans(), st.booleans())
def test_coalesce_when_deltas_have_gathered_then_nothing_is_lost_and_entries_stay_with_their_tokens(
    module: ModuleType, tokens: list[int], with_logprobs: bool, ends: bool
) -> None:
    parts = module.coalesce(deltas_of("a", tokens, with_logprobs, ends))
    assert len(parts) == (2 if ends else 1)
    assert [token for part in parts for token in part.token_ids] == tokens
    entries = [entry for part in parts for entry in part.logprobs]
    assert entries == ([logprob_of(token) for token in tokens] if with_logprobs else [])
    assert all(len(part.logprobs) in (0, len(part.token_ids)) for part in parts)
    assert (parts[0].event, parts[-1].is_last) == (STARTED, ends)


class Paced:
    """A response sender at a pace, and what its streams were sent."""

    def __init__(self, module: ModuleType, max_responses_per_s: float, names: str) -> None:
        self.cancelled: list[str] = []
        self.sender = module.ResponseSender(self.cancelled.append, max_responses_per_s)
        self.streams = {name: Sender() for name in names}
        for name, stream in self.streams.items():
            self.sender.open(name, module.ResponseStream(stream))
        self.sender.start()

    def sent(self, name: str) -> list[list[int]]:
        """Return the tokens of each response."""
        responses = self.streams[name].responses
        return [np.frombuffer(response.bytes_of(TOKEN_IDS.name), dtype=np.int32).tolist() for response in responses]

    def put(self, *deltas: TokenDelta) -> None:
        self.sender.put(list(deltas))


@pytest.fixture
def slow(module: ModuleType, monkeypatch: pytest.MonkeyPatch) -> Iterator[Paced]:
    """Streams a and b at a pace that only what is urgent overtakes."""
    monkeypatch.setattr(module, "MOST_HELD_S", 3600.0)
    paced = Paced(module, 1e-6, "ab")
    yield paced
    paced.sender.close()


def test_sender_when_the_pace_is_reached_then_first_and_last_words_go_at_once_and_the_rest_gathers(slow: Paced) -> None:
    slow.put(TokenDelta("a", (1,), STARTED))
    wait_until(lambda: slow.sent("a") == [[1]])
    slow.put(TokenDelta("a", (2,)), TokenDelta("b", event=STARTED))
    slow.put(TokenDelta("a", (3,)))
    wait_until(lambda: slow.sent("b") == [[]])
    slow.put(TokenDelta("a", (4,)), TokenDelta("b", (5,)))  # its first token, after its prompt took several steps
    wait_until(lambda: slow.sent("b") == [[], [5]])
    assert slow.sent("a") == [[1]]
    slow.put(TokenDelta("b", (6,)), TokenDelta("a", (7,), FINISHED))
    wait_until(lambda: len(slow.sent("a")) == 2)
    assert slow.sent("a") == [[1], [2, 3, 4, 7]]
    assert slow.sent("b") == [[], [5]]


def test_sender_when_it_closes_then_what_was_held_back_is_sent(module: ModuleType, slow: Paced) -> None:
    slow.put(TokenDelta("a", (1,), STARTED))
    wait_until(lambda: slow.sent("a") == [[1]])
    slow.put(TokenDelta("a", (2,)))
    slow.sender.close()
    assert slow.sent("a") == [[1], [2]]


def test_sender_when_tokens_come_faster_than_the_pace_then_they_are_sent_within_the_longest_hold(
    module: ModuleType,
) -> None:
    paced = Paced(module, 20.0, "a")
    paced.put(TokenDelta("a", (0,), STARTED))
    for token in range(1, 200):
        paced.put(TokenDelta("a", (token,)))
        time.sleep(0.001)
    time.sleep(0.4)
    sent = paced.sent("a")
    paced.sender.close()
    assert [token for tokens in sent for token in tokens] == list(range(200))
    assert 3 <= len(sent) <= 20


@pytest.mark.parametrize("at_close", [False, True])
def test_sender_when_a_client_has_gone_then_it_is_sent_only_the_end_and_that_later(
    module: ModuleType, monkeypatch: pytest.MonkeyPatch, at_close: bool
) -> None:
    monkeypatch.setattr(module, "UNREAD_HELD_S", 3600.0 if at_close else 0.1)
    paced = Paced(module, 1000.0, "ab")
    paced.put(TokenDelta("a", (1,), STARTED), TokenDelta("b", (1,), STARTED))
    wait_until(lambda: paced.sent("a") == paced.sent("b") == [[1]])
    paced.streams["a"].cancelled = True
    assert paced.sender.cancel_abandoned()
    paced.put(TokenDelta("a", (2,)), TokenDelta("b", (2,)))
    paced.put(TokenDelta("a", event=FINISHED), TokenDelta("b", (3,), FINISHED))
    wait_until(lambda: 3 in paced.sent("b")[-1])
    assert not paced.sender.cancel_abandoned()
    assert (paced.cancelled, paced.sent("a")) == (["a"], [[1]])
    if not at_close:
        time.sleep(0.15)
        paced.sender.cancel_abandoned()
        assert len(paced.sent("a")) == 2
    paced.sender.close()
    assert len(paced.sent("a")) == 2


def test_sender_when_a_response_cannot_be_sent_then_the_request_is_cancelled_and_ends_with_an_error(
    module: ModuleType,
) -> None:
    paced = Paced(module, 1000.0, "ab")
    paced.put(TokenDelta("a", (1,), STARTED), TokenDelta("b", (1,), STARTED))
    wait_until(lambda: paced.sent("a") == paced.sent("b") == [[1]])
    paced.streams["a"].fails = True
    assert not paced.sender.cancel_abandoned()  # nor are the others kept from being asked
    paced.put(TokenDelta("a", (2,)), TokenDelta("b", (2,)))
    wait_until(lambda: paced.cancelled == ["a"])
    paced.streams["a"].fails = False
    paced.put(TokenDelta("a", event=FINISHED), TokenDelta("b", (3,), FINISHED))
    paced.sender.close()
    assert (paced.streams["a"].flags, str(paced.streams["a"].responses[-1].error)) == (
        [0, 1],
        "('a response could not be sent', 1)",
    )
    assert [token for tokens in paced.sent("b") for token in tokens] == [1, 2, 3]


@pytest.mark.parametrize(
    ("event", "with_logprobs", "expected"),
    [
        (None, False, None),
        (STARTED, False, STARTED),
        (FINISHED, False, FINISHED),
        (None, True, Continued((logprob_of(5), logprob_of(6)))),
        (STARTED, True, replace(STARTED, logprobs=(logprob_of(5), logprob_of(6)))),
        (FINISHED, True, replace(FINISHED, logprobs=(logprob_of(5), logprob_of(6)))),
    ],
)
def test_send_when_a_delta_has_logprobs_then_its_event_carries_them_beside_what_it_says(
    module: ModuleType, event: Started | Finished | None, with_logprobs: bool, expected: GenerationEvent | None
) -> None:
    sender = Sender()
    logprobs = (logprob_of(5), logprob_of(6)) if with_logprobs else ()
    module.ResponseStream(sender).send(TokenDelta("a", (5, 6), event, logprobs=logprobs))
    [response] = sender.responses
    assert response.bytes_of(TOKEN_IDS.name) == np.array([5, 6], dtype=np.int32).tobytes()
    raw = response.bytes_of(EVENT.name)
    assert (EVENT_CODEC.decode(raw) if raw else None) == expected
