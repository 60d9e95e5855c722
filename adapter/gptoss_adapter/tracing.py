"""OpenTelemetry traces: a span for each request that generates, and one for each phase of its way.

Stage: around all of a request's way.
Owns: what is traced; the spans' names and attributes, of the GenAI semantic conventions where they have a word.
Does not know: what a route does. It watches a request from both ends: as HTTP, and at the model server's door.

Only imported where `adapter.otlp_endpoint` is set. Prompts and answers are never in a span.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

from opentelemetry.trace import Span, SpanKind, StatusCode, Tracer, set_span_in_context
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator
from opentelemetry.util.types import AttributeValue
from starlette.datastructures import Headers
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from gptoss_adapter.context import REQUEST_ID_HEADER, current_record
from gptoss_adapter.errors import ApiError
from gptoss_adapter.inference import GenerationStep, GenerationStream, ModelServer, ModelServerStatus, PromptIds
from gptoss_adapter.paths import CHAT_COMPLETIONS, COMPLETIONS, MESSAGES, RESPONSES
from gptoss_adapter.serving import VERSION
from gptoss_adapter.tracing_delivery import Delivery
from gptoss_backend.contract import ChatRequest, Finished, SamplingParams, Started, Timings
from gptoss_backend.model_names import ModelName

# the path of a request that generates, and the conventions' word for what it does
_OPERATIONS: Final = {
    CHAT_COMPLETIONS: "chat",
    COMPLETIONS: "text_completion",
    RESPONSES: "chat",
    MESSAGES: "chat",
}
_W3C: Final = TraceContextTextMapPropagator()
Attributes = dict[str, AttributeValue]


class Traces:
    """The two places where requests are watched, and where their spans go."""

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


class RequestTrace:
    """The span of one request, and what is learnt of it on the way."""

    def __init__(self, tracer: Tracer, span: Span) -> None:
        self._tracer = tracer
        self._span = span
        self._context = set_span_in_context(span)
        self._begun_ns = time.time_ns()
        self._prompts: dict[bytes, Started] = {}
        self._num_generations = 0
        self._num_output_tokens = 0
        self._finish_reasons: list[str] = []
        self._first_token_ns: int | None = None

    def phase(self, name: str, begun_ns: int, ended_ns: int, attributes: Attributes | None = None) -> None:
        """Add a phase that is over."""
        child = self._tracer.start_span(name, self._context, start_time=begun_ns, attributes=attributes)
        child.end(max(begun_ns, ended_ns))

    def failed(self, error: BaseException) -> None:
        """Note why it ends without an answer, or amid one."""
        is_ours = not isinstance(error, ApiError) or error.status >= 500
        self._fail((error.code if isinstance(error, ApiError) else None) or type(error).__name__, is_ours=is_ours)

    def began_generation(self, sampling: SamplingParams) -> int:
        """Count one more generation and return its number, from 0: that of the answer, where none goes on."""
        self._span.set_attributes(_sampling_attributes(sampling))
        self._num_generations += 1
        return self._num_generations - 1

    def ended_generation(self, generation: _Generation) -> None:
        """Add up what an answer came to."""
        self._num_output_tokens += generation.num_tokens
        if generation.started is not None:  # several answers to one prompt compute it once
            self._prompts.setdefault(generation.prompt.raw, generation.started)
        if generation.finish_reason is not None:
            self._finish_reasons.append(generation.finish_reason)
        if generation.first_token_ns is not None:
            self._first_token_ns = min(self._first_token_ns or generation.first_token_ns, generation.first_token_ns)

    def answered(self, status: int, request_id: str) -> None:
        """Note the head of the HTTP response."""
        self._span.set_attributes({"http.response.status_code": status, "gptoss.request_id": request_id})
        if status >= 400:
            self._fail(str(status), is_ours=status >= 500)

    def served_by(self, operation: str, model: str, profile: str) -> None:
        """Note what it was routed to, as far as it came."""
        self._span.update_name(f"{operation} {model}")
        self._span.set_attributes(
            {"gen_ai.request.model": model, "gen_ai.response.model": model, "gptoss.profile": profile}
        )

    def end(self, num_went_on: int) -> None:
        """The request is over. num_went_on: of its answers, those that took two generations."""
        num_answers = self._num_generations - num_went_on
        prompts = self._prompts.values()
        attributes: Attributes = {
            "gen_ai.usage.input_tokens": sum(started.prompt_tokens for started in prompts),
            "gen_ai.usage.cache_read.input_tokens": sum(started.cached_tokens for started in prompts),
            "gen_ai.usage.output_tokens": self._num_output_tokens,
        }
        if self._finish_reasons:
            attributes["gen_ai.response.finish_reasons"] = self._finish_reasons
        if num_answers > 1:
            attributes["gen_ai.request.choice.count"] = num_answers
        if self._first_token_ns is not None:
            attributes["gen_ai.response.time_to_first_chunk"] = (self._first_token_ns - self._begun_ns) / 1e9
        if self._num_generations:
            self._span.set_attributes(attributes)
        self._span.end()

    def _fail(self, kind: str, *, is_ours: bool) -> None:
        self._span.set_attribute("error.type", kind)
        if is_ours:  # as HTTP's conventions have it: a client's mistake is no failure of the server
            self._span.set_status(StatusCode.ERROR)


_current: ContextVar[RequestTrace | None] = ContextVar("request_trace", default=None)


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
        return stream if trace is None else _TracedStream(stream, _Generation(trace, prompt, sampling))

    async def status(self) -> ModelServerStatus:
        """Ask the server itself."""
        return await self._server.status()

    async def close(self) -> None:
        """Close the server's connection."""
        await self._server.close()


class _TracedStream:
    """Looks at what passes through."""

    def __init__(self, stream: GenerationStream, generation: _Generation) -> None:
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


class _Generation:
    """What is seen of one generation; its phases are made at its end."""

    def __init__(self, trace: RequestTrace, prompt: PromptIds, sampling: SamplingParams) -> None:
        self._trace = trace
        self._number = trace.began_generation(sampling)
        self._submitted_ns = time.time_ns()
        self._started_ns: int | None = None
        self._is_over = False
        self.prompt = prompt
        self.started: Started | None = None
        self.first_token_ns: int | None = None
        self.num_tokens = 0
        self.finish_reason: str | None = None

    def saw(self, step: GenerationStep) -> None:
        """Note a response."""
        if isinstance(step.event, Started):
            self.started, self._started_ns = step.event, time.time_ns()
        if step.token_ids and self.first_token_ns is None:
            self.first_token_ns = time.time_ns()
        self.num_tokens += len(step.token_ids)
        if isinstance(step.event, Finished):
            self.finish_reason = step.event.finish_reason.value
            self.end(step.event.timings)

    def failed(self, error: BaseException) -> None:
        """Note an error, or that nobody waits any more."""
        self._trace.failed(error)
        self.end()

    def end(self, timings: Timings | None = None) -> None:
        """Make the phases: of the engine's timings, else of what was seen. Again: nothing."""
        if self._is_over:
            return
        self._is_over = True
        begun_ns = self._submitted_ns
        for name, ended_ns in zip(("queue", "prefill", "decode"), self._ends_ns(timings), strict=False):
            self._trace.phase(name, begun_ns, ended_ns, {"gptoss.choice": self._number})
            begun_ns = ended_ns
        self._trace.ended_generation(self)

    def _ends_ns(self, timings: Timings | None) -> list[int]:
        """Return the ends of those phases that were reached."""
        if timings is not None:
            times_s = (timings.queue_s, timings.first_token_s, timings.total_s)
            return [self._submitted_ns + int(seconds * 1e9) for seconds in times_s]
        seen = [ended_ns for ended_ns in (self._started_ns, self.first_token_ns) if ended_ns is not None]
        return [*seen, time.time_ns()]


def _sampling_attributes(sampling: SamplingParams) -> Attributes:
    attributes: Attributes = {
        "gen_ai.request.temperature": sampling.temperature,
        "gen_ai.request.top_p": sampling.top_p,
        "gen_ai.request.frequency_penalty": sampling.frequency_penalty,
        "gen_ai.request.presence_penalty": sampling.presence_penalty,
    }
    if sampling.top_k:
        attributes["gen_ai.request.top_k"] = sampling.top_k
    if sampling.max_tokens is not None:
        attributes["gen_ai.request.max_tokens"] = sampling.max_tokens
    if sampling.seed is not None:
        attributes["gen_ai.request.seed"] = sampling.seed
    return attributes
