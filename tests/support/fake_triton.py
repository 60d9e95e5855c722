"""A gRPC server that speaks Triton's protocol, in tritonserver's place."""

from __future__ import annotations

import asyncio
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import grpc
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc

from gptoss_adapter.inference import PromptIds
from gptoss_backend.contract import (
    EVENT_CODEC,
    REFUSAL_CODEC,
    SAMPLING_CODEC,
    ChatMessage,
    ChatRequest,
    Finished,
    FinishReason,
    Refusal,
    Role,
    SamplingParams,
    Started,
    Timings,
)
from gptoss_backend.model_names import MODELS_BY_SHORT

STARTED = Started(3, 1)
FINISHED = Finished(FinishReason.STOP, 3, 2, 1, Timings(0.0, 0.1, 0.2))
CHAT_REQUEST = ChatRequest(messages=(ChatMessage(Role.USER, "Hi"),))
Context = grpc.aio.ServicerContext
Requests = AsyncIterator[pb.ModelInferRequest]
Responses = AsyncIterator[pb.ModelStreamInferResponse]
DEMO = MODELS_BY_SHORT["demo"]
PROMPT = PromptIds(struct.pack("<3i", 200006, 5, -1))


def response(token_ids: list[int], event: Started | Finished | None) -> pb.ModelInferResponse:
    raw = (struct.pack(f"<{len(token_ids)}i", *token_ids), b"text", EVENT_CODEC.encode(event) if event else b"")
    outputs = [
        pb.ModelInferResponse.InferOutputTensor(name=name, datatype=datatype)
        for name, datatype in (("TOKEN_IDS", "INT32"), ("TEXT", "UINT8"), ("EVENT", "UINT8"))
    ]
    return pb.ModelInferResponse(outputs=outputs, raw_output_contents=raw)


class FakeTriton(service_pb2_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]
    """Answers as Triton does. `error` ends the call; `hang` keeps the stream open after its responses.

    `is_silent`: it does not say how it does. `renders_late`: no prompt comes for a minute. `may_render`: until it is
    set, none comes.
    """

    def __init__(self) -> None:
        self.requests: list[Any] = []
        self.metadata: list[dict[str, str]] = []
        self.responses = [response([], STARTED), response([7, 8], None), response([200002], FINISHED)]
        self.error: tuple[grpc.StatusCode, str] | None = None
        self.hang = False
        self.is_silent = False
        self.renders_late = False
        self.may_render = asyncio.Event()
        self.may_render.set()
        self.refusal: Refusal | None = None
        self.stream_ended = asyncio.Event()
        self.unready: set[str] = set()

    async def ModelInfer(self, request: pb.ModelInferRequest, context: Context) -> pb.ModelInferResponse:  # noqa: N802
        self.requests.append(request)
        if self.renders_late:
            await asyncio.sleep(60)
        await self.may_render.wait()
        if self.error:
            await context.abort(*self.error)
        outputs = [
            pb.ModelInferResponse.InferOutputTensor(name=name, datatype=datatype)
            for name, datatype in (("PROMPT_IDS", "INT32"), ("SAMPLING", "UINT8"))
        ]
        prompt = b"" if self.refusal else PROMPT.raw
        sampling = REFUSAL_CODEC.encode(self.refusal) if self.refusal else SAMPLING_CODEC.encode(SamplingParams())
        return pb.ModelInferResponse(outputs=outputs, raw_output_contents=[prompt, sampling])

    async def ModelStreamInfer(self, requests: Requests, context: Context) -> Responses:  # noqa: N802
        self.metadata.append(dict(context.invocation_metadata()))
        context.add_done_callback(lambda _: self.stream_ended.set())
        async for request in requests:
            self.requests.append(request)
            for one in self.responses:
                yield pb.ModelStreamInferResponse(infer_response=one)
        if self.hang:
            await asyncio.sleep(60)
        if self.error:
            await context.abort(*self.error)

    async def ServerMetadata(self, request: pb.ServerMetadataRequest, context: Context) -> pb.ServerMetadataResponse:  # noqa: N802
        if self.is_silent:
            await asyncio.sleep(60)
        return pb.ServerMetadataResponse(name="triton", version="2.51.0")

    async def ModelReady(self, request: pb.ModelReadyRequest, context: Context) -> pb.ModelReadyResponse:  # noqa: N802
        return pb.ModelReadyResponse(ready=request.name not in self.unready)


@asynccontextmanager
async def serving(fake: FakeTriton, port: int = 0) -> AsyncIterator[int]:
    server = grpc.aio.server()
    service_pb2_grpc.add_GRPCInferenceServiceServicer_to_server(fake, server)
    bound = server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    try:
        yield bound
    finally:
        await server.stop(None)
