"""POST /v1/completions.

Stage: 1 route, 2 validate, then the rest in order, as `Continuation` runs it.
Owns: what happens in which order, whole and streamed, for each copy of each prompt.
Does not know: gRPC, Harmony, how an event is framed.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass
from typing import Final

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from gptoss_adapter.context import current_record
from gptoss_adapter.continuation import Continuation
from gptoss_adapter.disconnect import until_disconnect
from gptoss_adapter.errors import InvalidRequestError, invalid_value
from gptoss_adapter.heads import AnswerHead, Frame
from gptoss_adapter.paths import COMPLETIONS
from gptoss_adapter.prompting import completion_sampling
from gptoss_adapter.raw_prompts import decode_text, prompt_ids, raw_prompts
from gptoss_adapter.sampling_plan import check_answer_fields, copies_of, scored_once
from gptoss_adapter.schemas.answers import ErrorBody, TextCompletion, Usage
from gptoss_adapter.schemas.completions import CompletionRequest
from gptoss_adapter.serving import ServedModel, Services, Shared
from gptoss_adapter.sse import DONE, STREAMED, EventStream
from gptoss_adapter.strict_routes import StrictJsonRoute
from gptoss_adapter.structured import asked_form, check_form
from gptoss_adapter.text_chunks import TextChoiceBuilder, TextChunkWriter
from gptoss_adapter.together import gather, interleave
from gptoss_backend.contract import MOST_TOLD_OF_PROMPT, TokenLogprob

_LONG: Final = 16 * 1024
"""Characters or tokens of all answers' prompts, from which on the model's length is asked for first."""

router = APIRouter(tags=["completions"], route_class=StrictJsonRoute)


@dataclass(frozen=True, slots=True)
class _Plan:
    """The continuations in the order of their indices, the copies of one prompt side by side."""

    continuations: list[Continuation]
    echoes: list[str]
    """What each text begins with."""
    num_copies: int

    def usage(self) -> Usage:
        """Return what all cost, at their end."""
        usages = [one.usage for one in self.continuations]
        starts = range(0, len(usages), self.num_copies)
        return Usage.of_prompts([Usage.of_copies(usages[start : start + self.num_copies]) for start in starts])

    def prompt_scores(self, index: int) -> list[TokenLogprob]:
        """Return, at its end, how likely the prompt of a continuation was: the first of its copies has it scored."""
        return self.continuations[index - index % self.num_copies].prompt_scores


@router.post(
    COMPLETIONS,
    response_model=TextCompletion,
    responses={200: STREAMED, "4XX": {"model": ErrorBody}, "5XX": {"model": ErrorBody}},
)
async def create_completion(body: CompletionRequest, request: Request, services: Shared) -> Response:
    """Continue raw text or token ids, streamed or whole."""
    served = services.route(body.model, body.profile)
    plan = await _plan(body, served, services)
    head = AnswerHead.of(served, "cmpl")
    if body.stream:
        frame = Frame(head, "text_completion", include_usage=body.include_usage, continuous_usage=body.continuous_usage)
        return EventStream(_stream_answer(plan, frame, body), services.settings.adapter.keepalive_s)
    answer = await _whole_answer(plan, head, body, request)
    return Response(answer.json_bytes(), media_type="application/json")


async def _plan(body: CompletionRequest, served: ServedModel, services: Services) -> _Plan:
    """Raises InvalidRequestError."""
    num_prompts, num_copies, record = len(body.prompts), body.n or 1, current_record()
    check_form(asked_form(body), services.settings.adapter)
    check_answer_fields(body, num_prompts * num_copies, services.settings.adapter.max_choices)
    record.count_answers(num_prompts * num_copies)
    samplings = scored_once(copies_of(completion_sampling(body, served.profile), num_copies))
    is_long = sum(map(len, body.prompts)) * num_copies > _LONG
    max_model_len = await services.max_model_len(served.name) if is_long else None
    prompts = await raw_prompts(body, services.encoding_turns, max_model_len)
    _check_scores(prompts, num_copies, samplings[0].prompt_logprobs)
    echoes = [await decode_text(prompt) if body.echo else "" for prompt in prompts]
    _check_echoes(echoes, num_copies, services.settings.adapter.max_body_bytes)
    return _Plan(
        continuations=[
            Continuation(
                services,
                served,
                prompt,
                sampling,
                record,
                stop=body.stop_strings,
                shows_stop=bool(body.include_stop_str_in_output),
                shows_special=body.skip_special_tokens is False,
                is_prompt_only=body.max_tokens == 0,
            )
            for prompt in map(prompt_ids, prompts)  # the copies of one prompt share its bytes
            for sampling in samplings
        ],
        echoes=[echo for echo in echoes for _ in samplings],
        num_copies=num_copies,
    )


def _check_scores(prompts: list[list[int]], num_copies: int, num_likeliest: int | None) -> None:
    """Raise InvalidRequestError for what no engine sees to: each has one prompt, and all answers tell of theirs."""
    num_told = 0 if num_likeliest is None else sum(map(len, prompts)) * num_copies * (1 + num_likeliest)
    if num_told > MOST_TOLD_OF_PROMPT:
        message = (
            f"The answers would tell {num_told} log probabilities of prompts; this server tells {MOST_TOLD_OF_PROMPT}."
        )
        raise invalid_value(message, "prompt")


def _check_echoes(echoes: list[str], num_copies: int, most: int) -> None:
    num_chars = sum(map(len, echoes)) * num_copies
    if num_chars > most:
        message = f"'echo' would repeat {num_chars} characters in {num_copies} answers; this server repeats {most}."
        raise invalid_value(message, "echo")


async def _whole_answer(plan: _Plan, head: AnswerHead, body: CompletionRequest, request: Request) -> TextCompletion:
    told: dict[str, bool] = {
        "logprobs": body.logprobs is not None,
        "token_ids": bool(body.return_token_ids),
        "prompt_logprobs": body.prompt_logprobs is not None,
    }
    builders = [TextChoiceBuilder(index, echo, **told) for index, echo in enumerate(plan.echoes)]
    async with until_disconnect(request.receive):
        await gather([_fill(*one) for one in zip(builders, plan.continuations, strict=True)])
    choices = [
        builder.choice(continuation, plan.prompt_scores(index))
        for index, (builder, continuation) in enumerate(zip(builders, plan.continuations, strict=True))
    ]
    return TextCompletion(object="text_completion", choices=choices, usage=plan.usage(), **head.fields())


async def _fill(choice: TextChoiceBuilder, continuation: Continuation) -> None:
    async with continuation:
        await _start(continuation)
        async for deltas in continuation:
            choice.add(deltas)


async def _stream_answer(plan: _Plan, frame: Frame, body: CompletionRequest) -> AsyncGenerator[bytes, None]:
    choices = [
        _stream_choice(continuation, TextChunkWriter(frame, index, echo, token_ids=bool(body.return_token_ids)))
        for index, (continuation, echo) in enumerate(zip(plan.continuations, plan.echoes, strict=True))
    ]
    async with aclosing(interleave(choices)) as chunks:
        async for chunk in chunks:
            yield chunk
    yield frame.usage(plan.usage()) + DONE


async def _stream_choice(continuation: Continuation, chunks: TextChunkWriter) -> AsyncGenerator[bytes, None]:
    async with continuation:
        await _start(continuation)
        chunks.count(continuation)
        told = chunks.begin()
        async for deltas in continuation:
            chunks.count(continuation)
            if told := told + chunks.deltas(deltas):
                yield chunks.with_tokens(told, continuation)
            told = b""
        last = chunks.finish(continuation.finish_reason, continuation.stop_reason)
        yield chunks.with_tokens(told + last, continuation)


async def _start(continuation: Continuation) -> None:
    try:
        await continuation.start()
    except InvalidRequestError as error:
        if error.param in (None, "messages"):  # no field of sampling
            error.param = "prompt"
        raise
