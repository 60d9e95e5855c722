"""The span of one request, and of each phase of its way.

Stage: around all of a request's way.
Owns: the spans' names and attributes, of the GenAI semantic conventions where they have a word.
Does not know: where a request is watched (tracing.py), how spans are delivered.

Prompts and answers are never in a span.
"""

from __future__ import annotations

import time

from opentelemetry.trace import Span, StatusCode, Tracer, set_span_in_context
from opentelemetry.util.types import AttributeValue

from gptoss_adapter.errors import ApiError
from gptoss_adapter.inference import GenerationStep, PromptIds
from gptoss_backend.contract import Finished, SamplingParams, Started, Timings

Attributes = dict[str, AttributeValue]


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

    def ended_generation(self, generation: TracedGeneration) -> None:
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


class TracedGeneration:
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
