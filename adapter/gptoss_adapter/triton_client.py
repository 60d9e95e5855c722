"""The model server that is Triton, over gRPC.

Stage: 3 prompt (preprocess, unary) and 4 schedule … 6 (gpt_oss_*, one decoupled stream a request).
Owns: the gRPC channel, tensors to bytes and back, what each gRPC status means to a client of ours.
Does not know: HTTP, OpenAI's shapes, what the tokens mean.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
from array import array
from collections.abc import AsyncIterator, Sequence
from typing import Any, Final

import grpc
import numpy as np
import tritonclient.grpc.aio as triton
from tritonclient.utils import InferenceServerException

from gptoss_adapter.abandoned import look_at_the_outcome
from gptoss_adapter.context import current_request_id
from gptoss_adapter.errors import (
    ApiError,
    ContextLengthExceededError,
    DeadlineExceededError,
    InternalError,
    PromptTimeoutError,
    ServiceUnavailableError,
    StructureFailedError,
    TooManyRequestsError,
    as_sentence,
    refusal_of,
)
from gptoss_adapter.inference import STREAM_END_TIMEOUT_S, GenerationStep, ModelServerStatus, PromptIds
from gptoss_backend.contract import (
    CHAT,
    CHAT_CODEC,
    EVENT,
    EVENT_CODEC,
    PREPROCESS,
    PROMPT_IDS,
    SAMPLING,
    SAMPLING_CODEC,
    TOKEN_IDS,
    ChatRequest,
    GenerationErrorCode,
    Refusal,
    SamplingParams,
    TensorSpec,
    decode_error,
    decode_sampling,
)
from gptoss_backend.model_names import ModelName

logger = logging.getLogger(__name__)

_NO_LIMIT: Final = 2**31 - 1
CHANNEL_OPTIONS: Final = (
    ("grpc.max_send_message_length", _NO_LIMIT),
    ("grpc.max_receive_message_length", _NO_LIMIT),
    # Triton takes pings more often than every 300 s for an attack and hangs up
    ("grpc.keepalive_time_ms", 310_000),
    ("grpc.keepalive_timeout_ms", 20_000),
    # a restarted Triton is found at once; gRPC's own backoff grows to two minutes
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.min_reconnect_backoff_ms", 1_000),
    ("grpc.max_reconnect_backoff_ms", 200),
    # a proxy for the web is not for Triton
    ("grpc.enable_http_proxy", 0),
)
# what Triton itself says where a model is missing, loading or ending ("Stub process 'x_0' is not healthy": INTERNAL to
# it, but the server is to be restarted, not blamed)
_UNAVAILABLE_TEXT: Final = re.compile("unknown model|not at ready state|Server is stopping|is not healthy")
_UNAVAILABLE_STATUS: Final = frozenset({"UNAVAILABLE", "NOT_FOUND", "CANCELLED", "DEADLINE_EXCEEDED"})
PREPROCESS_TIMEOUT_S: Final = 30.0
MAX_RENDERING: Final = 4
"""Prompts at `preprocess` at once, two for each of its instances: what is there is worked through, whoever leaves."""
STATUS_TIMEOUT_S: Final = 2.0
_QUEUE_FULL: Final = "The server has as many requests waiting as it takes. Try again in a moment."
_DTYPES: Final[dict[str, np.dtype[Any]]] = {"UINT8": np.dtype("u1"), "INT32": np.dtype("<i4")}


class TritonModelServer:
    """Triton with `preprocess` and the generation models. One instance serves every request of the process."""

    def __init__(
        self, address: str, models: Sequence[ModelName], channel_options: Sequence[tuple[str, object]] = ()
    ) -> None:
        """address: host:port of Triton's gRPC service, or another target of gRPC.

        channel_options: beside CHANNEL_OPTIONS, or in their place.
        Connects on first use; must be made inside the event loop.
        """
        self._models = models
        options = {**dict(CHANNEL_OPTIONS), **dict(channel_options)}
        self._client = triton.InferenceServerClient(address, channel_args=list(options.items()))
        self._places = asyncio.Semaphore(MAX_RENDERING)
        self._num_asked = 0
        self._rendering: set[asyncio.Future[triton.InferResult]] = set()

    @property
    def is_rendering(self) -> bool:
        """Whether prompts are under way, be it for nobody any more: to close the channel would cancel them."""
        return bool(self._num_asked or self._rendering)

    async def preprocess(self, chat: ChatRequest, request_id: str) -> PromptIds:
        """Return the chat's prompt. Raises ApiError."""
        return await self.render(CHAT_CODEC.encode(chat), request_id)

    async def render(self, chat: bytes, request_id: str) -> PromptIds:
        """Return the prompt of a chat as it goes over the wire. Raises ApiError."""
        self._num_asked += 1
        try:
            # (asyncio.timeout and not wait_for, which in Python 3.11 forgets a cancellation that meets the result.)
            async with asyncio.timeout(PREPROCESS_TIMEOUT_S):
                result = await self._prompt_of(chat, request_id)
        except TimeoutError as error:
            logger.warning("preprocess did not answer within %g s", PREPROCESS_TIMEOUT_S)
            raise PromptTimeoutError(PREPROCESS_TIMEOUT_S) from error
        except InferenceServerException as error:
            raise _api_error(error.status(), error.message()) from error
        finally:
            self._num_asked -= 1
        outputs = _outputs(result)
        sampling = decode_sampling(outputs[SAMPLING.name])
        if isinstance(sampling, Refusal):
            raise _refusal_error(sampling, request_id)
        return PromptIds(outputs[PROMPT_IDS.name])

    async def _prompt_of(self, chat: bytes, request_id: str) -> triton.InferResult:
        """Wait for a place at `preprocess`, then for the answer. Who is given up while it waits never gets there."""
        await self._places.acquire()
        call = asyncio.ensure_future(self._client.infer(PREPROCESS, [_input(CHAT, chat)], request_id=request_id))
        self._rendering.add(call)
        call.add_done_callback(self._rendered)
        # Shielded, and without a deadline of gRPC's: a unary call that is cancelled, which is what a deadline does, can
        # end tritonserver (24.10; its issues 7368 and 8034).
        return await asyncio.shield(call)

    def _rendered(self, call: asyncio.Future[triton.InferResult]) -> None:
        self._rendering.remove(call)
        self._places.release()
        look_at_the_outcome(call)

    def generate(self, model: ModelName, prompt: PromptIds, sampling: SamplingParams, request_id: str) -> TritonStream:
        """Submit the prompt to `model` and return its stream."""

        async def requests() -> AsyncIterator[dict[str, Any]]:
            yield {
                "model_name": model.triton,
                "inputs": [_input(PROMPT_IDS, prompt.raw), _input(SAMPLING, SAMPLING_CODEC.encode(sampling))],
                "request_id": request_id,
            }

        # Without the header `triton_grpc_error`, by which an error would end the stream with its status: where that
        # meets the end of our requests, tritonserver 24.10 dies of it (seen after 4 to 2,000 refusals).
        return TritonStream(self._client.stream_infer(requests()))

    async def status(self) -> ModelServerStatus:
        """Ask whether Triton lives and which of its models are missing. Never raises."""
        models = (PREPROCESS, *(model.triton for model in self._models))
        try:
            metadata, *ready = await asyncio.gather(
                self._client.get_server_metadata(client_timeout=STATUS_TIMEOUT_S),
                *(self._client.is_model_ready(model, client_timeout=STATUS_TIMEOUT_S) for model in models),
            )
        except InferenceServerException:
            return ModelServerStatus(live=False, version=None, missing_models=models)
        missing = tuple(model for model, is_ready in zip(models, ready, strict=True) if not is_ready)
        return ModelServerStatus(live=True, version=metadata.version, missing_models=missing)

    async def close(self) -> None:
        """Close the channel."""
        await self._client.close()


class TritonStream:
    """One request on one gRPC stream. The stream is half-closed after the request, so its end is the request's end."""

    def __init__(self, responses: Any) -> None:  # noqa: ANN401 (tritonclient does not name its iterator)
        self._responses = responses

    def __aiter__(self) -> TritonStream:
        """Return itself."""
        return self

    async def __anext__(self) -> GenerationStep:
        """Wait for the next response. Raises StopAsyncIteration after the last, ApiError."""
        try:
            result, error = await self._responses.__anext__()
        except grpc.aio.AioRpcError as failure:
            raise _api_error(str(failure.code()), failure.details() or "") from failure
        if error is not None:
            await self._read_end()
            raise _api_error(error.status(), error.message())
        outputs = _outputs(result)
        event = outputs.get(EVENT.name)
        return GenerationStep(
            token_ids=array("i", outputs.get(TOKEN_IDS.name, b"")).tolist(),
            event=EVENT_CODEC.decode(event) if event else None,
        )

    async def _read_end(self) -> None:
        """Wait for the stream's end, which follows an error: to cancel there would be a race with it."""
        with contextlib.suppress(StopAsyncIteration, TimeoutError, grpc.aio.AioRpcError):
            async with asyncio.timeout(STREAM_END_TIMEOUT_S):
                await self._responses.__anext__()

    def cancel(self) -> None:
        """Cancel the gRPC call, which Triton tells the model."""
        self._responses.cancel()


def _input(spec: TensorSpec, raw: bytes) -> triton.InferInput:
    tensor = np.frombuffer(raw, dtype=_DTYPES[spec.datatype])
    infer_input = triton.InferInput(spec.name, [tensor.size], spec.datatype)
    infer_input.set_data_from_numpy(tensor)
    return infer_input


def _outputs(result: triton.InferResult) -> dict[str, bytes]:
    response = result.get_response()
    return {output.name: raw for output, raw in zip(response.outputs, response.raw_output_contents, strict=False)}


def _api_error(status: str | None, text: str) -> ApiError:
    """Return what a Triton error means to our client. `status`: "StatusCode.NAME"; None where it came on a stream.

    Only sentences written for clients (INVALID_ARGUMENT, a full queue, a deadline) go out; the rest goes to the log.
    """
    code, sentence = decode_error(text)
    name = (status or "").removeprefix("StatusCode.")
    match code:
        case GenerationErrorCode.CONTEXT_LENGTH_EXCEEDED:
            return ContextLengthExceededError(as_sentence(sentence))
        case GenerationErrorCode.QUEUE_FULL:
            return TooManyRequestsError(_QUEUE_FULL)
        case GenerationErrorCode.DEADLINE_EXCEEDED:
            return DeadlineExceededError(as_sentence(sentence))
        case GenerationErrorCode.STRUCTURE_FAILED:
            return StructureFailedError(as_sentence(sentence), param=refusal_of(sentence).param)
        case GenerationErrorCode.INVALID_REQUEST:
            return refusal_of(sentence)
    if name == "INVALID_ARGUMENT":
        return refusal_of(sentence)
    if "maximum queue size" in text:
        return TooManyRequestsError(_QUEUE_FULL)
    logger.warning("triton answered %s: %s", name or "an error without a status", text)
    if code is GenerationErrorCode.SHUTTING_DOWN or name in _UNAVAILABLE_STATUS or _UNAVAILABLE_TEXT.search(text):
        return ServiceUnavailableError("The model server is not available. It may be loading or restarting; try again.")
    return InternalError(current_request_id())


def _refusal_error(refusal: Refusal, request_id: str) -> ApiError:
    if not refusal.is_internal:
        return refusal_of(refusal.refused)
    logger.error("preprocess failed: %s", refusal.refused)
    return InternalError(request_id)
