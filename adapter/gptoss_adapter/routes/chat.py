"""POST /v1/chat/completions.

Stage: 1 route, 2 validate, then the rest in order, as `Turn` runs it.
Owns: what happens in which order, whole and streamed.
Does not know: gRPC, Harmony, how an event is framed.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from gptoss_adapter.chunks import AnswerBuilder, AnswerHead, ChunkWriter
from gptoss_adapter.context import current_record
from gptoss_adapter.disconnect import until_disconnect
from gptoss_adapter.errors import InvalidRequestError
from gptoss_adapter.prompting import chat_request, sampling_params
from gptoss_adapter.schemas.answers import ChatCompletion, ErrorBody
from gptoss_adapter.schemas.chat import ChatCompletionRequest
from gptoss_adapter.serving import Services, Shared
from gptoss_adapter.sse import DONE, EventStream
from gptoss_adapter.turn import Turn
from gptoss_adapter.validation import StrictJsonRoute

router = APIRouter(tags=["chat"], route_class=StrictJsonRoute)


@router.post(
    "/v1/chat/completions",
    response_model=ChatCompletion,
    responses={"4XX": {"model": ErrorBody}, "5XX": {"model": ErrorBody}},
)
async def create_chat_completion(body: ChatCompletionRequest, request: Request, services: Shared) -> Response:
    """Continue a chat by one assistant turn, streamed or whole."""
    services.served.check_serves(body.model)
    turn = _plan(body, services)
    head = AnswerHead.of(services.served)
    if body.stream:
        include_usage = body.stream_options is not None and bool(body.stream_options.include_usage)
        events = _stream_answer(turn, ChunkWriter(head, include_usage=include_usage), include_usage)
        return EventStream(events, services.settings.adapter.keepalive_s)
    answer = await _whole_answer(turn, head, request)
    return Response(answer.json_bytes(), media_type="application/json")


def _plan(body: ChatCompletionRequest, services: Services) -> Turn:
    """Return the turn, not yet begun. Raises InvalidRequestError."""
    max_messages = services.settings.adapter.max_messages
    if len(body.messages) > max_messages:
        message = f"The conversation has {len(body.messages)} messages; this server takes {max_messages}."
        raise InvalidRequestError(message, param="messages", code="invalid_value")
    if body.stream_options is not None and not body.stream:
        message = "'stream_options' is only allowed when 'stream' is true."
        raise InvalidRequestError(message, param="stream_options", code="invalid_value")
    profile = services.served.profile
    sampling = sampling_params(body, profile)
    return Turn(services, chat_request(body, profile, services.today()), sampling, current_record())


async def _whole_answer(turn: Turn, head: AnswerHead, request: Request) -> ChatCompletion:
    answer = AnswerBuilder()
    async with until_disconnect(request.receive), turn:
        await turn.start()
        async for deltas in turn:
            answer.add(deltas)
    return answer.completion(head, turn.finish_reason, turn.usage)


async def _stream_answer(turn: Turn, chunks: ChunkWriter, include_usage: bool) -> AsyncGenerator[bytes, None]:
    async with turn:
        await turn.start()
        yield chunks.role()
        async for deltas in turn:
            if deltas:
                yield chunks.deltas(deltas)
        tail = chunks.finish(turn.finish_reason)
        if include_usage:
            tail += chunks.usage(turn.usage)
        yield tail + DONE
