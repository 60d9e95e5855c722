"""From the engine's deltas to responses: what is joined, what stays apart, where log probabilities travel."""

from __future__ import annotations

import sys
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
from support.stub_tensor import Tensor

STARTED = Started(3, 1)
FINISHED = Finished(FinishReason.STOP, 3, 2, 1, Timings(0.0, 0.1, 0.2))


@dataclass
class Response:
    tensors: list[Tensor]

    def bytes_of(self, name: str) -> bytes:
        return next(tensor.array for tensor in self.tensors if tensor.name == name).tobytes()


@dataclass
class Sender:
    """Keeps what a stream sends."""

    responses: list[Response] = field(default_factory=list)

    def send(self, response: Response, flags: int) -> None:
        self.responses.append(response)


@pytest.fixture(scope="module")
def module() -> Iterator[ModuleType]:
    library = ModuleType("triton_python_backend_utils")
    vars(library).update(Tensor=Tensor, InferenceResponse=Response, TRITONSERVER_RESPONSE_COMPLETE_FINAL=1)
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


@given(
    st.lists(st.tuples(st.lists(st.integers(0, 99), min_size=1, max_size=6), st.booleans(), st.booleans()), max_size=4),
    st.randoms(use_true_random=False),
)
def test_coalesce_when_requests_are_mixed_then_nothing_is_lost_and_entries_stay_with_their_tokens(
    module: ModuleType, requests: list[tuple[list[int], bool, bool]], order: object
) -> None:
    queues = [deltas_of(str(index), *request) for index, request in enumerate(requests)]
    mixed: list[TokenDelta] = []
    while any(queues):
        mixed.append(order.choice([queue for queue in queues if queue]).pop(0))  # type: ignore[attr-defined]
    joined = module.coalesce(mixed)
    for index, (tokens, with_logprobs, ends) in enumerate(requests):
        parts = [delta for delta in joined if delta.request_id == str(index)]
        assert len(parts) == (2 if ends else 1)
        assert [token for part in parts for token in part.token_ids] == tokens
        entries = [entry for part in parts for entry in part.logprobs]
        assert entries == ([logprob_of(token) for token in tokens] if with_logprobs else [])
        assert all(len(part.logprobs) in (0, len(part.token_ids)) for part in parts)
        assert (parts[0].event, parts[-1].is_last) == (STARTED, ends)


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
