"""POST /v1/chat/completions.

Stage: 1 route, 2 validate, then the rest in order, as `Turn` runs it.
Owns: what happens in which order, whole and streamed, for one choice or several.
Does not know: gRPC, Harmony, how an event is framed.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import AbstractContextManager, aclosing
from dataclasses import replace
from typing import Any

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from gptoss_adapter.chunks import AnswerStyle, ChoiceBuilder, ChunkWriter
from gptoss_adapter.context import current_record
from gptoss_adapter.disconnect import until_disconnect
from gptoss_adapter.errors import invalid_value
from gptoss_adapter.heads import AnswerHead, Frame
from gptoss_adapter.paths import CHAT_COMPLETIONS
from gptoss_adapter.prompt_logprobs import prompt_logprobs
from gptoss_adapter.prompting import chat_request, check_length, naming_tools_of_chats, sampling_params
from gptoss_adapter.sampling_plan import check_answer_fields, copies_of, scored_once
from gptoss_adapter.schemas.answers import ChatCompletion, Choice, ErrorBody, Usage
from gptoss_adapter.schemas.chat import ChatCompletionRequest
from gptoss_adapter.serving import ServedModel, Services, Shared
from gptoss_adapter.sse import DONE, STREAMED, EventStream
from gptoss_adapter.strict_routes import StrictJsonRoute
from gptoss_adapter.together import gather, interleave
from gptoss_adapter.turn import ChatPrompt, Turn
from gptoss_backend.contract import SAMPLING_CODEC, SamplingParams

router = APIRouter(tags=["chat"], route_class=StrictJsonRoute)


@router.post(
    CHAT_COMPLETIONS,
    response_model=ChatCompletion,
    responses={200: STREAMED, "4XX": {"model": ErrorBody}, "5XX": {"model": ErrorBody}},
)
async def create_chat_completion(body: ChatCompletionRequest, request: Request, services: Shared) -> Response:
    """Continue a chat by one assistant turn, or by several to choose from, streamed or whole."""
    served = services.route(body.model, body.profile)
    turns = _plan(body, served, services)
    head = AnswerHead.of(served, "chatcmpl", body.service_tier)
    style = AnswerStyle(
        include_reasoning=body.tells_reasoning,
        mirror_reasoning_content=services.settings.adapter.mirror_reasoning_content,
        logprobs=bool(body.logprobs),
        token_ids=bool(body.return_token_ids),
        prompt_logprobs=body.prompt_logprobs is not None,
    )
    if body.stream:
        frame = Frame(
            head,
            "chat.completion.chunk",
            include_usage=body.include_usage,
            continuous_usage=body.continuous_usage,
        )
        naming = naming_tools_of_chats(body)
        return EventStream(_stream_answer(turns, frame, style, naming), services.settings.adapter.keepalive_s)
    with naming_tools_of_chats(body):
        answer = await _whole_answer(turns, head, style, request)
    return Response(answer.json_bytes(), media_type="application/json")


def _plan(body: ChatCompletionRequest, served: ServedModel, services: Services) -> list[Turn]:
    """Return the turns, one a choice, not yet begun. Raises InvalidRequestError."""
    count, record = body.n or 1, current_record()
    check_length(body, services.settings.adapter)
    check_answer_fields(body, count, services.settings.adapter.max_choices)
    record.count_answers(count)
    chat = chat_request(body, served.profile, services.today())
    prompt = ChatPrompt(services.model_server, chat, record.request_id)
    samplings = copies_of(sampling_params(body, served.profile), count)
    if count > 1:
        _check_copies(replace(samplings[0], structure=prompt.structure), count, services)
    return [
        Turn(
            services,
            served,
            chat,
            sampling,
            record,
            stop=body.stop_strings,
            shows_stop=bool(body.include_stop_str_in_output),
            prompt=prompt,
            goes_on=not body.return_token_ids,  # what it is told is no token of the answer
        )
        for sampling in scored_once(samplings)
    ]


def _check_copies(sampling: SamplingParams, count: int, services: Services) -> None:
    """Raise InvalidRequestError where what travels with each copy, its schemas above all, is too much for all."""
    num_bytes, most = count * len(SAMPLING_CODEC.encode(sampling)), 2 * services.settings.adapter.max_body_bytes
    if num_bytes > most:
        message = f"{count} answers to this request are {num_bytes} bytes for the engine; this server sends {most}."
        raise invalid_value(message, "n")


async def _whole_answer(
    turns: Sequence[Turn], head: AnswerHead, style: AnswerStyle, request: Request
) -> ChatCompletion:
    answers = [_whole_choice(turn, ChoiceBuilder(style, index)) for index, turn in enumerate(turns)]
    async with until_disconnect(request.receive):
        choices = await gather(answers)
    told: dict[str, Any] = {"prompt_token_ids": turns[0].prompt_token_ids} if style.token_ids else {}
    if style.prompt_logprobs:
        told["prompt_logprobs"] = prompt_logprobs(turns[0].prompt_scores)
    return ChatCompletion(object="chat.completion", choices=choices, usage=_usage(turns), **told, **head.fields())


async def _whole_choice(turn: Turn, choice: ChoiceBuilder) -> Choice:
    async with turn:
        await turn.start()
        async for deltas in turn:
            choice.add(deltas)
    return choice.choice(turn)


async def _stream_answer(
    turns: Sequence[Turn], frame: Frame, style: AnswerStyle, naming: AbstractContextManager[None]
) -> AsyncGenerator[bytes, None]:
    """naming: makes errors name the request's fields."""
    writers = [ChunkWriter(frame, style, index) for index in range(len(turns))]
    choices = [_stream_choice(turn, writers[:index], writers[index]) for index, turn in enumerate(turns)]
    with naming:
        async with aclosing(interleave(choices)) as chunks:
            async for chunk in chunks:
                yield chunk
    yield frame.usage(_usage(turns)) + DONE


async def _stream_choice(
    turn: Turn, earlier: Sequence[ChunkWriter], chunks: ChunkWriter
) -> AsyncGenerator[bytes, None]:
    """earlier: those of the choices before it. OpenAI's client takes choices as their first chunks come, by index."""

    def begun(own: bytes) -> bytes:
        return b"".join([other.role() for other in earlier]) + chunks.with_tokens(own, turn)

    async with turn:
        await turn.start()
        for one in (*earlier, chunks):
            one.expect(turn)
        async for deltas in turn:
            role = chunks.role()  # goes out with the first token: an error until then has a status of its own
            chunks.count(turn)
            if told := role + chunks.deltas(deltas):
                yield begun(told)
        yield begun(chunks.role() + chunks.finish(turn.finish_reason, turn.stop_reason))


def _usage(turns: Sequence[Turn]) -> Usage:
    return Usage.of_copies([turn.usage for turn in turns], [turn.usage_of_going_on for turn in turns])
