"""One prompt on the model server, from its submission to its end, whatever its tokens are read as.

Stage: 4 schedule … 6, driven from the adapter.
Owns: when a generation is over and why, what it cost, that one given up is cancelled, its metrics.
Does not know: HTTP, Harmony, how prompts are made, what an answer that goes on adds up to (going_on), the log line.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from types import TracebackType
from typing import Generic, Self, TypeVar

from gptoss_adapter.context import RequestRecord
from gptoss_adapter.errors import ApiError, InternalError, ServiceUnavailableError
from gptoss_adapter.generation_notes import note_end, outcome_of
from gptoss_adapter.going_on import GoingOn
from gptoss_adapter.inference import STREAM_END_TIMEOUT_S, GenerationStep, GenerationStream, PromptIds
from gptoss_adapter.metrics import GenerationMeter
from gptoss_adapter.raw_prompts import token_ids
from gptoss_adapter.schemas.answers import FinishReasonName, Usage
from gptoss_adapter.serving import ServedModel, Services
from gptoss_backend.contract import STOP_TOKENS, Finished, FinishReason, SamplingParams, Started, TokenLogprob
from gptoss_backend.harmony.vocabulary import FIRST_SPECIAL, RETURN

logger = logging.getLogger(__name__)

T_co = TypeVar("T_co", covariant=True)


class Generation(ABC, Generic[T_co]):
    """An async context manager: begin, then iterate what each response brings, then read the properties.

    Leaving it before the end cancels the generation.
    """

    _meter: GenerationMeter
    _prompt_ids: PromptIds
    _started: Started

    def __init__(
        self,
        services: Services,
        served: ServedModel,
        sampling: SamplingParams,
        record: RequestRecord,
        *,
        shows_stop: bool = False,
        is_prompt_only: bool = False,
    ) -> None:
        """shows_stop: the stop string or token that ends the text is its last part.

        is_prompt_only: whatever is generated is not asked for; the engine computes no prompt without a token after it.
        """
        self._shows_stop = shows_stop
        self._is_prompt_only = is_prompt_only
        self._services = services
        self._served = served
        self._sampling = replace(sampling, timeout_s=served.profile.request_timeout_s)
        self._record = record
        self._stream: GenerationStream | None = None
        self._early: list[T_co] = []  # the first response may bring the first token
        self._finished: Finished | None = None
        self._stopped = False  # by us, before the engine would have
        self._num_read = 0  # then, of the last response's tokens
        self._prompt_scores: list[TokenLogprob] = []
        self._token_ids: list[int] = []  # those that count as generated
        self._going_on: GoingOn | None = None

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
        finished = self._finished
        outcome = outcome_of(error, self.finish_reason if self.is_over else None)
        self._meter.ended(outcome, finished.timings if finished is not None else None)
        note_end(self._record.notes, outcome, self._meter, finished, self.usage if self.is_over else None)
        await self._let_go(is_finished=finished is not None)

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
        if self._going_on is not None and not self._going_on.has_begun:
            return await self._go_on(self._going_on)
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
        return "length" if self._is_prompt_only or (is_cut and not self._stopped) else "stop"

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
        nothing = Usage.of(prompt_tokens=0, cached_tokens=0, completion_tokens=0, reasoning_tokens=0)
        return nothing if self._going_on is None else self._going_on.usage

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
        self._prompt_ids = prompt
        self._submit(prompt, self._sampling)
        step = await self._next_step()
        self._started = self._start_in(step)
        self._meter.begun(self._started.prompt_tokens, self._started.cached_tokens)
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
        if self._is_prompt_only:
            step = replace(step, token_ids=[])
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
            if self._going_on is None and (more := self._following(event)):
                self._going_on = GoingOn(event, self._prompt_ids, self._token_ids, more)
                return news
            self._finished = event if self._going_on is None else self._going_on.whole(event)
            news = news + self._read_rest()
        return news

    async def _go_on(self, going_on: GoingOn) -> list[T_co]:
        """Submit what there is with more behind it, and wait until the engine takes that up.

        Where it does not, be it for want of room, the answer ends as it did.
        """
        await self._let_go(is_finished=True)
        try:
            self._submit(going_on.prompt, going_on.sampling(self._sampling))
            step = await self._next_step()
        except ApiError as error:
            logger.info("the answer ends with a call that nobody takes: %s", error)
            self._finished = going_on.before
            return self._read_rest()
        started = self._start_in(step)
        self._record.num_went_on += 1
        self._meter.went_on(started.prompt_tokens, started.cached_tokens)
        self._started = going_on.begin(started)
        return self._absorb(step)

    def _submit(self, prompt: PromptIds, sampling: SamplingParams) -> None:
        model, request_id = self._served.name, self._record.request_id
        self._stream = self._services.model_server.generate(model, prompt, sampling, request_id)

    def _start_in(self, step: GenerationStep) -> Started:
        if not isinstance(step.event, Started):
            raise self._broken_contract("its first response does not say that it started")
        return step.event

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
                async with asyncio.timeout(STREAM_END_TIMEOUT_S):
                    await anext(self._stream)
        self._stream.cancel()
