"""One assistant turn: the two steps on the model server, the tokens split, measured, and cleaned up after.

Stage: 3 prompt … 6 split channels, driven from the adapter.
Owns: the order of the steps, when a turn is over and why, its usage, that a turn given up is cancelled.
Does not know: HTTP; how deltas are written.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from types import TracebackType
from typing import Final, Self

from gptoss_adapter.context import RequestRecord
from gptoss_adapter.errors import (
    ApiError,
    InternalError,
    InvalidRequestError,
    ServiceUnavailableError,
    TooManyRequestsError,
)
from gptoss_adapter.inference import GenerationStep, GenerationStream
from gptoss_adapter.metrics import Outcome
from gptoss_adapter.schemas.answers import (
    CompletionTokensDetails,
    FinishReasonName,
    PromptTokensDetails,
    Usage,
)
from gptoss_adapter.serving import Services
from gptoss_backend.contract import ChatRequest, Finished, FinishReason, SamplingParams, Started
from gptoss_backend.harmony.channels import ChannelSplitter, Delta

logger = logging.getLogger(__name__)

# the last response and the stream's end come together; a server that does not end it is not waited for
_STREAM_END_TIMEOUT_S: Final = 1.0


class Turn:
    """An async context manager: `start()`, then iterate the deltas of each response, then read the properties.

    Leaving it before the last delta cancels the generation.
    """

    def __init__(self, services: Services, chat: ChatRequest, sampling: SamplingParams, record: RequestRecord) -> None:
        self._server = services.model_server
        self._chat = chat
        self._sampling = sampling
        self._record = record
        served = services.served
        self._meter = services.metrics.meter(served.name.openai, served.profile_name, record.started_at)
        record.notes |= {"model": served.name.openai, "profile": served.profile_name}
        self._splitter = ChannelSplitter([tool.name for tool in chat.tools])
        self._stream: GenerationStream | None = None
        self._early: list[Delta] = []
        self._finished: Finished | None = None

    async def __aenter__(self) -> Self:
        """Begin to count the turn as in flight."""
        return self

    async def __aexit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Let go of the stream and record how the turn ended."""
        outcome = Outcome(self.finish_reason) if error is None else _outcome_of(error)
        self._meter.ended(outcome)
        self._write_notes(outcome)
        await self._let_go()

    async def start(self) -> None:
        """Render the prompt, submit it, and wait until the engine takes it up. Raises ApiError."""
        request_id = self._record.request_id
        prompt = await self._server.preprocess(self._chat, request_id)
        self._stream = self._server.generate(prompt, self._sampling, request_id)
        step = await self._next_step()
        if not isinstance(step.event, Started):
            raise self._broken_contract("its first response does not say that it started")
        self._meter.begun(step.event.prompt_tokens, step.event.cached_tokens)
        self._early = self._absorb(step)

    def __aiter__(self) -> Self:
        """Return itself."""
        return self

    async def __anext__(self) -> list[Delta]:
        """Wait for the next response and return what is new in it, possibly nothing. Raises ApiError."""
        if self._finished is not None:
            raise StopAsyncIteration
        return self._take_early() + self._absorb(await self._next_step())

    @property
    def finish_reason(self) -> FinishReasonName:
        """Why the turn is over. After the last delta only."""
        if self._end.finish_reason is FinishReason.LENGTH:
            return "length"
        return "tool_calls" if self._splitter.num_tool_calls else "stop"

    @property
    def usage(self) -> Usage:
        """What the turn cost. After the last delta only."""
        end = self._end
        return Usage(
            prompt_tokens=end.prompt_tokens,
            completion_tokens=end.completion_tokens,
            total_tokens=end.prompt_tokens + end.completion_tokens,
            prompt_tokens_details=PromptTokensDetails(cached_tokens=end.cached_tokens),
            completion_tokens_details=CompletionTokensDetails(reasoning_tokens=self._splitter.reasoning_tokens),
        )

    @property
    def _end(self) -> Finished:
        if self._finished is None:
            raise RuntimeError("the turn is not over")
        return self._finished

    async def _next_step(self) -> GenerationStep:
        assert self._stream is not None  # noqa: S101 (start() made it)
        try:
            return await anext(self._stream)
        except StopAsyncIteration:
            raise self._broken_contract("its stream ended without a last response") from None

    def _broken_contract(self, what: str) -> InternalError:
        logger.error("the generation failed: %s", what)
        return InternalError(self._record.request_id)

    def _absorb(self, step: GenerationStep) -> list[Delta]:
        if step.token_ids:
            self._meter.tokens(len(step.token_ids))
        deltas = self._splitter.push(step.token_ids)
        if isinstance(step.event, Finished):
            if step.event.finish_reason is FinishReason.CANCELLED:
                raise ServiceUnavailableError("The server ended this generation because it is shutting down.")
            self._finished = step.event
            deltas += self._splitter.finish()
        return deltas

    def _take_early(self) -> list[Delta]:
        early, self._early = self._early, []
        return early

    async def _let_go(self) -> None:
        """Read the finished stream to its end, else cancel it."""
        if self._stream is None:
            return
        if self._finished is not None:
            with contextlib.suppress(ApiError, TimeoutError, StopAsyncIteration):
                async with asyncio.timeout(_STREAM_END_TIMEOUT_S):
                    await anext(self._stream)
        self._stream.cancel()

    def _write_notes(self, outcome: Outcome) -> None:
        notes = self._record.notes
        notes["outcome"] = outcome.value
        if self._finished is not None:
            notes["prompt_tokens"] = self._finished.prompt_tokens
        notes["completion_tokens"] = self._meter.num_tokens
        if self._meter.first_token_s is not None:
            notes["ttft_ms"] = round(self._meter.first_token_s * 1000, 1)


def _outcome_of(error: BaseException) -> Outcome:
    if isinstance(error, (InvalidRequestError, TooManyRequestsError)):
        return Outcome.REFUSED
    # a client that goes away cancels the task, or leaves the generator unfinished
    if isinstance(error, (asyncio.CancelledError, GeneratorExit)):
        return Outcome.CANCELLED
    return Outcome.ERROR
