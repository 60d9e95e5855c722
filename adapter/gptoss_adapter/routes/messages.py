"""POST /v1/messages and POST /v1/messages/count_tokens: Anthropic's Messages API.

Stage: 1 route, 2 validate, then the rest in order, as `Turn` runs it.
Owns: what happens in which order, whole and streamed.
Does not know: gRPC, Harmony, how an event is framed.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

from gptoss_adapter.context import current_record
from gptoss_adapter.disconnect import until_disconnect
from gptoss_adapter.messages.answering import Answering
from gptoss_adapter.messages.errors import error_event
from gptoss_adapter.messages.events import PING, frame
from gptoss_adapter.messages.plan import chat_request, naming_fields_of_this_api
from gptoss_adapter.paths import MESSAGES
from gptoss_adapter.raw_prompts import token_ids
from gptoss_adapter.schemas.message_answers import CountedMessageTokens, MessageAnswer, MessageError
from gptoss_adapter.schemas.messages import CountTokensRequest, MessageRequest
from gptoss_adapter.serving import Shared
from gptoss_adapter.sse import EventStream
from gptoss_adapter.strict_routes import StrictJsonRoute

router = APIRouter(
    tags=["messages"],
    route_class=StrictJsonRoute,
    responses={"4XX": {"model": MessageError}, "5XX": {"model": MessageError}},
)


@router.post(
    MESSAGES,
    response_model=MessageAnswer,
    responses={200: {"content": {EventStream.media_type: {"schema": {"type": "string"}}}}},
)
async def create_message(body: MessageRequest, request: Request, services: Shared) -> Response:
    """Continue a conversation by one assistant message, streamed or whole."""
    answering = Answering.of(body, services)
    if body.stream:
        keepalive_s = services.settings.adapter.keepalive_s
        return EventStream(_streamed(answering), keepalive_s, failure=error_event, keep_alive=lambda: PING)
    async with until_disconnect(request.receive), answering:
        await answering.start()
        async for _ in answering:
            pass
        answering.end()
    return Response(answering.message.model_dump_json(), media_type="application/json")


async def _streamed(answering: Answering) -> AsyncGenerator[bytes, None]:
    async with answering:
        told = [await answering.start()]  # goes out with the first token: an error until then has a status of its own
        async for events in answering:
            if told := told + events:
                yield b"".join([frame(*event) for event in told])
            told = []
        yield b"".join([frame(*event) for event in [*told, *answering.end()]])


@router.post(f"{MESSAGES}/count_tokens")
async def count_message_tokens(body: CountTokensRequest, request: Request, services: Shared) -> CountedMessageTokens:
    """Count the tokens of the prompt that a request would make."""
    chat = chat_request(body, services.route(body.model, body.profile), services)
    async with until_disconnect(request.receive):
        with naming_fields_of_this_api():
            prompt = await services.model_server.preprocess(chat, current_record().request_id)
    return CountedMessageTokens(input_tokens=len(token_ids(prompt)))
