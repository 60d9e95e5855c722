"""gRPC under gevent: one user's way straight to Triton, to the ensemble preprocess → generation.

Stage: before 3 prompt and behind 6 detokenize; the adapter has no part in it.
Owns: the channel, the clock, when an answer is whole.
Does not know: locust, what is asked, HTTP, the messages' form (gptoss_client.ensemble).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from time import perf_counter
from typing import Any

import grpc
from tritonclient.grpc import service_pb2_grpc

from gptoss_backend.contract import CHAT_CODEC, TOKEN_IDS, ChatRequest, Finished, decode_error
from gptoss_backend.model_names import MODELS
from gptoss_client.api_errors import ProtocolError
from gptoss_client.ensemble import ensemble_request, finished_of, outputs_of
from load.answer import AnswerTimes, ChatError


def ensemble_of(model: str) -> str:
    """Return the ensemble of a model by its OpenAI name; of one that goes by another, the demo's."""
    return next((name for name in MODELS if name.openai == model), MODELS[0]).ensemble


class EnsembleClient:
    """Streams chats over one channel. One chat at a time.

    address: HOST:PORT of Triton's gRPC.
    """

    def __init__(self, address: str, ensemble: str) -> None:
        _make_grpc_yield()
        # without its own pool each user would share one connection, which no crowd of clients does
        self._channel = grpc.insecure_channel(address, options=[("grpc.use_local_subchannel_pool", 1)])
        self._ensemble = ensemble
        self._stub = service_pb2_grpc.GRPCInferenceServiceStub(self._channel)

    def close(self) -> None:
        """Close the channel."""
        self._channel.close()

    def chat(self) -> EnsembleChat:
        """Return a chat that has not begun."""
        return EnsembleChat(self._stub, self._ensemble)


class EnsembleChat:
    """One chat with the ensemble. `answer` holds what is known so far, also after a fault."""

    def __init__(self, stub: Any, ensemble: str) -> None:  # noqa: ANN401 (generated code has no types)
        self._stub = stub
        self._ensemble = ensemble
        self.answer = AnswerTimes(perf_counter())

    @property
    def age_s(self) -> float:
        """Time since the request was sent."""
        return self.answer.elapsed_s(perf_counter())

    def run(self, chat: ChatRequest) -> None:
        """Send the request and read the answer; blocks its greenlet. Raises ChatError."""
        self.answer = AnswerTimes(perf_counter())
        request = ensemble_request(self._ensemble, CHAT_CODEC.encode(chat))
        try:
            read_answer(self._stub.ModelStreamInfer(iter([request])), self.answer)
        except grpc.RpcError as error:
            raise ChatError(f"gRPC {error.code().name}: {error.details()}") from error


def read_answer(responses: Iterable[Any], answer: AnswerTimes) -> None:
    """Read the stream's responses to their end. Raises ChatError where that is no proper one."""
    is_finished = False
    for response in responses:
        if response.error_message:
            raise ChatError(f"Triton: {decode_error(response.error_message)[1]}")
        outputs = outputs_of(response.infer_response)
        if outputs.get(TOKEN_IDS.name):
            answer.mark_delta(perf_counter())
        if finished := _finished(outputs):
            answer.count_tokens(finished.completion_tokens)
            is_finished = True
    if not is_finished:
        raise ChatError("the stream ended without its last event")


def _finished(outputs: Mapping[str, bytes]) -> Finished | None:
    try:
        return finished_of(outputs)
    except ProtocolError as error:
        raise ChatError(str(error)) from error


@cache
def _make_grpc_yield() -> None:
    from grpc.experimental import gevent  # here: once, after locust has patched the standard library

    gevent.init_gevent()
