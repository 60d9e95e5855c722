"""The Triton client against a real gRPC server that speaks Triton's protocol."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import grpc
import pytest
from tritonclient.grpc import service_pb2 as pb

from gptoss_adapter.errors import (
    ApiError,
    ContextLengthExceededError,
    DeadlineExceededError,
    InternalError,
    InvalidRequestError,
    ServiceUnavailableError,
    StructureFailedError,
    TooManyRequestsError,
)
from gptoss_adapter.inference import GenerationStep, ModelServerStatus
from gptoss_adapter.triton_client import MAX_RENDERING, TritonModelServer
from gptoss_backend.contract import (
    CHAT,
    CHAT_CODEC,
    SAMPLING_CODEC,
    GenerationErrorCode,
    Refusal,
    SamplingParams,
    encode_error,
)
from gptoss_backend.engine.errors import PromptTooLong
from support.fake_triton import (
    CHAT_REQUEST,
    DEMO,
    FINISHED,
    PROMPT,
    STARTED,
    Context,
    FakeTriton,
    Requests,
    Responses,
    serving,
)


@asynccontextmanager
async def connected(fake: FakeTriton) -> AsyncIterator[TritonModelServer]:
    async with serving(fake) as port:
        client = TritonModelServer(f"127.0.0.1:{port}", [DEMO])
        try:
            yield client
        finally:
            await client.close()


def run(test: Callable[[FakeTriton, TritonModelServer], Awaitable[None]]) -> None:
    async def connect() -> None:
        fake = FakeTriton()
        async with connected(fake) as client:
            await asyncio.wait_for(test(fake, client), timeout=10)

    asyncio.run(connect())


async def steps_of(client: TritonModelServer) -> list[GenerationStep]:
    return [step async for step in client.generate(DEMO, PROMPT, SamplingParams(seed=1), "req-1")]


def test_preprocess_when_answered_then_the_prompt_is_passed_on_untouched() -> None:
    async def test(fake: FakeTriton, client: TritonModelServer) -> None:
        assert await client.preprocess(CHAT_REQUEST, "req-1") == PROMPT
        (request,) = fake.requests
        assert (request.model_name, request.id) == ("preprocess", "req-1")
        assert [(one.name, one.datatype, list(one.shape)) for one in request.inputs] == [
            (CHAT.name, "UINT8", [len(CHAT_CODEC.encode(CHAT_REQUEST))])
        ]
        assert CHAT_CODEC.decode(request.raw_input_contents[0]) == CHAT_REQUEST

    run(test)


@pytest.mark.parametrize(
    ("refusal", "error_type", "said"),
    [
        (Refusal("messages[0]: no such call"), InvalidRequestError, "messages[0]: no such call."),
        (Refusal("a secret", is_internal=True), InternalError, "req-1"),
    ],
)
def test_preprocess_when_it_refuses_by_document_then_the_error_is_raised(
    refusal: Refusal, error_type: type[ApiError], said: str
) -> None:
    async def test(fake: FakeTriton, client: TritonModelServer) -> None:
        fake.refusal = refusal
        with pytest.raises(error_type) as raised:
            await client.preprocess(CHAT_REQUEST, "req-1")
        assert said in raised.value.message
        assert "secret" not in raised.value.message

    run(test)


def test_preprocess_when_clients_leave_while_others_are_rendered_then_triton_never_hears_of_theirs() -> None:
    async def test(fake: FakeTriton, client: TritonModelServer) -> None:
        fake.may_render.clear()
        asked = [asyncio.create_task(client.preprocess(CHAT_REQUEST, f"req-{number}")) for number in range(20)]
        async with asyncio.timeout(5):
            while len(fake.requests) < MAX_RENDERING:
                await asyncio.sleep(0.005)
        for task in asked[:-1]:
            task.cancel()
        await asyncio.wait(asked[:-1])
        assert client.is_rendering
        fake.may_render.set()
        assert await asked[-1] == PROMPT
        assert {request.id for request in fake.requests} == {"req-0", "req-1", "req-2", "req-3", "req-19"}
        await asyncio.sleep(0)
        assert not client.is_rendering

    run(test)


def test_generate_when_answered_then_steps_come_in_order_and_the_stream_ends() -> None:
    async def test(fake: FakeTriton, client: TritonModelServer) -> None:
        assert await steps_of(client) == [
            GenerationStep([], STARTED),
            GenerationStep([7, 8]),
            GenerationStep([200002], FINISHED),
        ]
        (request,) = fake.requests
        assert (request.model_name, request.id) == ("gpt_oss_demo", "req-1")
        assert [(one.name, one.datatype) for one in request.inputs] == [("PROMPT_IDS", "INT32"), ("SAMPLING", "UINT8")]
        assert list(request.inputs[0].shape) == [3]
        assert request.raw_input_contents[0] == PROMPT.raw
        assert SAMPLING_CODEC.decode(request.raw_input_contents[1]) == SamplingParams(seed=1)
        assert "triton_grpc_error" not in fake.metadata[0]

    run(test)


def test_generate_when_the_last_response_is_empty_then_it_is_an_empty_step() -> None:
    async def test(fake: FakeTriton, client: TritonModelServer) -> None:
        fake.responses.append(pb.ModelInferResponse())
        assert (await steps_of(client))[-1] == GenerationStep([])

    run(test)


def test_generate_when_cancelled_then_the_server_hears_of_it() -> None:
    async def test(fake: FakeTriton, client: TritonModelServer) -> None:
        fake.hang = True
        stream = client.generate(DEMO, PROMPT, SamplingParams(), "req-1")
        assert await anext(stream) == GenerationStep([], STARTED)
        assert not fake.stream_ended.is_set()
        stream.cancel()
        await asyncio.wait_for(fake.stream_ended.wait(), timeout=1)
        stream.cancel()

    run(test)


@pytest.mark.parametrize(
    ("status", "text", "error_type"),
    [
        (grpc.StatusCode.INVALID_ARGUMENT, "the seed is odd", InvalidRequestError),
        (
            grpc.StatusCode.INVALID_ARGUMENT,
            encode_error(GenerationErrorCode.CONTEXT_LENGTH_EXCEEDED, "This model holds 8 tokens. Yours are 9."),
            ContextLengthExceededError,
        ),
        (
            grpc.StatusCode.UNAVAILABLE,
            encode_error(GenerationErrorCode.QUEUE_FULL, "512 requests wait"),
            TooManyRequestsError,
        ),
        (grpc.StatusCode.UNAVAILABLE, "Exceeds maximum queue size", TooManyRequestsError),
        (
            grpc.StatusCode.UNAVAILABLE,
            encode_error(GenerationErrorCode.DEADLINE_EXCEEDED, "the request's time of 2 s ran out while it waited"),
            DeadlineExceededError,
        ),
        (
            grpc.StatusCode.UNAVAILABLE,
            encode_error(GenerationErrorCode.SHUTTING_DOWN, "rank 1 of 2 died of a secret"),
            ServiceUnavailableError,
        ),
        (grpc.StatusCode.NOT_FOUND, "Request for unknown model", ServiceUnavailableError),
        (grpc.StatusCode.CANCELLED, "", ServiceUnavailableError),
        (grpc.StatusCode.INTERNAL, "Stub process 'gpt_oss_demo_0_0' is not healthy.", ServiceUnavailableError),
        (grpc.StatusCode.INTERNAL, "Traceback: a secret", InternalError),
        (grpc.StatusCode.UNKNOWN, "a secret", InternalError),
    ],
)
def test_error_when_triton_sends_it_then_both_steps_raise_what_it_means(
    status: grpc.StatusCode, text: str, error_type: type[ApiError]
) -> None:
    async def test(fake: FakeTriton, client: TritonModelServer) -> None:
        fake.error = (status, text)
        with pytest.raises(ApiError) as preprocessing:
            await client.preprocess(CHAT_REQUEST, "req-1")
        with pytest.raises(ApiError) as generating:
            await steps_of(client)
        for raised in (preprocessing.value, generating.value):
            assert type(raised) is error_type
            assert "secret" not in raised.message

    run(test)


def test_error_when_the_prompt_is_too_long_then_the_sentence_is_for_people() -> None:
    async def test(fake: FakeTriton, client: TritonModelServer) -> None:
        sentence = encode_error(GenerationErrorCode.CONTEXT_LENGTH_EXCEEDED, str(PromptTooLong(9, 8)))
        fake.error = (grpc.StatusCode.INVALID_ARGUMENT, sentence)
        with pytest.raises(ContextLengthExceededError) as refused:
            await steps_of(client)
        error = refused.value
        assert (error.message, error.param, error.code) == (
            "This model's maximum context length is 8 tokens. However, your prompt has 9 tokens. "
            "Please reduce its length.",
            "messages",
            "context_length_exceeded",
        )

    run(test)


@pytest.mark.parametrize(
    ("text", "error_type", "param"),
    [
        (
            encode_error(GenerationErrorCode.INVALID_REQUEST, "logit_bias holds a token"),
            InvalidRequestError,
            "logit_bias",
        ),
        (encode_error(GenerationErrorCode.INVALID_REQUEST, "tools[0]: no name"), InvalidRequestError, "tools[0]"),
        (encode_error(GenerationErrorCode.INVALID_REQUEST, "the seed is odd"), InvalidRequestError, None),
        (
            encode_error(GenerationErrorCode.STRUCTURE_FAILED, "tools[1].function.parameters: it outgrew its limits"),
            StructureFailedError,
            "tools[1].function.parameters",
        ),
        (encode_error(GenerationErrorCode.CONTEXT_LENGTH_EXCEEDED, "long"), ContextLengthExceededError, "messages"),
        (encode_error(GenerationErrorCode.QUEUE_FULL, "512 wait"), TooManyRequestsError, None),
        (encode_error(GenerationErrorCode.DEADLINE_EXCEEDED, "late"), DeadlineExceededError, None),
        (encode_error(GenerationErrorCode.SHUTTING_DOWN, "bye"), ServiceUnavailableError, None),
        ("Request for unknown model: 'x' is not found", ServiceUnavailableError, None),
        ("Stub process 'gpt_oss_demo_0_0' is not healthy.", ServiceUnavailableError, None),
        ("a secret", InternalError, None),
    ],
)
def test_stream_when_an_error_comes_inside_it_then_its_text_tells_which(
    text: str, error_type: type[ApiError], param: str | None
) -> None:
    class Refusing(FakeTriton):
        """Answers a request as Triton refuses it: with a text in an OK stream, which it then ends."""

        async def ModelStreamInfer(self, requests: Requests, context: Context) -> Responses:  # noqa: N802
            yield pb.ModelStreamInferResponse(error_message=text)

    async def connect() -> None:
        async with connected(Refusing()) as client:
            with pytest.raises(ApiError) as refused:
                await steps_of(client)
        assert (type(refused.value), refused.value.param) == (error_type, param)
        assert "secret" not in refused.value.message

    asyncio.run(connect())


def test_stream_when_an_error_came_then_its_end_is_waited_for_rather_than_cancelled() -> None:
    class Slow(FakeTriton):
        """Takes a moment to end the stream after an error."""

        def __init__(self) -> None:
            super().__init__()
            self.ended_by_itself = False

        async def ModelStreamInfer(self, requests: Requests, context: Context) -> Responses:  # noqa: N802
            yield pb.ModelStreamInferResponse(error_message="broken")
            await asyncio.sleep(0.05)
            self.ended_by_itself = True

    async def connect() -> None:
        triton = Slow()
        async with connected(triton) as client:
            stream = client.generate(DEMO, PROMPT, SamplingParams(), "req-1")
            with pytest.raises(InternalError):
                await anext(stream)
            stream.cancel()
            assert triton.ended_by_itself

    asyncio.run(connect())


def test_client_when_triton_is_not_there_then_service_unavailable_and_not_live() -> None:
    async def connect() -> None:
        client = TritonModelServer("127.0.0.1:1", [DEMO])
        with pytest.raises(ServiceUnavailableError):
            await client.preprocess(CHAT_REQUEST, "req-1")
        with pytest.raises(ServiceUnavailableError):
            await steps_of(client)
        assert await client.status() == ModelServerStatus(False, None, ("preprocess", "gpt_oss_demo"))
        await client.close()

    asyncio.run(connect())


@pytest.mark.parametrize("unready", [set(), {"gpt_oss_demo"}, {"preprocess", "gpt_oss_demo"}])
def test_status_when_models_are_missing_then_it_names_them(unready: set[str]) -> None:
    async def test(fake: FakeTriton, client: TritonModelServer) -> None:
        fake.unready = unready
        status = await client.status()
        assert (status.live, status.version) == (True, "2.51.0")
        assert set(status.missing_models) == unready
        assert status.ready is not bool(unready)

    run(test)


def test_client_when_triton_comes_up_later_then_it_is_found_within_two_seconds() -> None:
    async def come_up_late() -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            port = listener.getsockname()[1]
        client = TritonModelServer(f"127.0.0.1:{port}", [DEMO])
        for _ in range(5):
            assert not (await client.status()).live
            await asyncio.sleep(0.1)
        async with serving(FakeTriton(), port):
            async with asyncio.timeout(2):
                while not (await client.status()).live:
                    await asyncio.sleep(0.05)
            await client.close()

    asyncio.run(come_up_late())
