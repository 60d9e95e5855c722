"""OpenTelemetry traces: a span for each request that generates, and one for each phase of its way.

Stage: around all of a request's way.
Owns: which requests are traced, and where they are watched: as HTTP, at the model server's door, around a tool.
Does not know: what a route does; what is told of a request (request_trace.py).

Only imported where `adapter.otlp_endpoint` is set.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

from opentelemetry.trace import Span, SpanKind, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gptoss_adapter.context import REQUEST_ID_HEADER, current_record
from gptoss_adapter.inference import GenerationStep, GenerationStream, ModelServer, ModelServerStatus, PromptIds
from gptoss_adapter.paths import CHAT_COMPLETIONS, COMPACT, COMPLETIONS, MESSAGES, RESPONSES
from gptoss_adapter.request_trace import Attributes, RequestTrace, TracedGeneration
from gptoss_adapter.serving import VERSION
from gptoss_adapter.tracing_delivery import Delivery
from gptoss_backend.contract import ChatRequest, SamplingParams
from gptoss_backend.model_names import ModelName

# the path of a request that generates, and the conventions' word for what it does
_OPERATIONS: Final = {
    CHAT_COMPLETIONS: "chat",
    COMPLETIONS: "text_completion",
    RESPONSES: "chat",
    COMPACT: "chat",
    MESSAGES: "chat",
}
_W3C: Final = TraceContextTextMapPropagator()

_current: ContextVar[RequestTrace | None] = ContextVar("request_trace", default=None)


class Traces:
    """The places where requests are watched, and where their spans go."""

    def __init__(self, endpoint: str) -> None:
        """endpoint: of an OTLP collector, over HTTP."""
        self._delivery = Delivery(endpoint, VERSION)

    def around(self, app: ASGIApp) -> TraceRequests:
        """Return the app, with its requests traced."""
        return TraceRequests(app, self._delivery.tracer)

    def at(self, server: ModelServer) -> TracedModelServer:
        """Return the model server, with its work shown in the request's trace."""
        return TracedModelServer(server)

    @contextmanager
    def around_tool(self, server: str, tool: str) -> Iterator[None]:
        """Show the body, a call of an MCP server's tool, in the request's trace."""
        trace, begun_ns = _current.get(), time.time_ns()
        try:
            yield
        finally:
            if trace is not None:
                about: Attributes = {"gen_ai.operation.name": "execute_tool", "gen_ai.tool.name": tool}
                trace.phase("execute_tool", begun_ns, time.time_ns(), about | {"gptoss.mcp_server": server})

    async def close(self) -> None:
        """Deliver what is left."""
        await self._delivery.close()


class TraceRequests:
    """ASGI middleware around the whole app: makes the span, in the client's trace where it names one."""

    def __init__(self, app: ASGIApp, tracer: Tracer) -> None:
        self._app = app
        self._tracer = tracer

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Serve one request."""
        if scope["type"] != "http" or scope["method"] != "POST" or scope["path"] not in _OPERATIONS:
            await self._app(scope, receive, send)
            return
        trace = RequestTrace(self._tracer, self._span_of(scope))
        token = _current.set(trace)

        async def send_and_note(message: Message) -> None:
            if message["type"] == "http.response.start":
                trace.answered(message["status"], Headers(raw=message["headers"]).get(REQUEST_ID_HEADER, ""))
            await send(message)

        try:
            await self._app(scope, receive, send_and_note)
        except BaseException as error:
            trace.failed(error)
            raise
        finally:
            _current.reset(token)
            record = current_record()
            if "model" in record.notes:
                trace.served_by(_OPERATIONS[scope["path"]], str(record.notes["model"]), str(record.notes["profile"]))
            if record.goes_on is not None:
                record.goes_on.add_done_callback(lambda _: trace.end(record.num_went_on))
            else:
                trace.end(record.num_went_on)

    def _span_of(self, scope: Scope) -> Span:
        operation = _OPERATIONS[scope["path"]]
        return self._tracer.start_span(
            operation,
            _W3C.extract(Headers(scope=scope)),
            SpanKind.SERVER,
            {
                "gen_ai.operation.name": operation,
                "gen_ai.provider.name": "gptoss",
                "http.request.method": "POST",
                "http.route": scope["path"],
                "url.path": scope["path"],
            },
        )


class TracedModelServer:
    """A model server whose work shows in the trace of the request it is done for."""

    def __init__(self, server: ModelServer) -> None:
        self._server = server

    async def preprocess(self, chat: ChatRequest, request_id: str) -> PromptIds:
        """Return the chat's prompt. Raises ApiError."""
        trace, begun_ns = _current.get(), time.time_ns()
        try:
            return await self._server.preprocess(chat, request_id)
        finally:
            if trace is not None:
                trace.phase("preprocess", begun_ns, time.time_ns())

    def generate(
        self, model: ModelName, prompt: PromptIds, sampling: SamplingParams, request_id: str
    ) -> GenerationStream:
        """Submit the prompt and return its stream."""
        stream, trace = self._server.generate(model, prompt, sampling, request_id), _current.get()
        return stream if trace is None else _TracedStream(stream, TracedGeneration(trace, prompt, sampling))

    async def status(self) -> ModelServerStatus:
        """Ask the server itself."""
        return await self._server.status()

    async def close(self) -> None:
        """Close the server's connection."""
        await self._server.close()


class _TracedStream:
    """Looks at what passes through."""

    def __init__(self, stream: GenerationStream, generation: TracedGeneration) -> None:
        self._stream = stream
        self._generation = generation

    def __aiter__(self) -> _TracedStream:
        return self

    async def __anext__(self) -> GenerationStep:
        try:
            step = await anext(self._stream)
        except StopAsyncIteration:
            raise
        except BaseException as error:
            self._generation.failed(error)
            raise
        self._generation.saw(step)
        return step

    def cancel(self) -> None:
        self._stream.cancel()
        self._generation.end()
