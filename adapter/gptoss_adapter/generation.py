"""One prompt on the model server, from its submission to its end, whatever its tokens are read as.

Stage: 4 schedule … 6, driven from the adapter.
Owns: when a generation is over and why, what it cost, that one given up is cancelled, its metrics and notes.
Does not know: HTTP, Harmony, how prompts are made.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from types import TracebackType
from typing import Final, Generic, Self, TypeVar

from gptoss_adapter.context import RequestRecord
from gptoss_adapter.errors import (
    ApiError,
    InternalError,
    InvalidRequestError,
    ServiceUnavailableError,
    TooManyRequestsError,
)
from gptoss_adapter.inference import GenerationStep, GenerationStream, PromptIds
from gptoss_adapter.metrics import GenerationMeter
from gptoss_adapter.raw_prompts import prompt_ids, token_ids
from gptoss_adapter.schemas.answers import FinishReasonName, Usage
from gptoss_adapter.serving import ServedModel, Services
from gptoss_adapter.stats_activity import Outcome
from gptoss_backend.contract import STOP_TOKENS, Finished, FinishReason, SamplingParams, Started, TokenLogprob
from gptoss_backend.harmony.vocabulary import FIRST_SPECIAL, RETURN

logger = logging.getLogger(__name__)

# the last response and the stream's end come together; a server that does not end it is not waited for
_STREAM_END_TIMEOUT_S: Final = 1.0

T_co = TypeVar("T_co", covariant=True)


class Generation(ABC, Generic[T_co]):
    """An async context manager: begin, then iterate what each response brings, then read the properties.

    Leaving it before the end cancels the generation.
    """

    _meter: GenerationMeter
    _started: Started

    def __init__(
        self,
        services: Services,
        served: ServedModel,
        sampling: SamplingParams,
        record: RequestRecord,
        *,
        shows_stop: bool = False,
    ) -> None:
        """shows_stop: the stop string or token that ends the text is its last part."""
        self._shows_stop = shows_stop
        self._services = services
        self._served = served
        self._sampling = replace(sampling, timeout_s=served.profile.request_timeout_s)
        self._record = record
        self._stream: GenerationStream | None = None
        self._early: list[T_co] = []  # the first response may bring the first token
        self._finished: Finished | None = None
        self._stopped = False  # by us, before the engine would have
        self._num_read = 0  # then, of the last response's tokens
        self._prompt_ids: PromptIds | None = None
        self._prompt_scores: list[TokenLogprob] = []
        self._token_ids: list[int] = []  # those that count as generated
        self._more_ids: list[int] = []  # to go on with, behind them
        self._before: Finished | None = None  # how it ended when it went on
        self._again: Started | None = None  # then

    async def __aenter__(self) -> Self:
        """Begin to count the generation as in flight."""
        model, profile = self._served.name.openai, self._served.profile_name
        began_at = self._record.generating_since or self._record.started_at
        self._meter = self._services.metrics.meter(model, profile, began_at)
        return self

    async def __aexit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Let go of the stream and record how the generation ended."""
        outcome = self._outcome(error)
        self._meter.ended(outcome, self._finished.timings if self._finished is not None else None)
        self._write_notes(outcome)
        await self._let_go(is_finished=self._finished is not None)

    def __aiter__(self) -> Self:
        """Return itself."""
        return self

    async def __anext__(self) -> list[T_co]:
        """Wait for the next response and return what is new in it, possibly nothing. Raises ApiError.

        The first comes with the first token.
        """
        if self._early:
            early, self._early = self._early, []
            return early
        if self.is_over:
            raise StopAsyncIteration
        if self._more_ids:
            return await self._go_on()
        return self._absorb(await self._next_step())

    @property
    def is_over(self) -> bool:
        """Nothing follows."""
        return self._stopped or self._finished is not None

    @property
    def finish_reason(self) -> FinishReasonName:
        """Why the generation is over. At its end only."""
        if not self.is_over:
            raise RuntimeError("the generation is not over")
        is_cut = self._finished is not None and self._finished.finish_reason is FinishReason.LENGTH
        return "length" if is_cut and not self._stopped else "stop"

    @property
    def usage(self) -> Usage:
        """What the generation has cost, the prompt included, from its beginning on. Whole at its end."""
        prompt = self._finished or self._started
        return Usage.of(
            prompt_tokens=prompt.prompt_tokens,
            cached_tokens=prompt.cached_tokens,
            completion_tokens=len(self._token_ids),
            reasoning_tokens=self._reasoning_tokens(),
        )

    @property
    def usage_of_going_on(self) -> Usage:
        """What of `usage` is the prompt's that it went on with: nothing, where it did not."""
        num, num_cached = (self._again.prompt_tokens, self._again.cached_tokens) if self._again else (0, 0)
        return Usage.of(prompt_tokens=num, cached_tokens=num_cached, completion_tokens=0, reasoning_tokens=0)

    @property
    def stop_string(self) -> str | None:
        """The stop string that ended the text, None where something else did."""
        return None

    @property
    def stop_reason(self) -> str | int | None:
        """What ended the text, as vLLM tells it: the stop string, or the stop token but `<|return|>`. At its end only.

        `<|return|>`, the vocabulary's own end, is told where it was named and would not have ended the text by itself.
        """
        if self.stop_string is not None:
            return self.stop_string
        if self._finished is None or self._finished.finish_reason is not FinishReason.STOP or not self._token_ids:
            return None
        last, sampling = self._token_ids[-1], self._sampling
        if last == RETURN and not sampling.ignore_eos:
            return None
        return last if last in STOP_TOKENS or last in sampling.stop_token_ids else None

    @property
    def prompt_token_ids(self) -> list[int]:
        """The prompt's tokens. Once it has begun."""
        assert self._prompt_ids is not None  # noqa: S101 (_begin() was given it)
        return token_ids(self._prompt_ids)

    @property
    def prompt_scores(self) -> list[TokenLogprob]:
        """How likely the prompt's tokens but the first were, where that was asked for. At its end."""
        return self._prompt_scores

    @property
    def token_ids(self) -> list[int]:
        """The tokens generated so far, special tokens and the one that ended it included."""
        return self._token_ids

    # --- what a reader of tokens fills in ---------------------------------------------------------------------------

    @abstractmethod
    def _read(self, token_ids: Sequence[int], logprobs: Sequence[TokenLogprob]) -> list[T_co]:
        """Return what these tokens bring. logprobs: one for each token, or none at all. May call `_stop_after`."""

    @abstractmethod
    def _read_rest(self) -> list[T_co]:
        """Return what was held back. Called once, after the last token."""

    def _following(self, finished: Finished) -> list[int]:
        """Return what to put behind the tokens so far for the model to go on, once; nothing: this is the end."""
        return []

    def _is_text(self, token: int) -> bool:
        """Whether a token that ended the generation would be text, had it not."""
        return token < FIRST_SPECIAL and token in self._sampling.stop_token_ids

    def _is_before_stops(self, num_read: int) -> bool:
        """Whether the last of `num_read` tokens of this response is one of the first `min_tokens`, as vLLM has it."""
        return len(self._token_ids) + num_read <= self._sampling.min_tokens

    def _reasoning_tokens(self) -> int:
        return 0

    # --- for it to call ---------------------------------------------------------------------------------------------

    async def _begin(self, prompt: PromptIds) -> None:
        """Submit the prompt and wait until the engine takes it up. Raises ApiError."""
        model, request_id = self._served.name, self._record.request_id
        self._prompt_ids = prompt
        self._stream = self._services.model_server.generate(model, prompt, self._sampling, request_id)
        step = await self._next_step()
        if not isinstance(step.event, Started):
            raise self._broken_contract("its first response does not say that it started")
        self._started = step.event
        self._meter.begun(step.event.prompt_tokens, step.event.cached_tokens)
        self._early = self._absorb(step)

    def _stop_after(self, num_read: int) -> None:
        """End the generation now; of the tokens being read only the first `num_read` count."""
        assert self._stream is not None  # noqa: S101 (these tokens came from it)
        self._stopped = True
        self._num_read = num_read
        self._stream.cancel()

    # --- responses --------------------------------------------------------------------------------------------------

    async def _next_step(self) -> GenerationStep:
        assert self._stream is not None  # noqa: S101 (_begin() made it)
        try:
            return await anext(self._stream)
        except StopAsyncIteration:
            raise self._broken_contract("its stream ended without a last response") from None

    def _absorb(self, step: GenerationStep) -> list[T_co]:
        token_ids, event = step.token_ids, step.event
        if token_ids:
            self._meter.tokens(len(token_ids))
        if isinstance(event, Finished) and event.finish_reason is FinishReason.CANCELLED:
            raise ServiceUnavailableError("The server ended this generation because it is shutting down.")
        logprobs = event.logprobs if event is not None else ()
        self._prompt_scores += event.prompt_logprobs if event is not None else ()
        num_shown = len(token_ids) - self._ends_silently(step)
        news = self._read(token_ids[:num_shown], logprobs[:num_shown])
        if self._stopped:
            self._token_ids += token_ids[: self._num_read]
            return news
        self._token_ids += token_ids
        if isinstance(event, Finished):
            if self._before is None and (more := self._following(event)):
                self._before, self._more_ids = event, more
                return news
            self._finished = _joined(self._before, event)
            news = news + self._read_rest()
        return news

    async def _go_on(self) -> list[T_co]:
        """Submit what there is with more behind it, and wait until the engine takes that up.

        Where it does not, be it for want of room, the answer ends as it did.
        """
        assert self._before is not None and self._prompt_ids is not None  # noqa: PT018, S101 (_absorb() saw to it)
        behind, self._more_ids = prompt_ids([*self._token_ids, *self._more_ids]), []
        await self._let_go(is_finished=True)
        prompt, sampling = PromptIds(self._prompt_ids.raw + behind.raw), self._left(self._before)
        try:
            model, request_id = self._served.name, self._record.request_id
            self._stream = self._services.model_server.generate(model, prompt, sampling, request_id)
            step = await self._next_step()
        except ApiError as error:
            logger.info("the answer ends with a call that nobody takes: %s", error)
            self._finished = self._before
            return self._read_rest()
        if not isinstance(step.event, Started):
            raise self._broken_contract("its first response does not say that it started")
        before, started = self._before, step.event
        self._record.num_went_on += 1
        self._again = started
        self._meter.went_on(started.prompt_tokens, started.cached_tokens)
        self._started = replace(
            started,
            prompt_tokens=before.prompt_tokens + started.prompt_tokens,
            cached_tokens=before.cached_tokens + started.cached_tokens,
        )
        return self._absorb(step)

    def _has_time_left(self, finished: Finished) -> bool:
        """Whether the request may go on for any more tokens and seconds."""
        sampling = self._sampling
        is_short = sampling.max_tokens is not None and len(self._token_ids) >= sampling.max_tokens
        return not is_short and (sampling.timeout_s is None or finished.timings.total_s < sampling.timeout_s)

    def _left(self, before: Finished) -> SamplingParams:
        """Return how the rest of the tokens are chosen."""
        sampling, count = self._sampling, len(self._token_ids)
        return replace(
            sampling,
            max_tokens=None if sampling.max_tokens is None else sampling.max_tokens - count,
            min_tokens=max(sampling.min_tokens - count, 0),
            timeout_s=None if sampling.timeout_s is None else sampling.timeout_s - before.timings.total_s,
            prompt_logprobs=None,  # they are told, and what stands behind is no prompt of the request's
        )

    def _ends_silently(self, step: GenerationStep) -> bool:
        """Whether the last token ended the generation and is, like a stop string, no text."""
        if not (isinstance(step.event, Finished) and step.event.finish_reason is FinishReason.STOP and step.token_ids):
            return False
        return not self._shows_stop and self._is_text(step.token_ids[-1])

    def _broken_contract(self, what: str) -> InternalError:
        logger.error("the generation failed: %s", what)
        return InternalError(self._record.request_id)

    # --- the end ----------------------------------------------------------------------------------------------------

    async def _let_go(self, *, is_finished: bool) -> None:
        """Read the finished stream to its end, else cancel it."""
        if self._stream is None:
            return
        if is_finished:
            with contextlib.suppress(ApiError, TimeoutError, StopAsyncIteration):
                async with asyncio.timeout(_STREAM_END_TIMEOUT_S):
                    await anext(self._stream)
        self._stream.cancel()

    def _outcome(self, error: BaseException | None) -> Outcome:
        if isinstance(error, (InvalidRequestError, TooManyRequestsError)):
            return Outcome.REFUSED
        # a client that goes away cancels the task, or leaves the generator unfinished
        if isinstance(error, (asyncio.CancelledError, GeneratorExit)) or (error is None and not self.is_over):
            return Outcome.CANCELLED
        return Outcome.ERROR if error is not None else Outcome(self.finish_reason)

    def _write_notes(self, outcome: Outcome) -> None:
        """Add to the log line; a request may have several generations."""
        notes = self._record.notes
        if notes.get("outcome") not in (Outcome.ERROR.value, Outcome.REFUSED.value):  # the cause, not what it led to
            notes["outcome"] = outcome.value
        if self.is_over:
            notes["prompt_tokens"] = self.usage.prompt_tokens
            notes["cached_tokens"] = self.usage.prompt_tokens_details.cached_tokens
        if self._finished is not None:
            notes.setdefault("queue_ms", round(self._finished.timings.queue_s * 1000, 1))
        num_before = notes.get("completion_tokens", 0)
        assert isinstance(num_before, int)  # noqa: S101 (nobody else writes it)
        notes["completion_tokens"] = num_before + self._meter.num_tokens
        if self._meter.first_token_s is not None:
            notes.setdefault("ttft_ms", round(self._meter.first_token_s * 1000, 1))


def _joined(before: Finished | None, last: Finished) -> Finished:
    """Return the end of a generation that went on once, with what both parts have cost."""
    if before is None:
        return last
    return replace(
        last,
        prompt_tokens=before.prompt_tokens + last.prompt_tokens,
        cached_tokens=before.cached_tokens + last.cached_tokens,
        completion_tokens=before.completion_tokens + last.completion_tokens,
        timings=replace(before.timings, total_s=before.timings.total_s + last.timings.total_s),
    )
