"""/v1/responses and what is under it.

Stage: 1 route, 2 validate, then the rest in order, as `Turn` runs it.
Owns: what happens in which order, whole and streamed; the life of the store.
Does not know: gRPC, Harmony, tables, how an event is framed.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, FastAPI, Query
from starlette.requests import Request
from starlette.responses import Response

from gptoss_adapter.context import current_record
from gptoss_adapter.disconnect import until_disconnect
from gptoss_adapter.errors import ApiError, InvalidRequestError
from gptoss_adapter.raw_prompts import token_ids
from gptoss_adapter.responses.answering import Answering, asked_chat, naming_fields_of_this_api
from gptoss_adapter.responses.events import EventWriter
from gptoss_adapter.responses.store import ResponseStore
from gptoss_adapter.responses.told_again import telling_reasoning_again
from gptoss_adapter.responses.tools import allowed_offers
from gptoss_adapter.schemas.answers import ErrorBody
from gptoss_adapter.schemas.response_answers import (
    CountedInputTokens,
    DeletedResponse,
    ResponseItemList,
    ResponseObject,
)
from gptoss_adapter.schemas.responses import CARRIED_REASONING, Includable, InputTokensRequest, ResponseRequest
from gptoss_adapter.serving import Services, Shared
from gptoss_adapter.sse import EventStream
from gptoss_adapter.validation import StrictQueryRoute


@asynccontextmanager
async def _keep_store(app: FastAPI) -> AsyncIterator[None]:
    """Begins after the app's own lifespan has, and ends before it."""
    services: Services = app.state.services
    app.state.response_store = store = ResponseStore.from_settings(services.settings)
    try:
        yield
    finally:
        await store.close()


async def _store_of(request: Request) -> ResponseStore:
    store: ResponseStore = request.app.state.response_store
    return store


Store = Annotated[ResponseStore, Depends(_store_of)]

router = APIRouter(
    tags=["responses"],
    route_class=StrictQueryRoute,
    lifespan=_keep_store,
    responses={"4XX": {"model": ErrorBody}, "5XX": {"model": ErrorBody}},
)

# --- making one -----------------------------------------------------------------------------------------------------


@router.post(
    "/v1/responses",
    response_model=ResponseObject,
    responses={200: {"content": {EventStream.media_type: {"schema": {"type": "string"}}}}},
)
async def create_response(body: ResponseRequest, request: Request, services: Shared, store: Store) -> Response:
    """Answer a conversation, or the next part of one, streamed or whole."""
    answering = await Answering.of(body, services, store)
    if body.stream:
        events = EventWriter()
        return EventStream(
            _streamed(answering, events),
            services.settings.adapter.keepalive_s,
            failure=lambda error: _failure(answering, events, error),
        )
    async with until_disconnect(request.receive), answering:
        await answering.start()
        async for _ in answering:
            pass
        answering.end()
        response = await answering.kept()
    return Response(response.json_bytes(), media_type="application/json")


async def _streamed(answering: Answering, events: EventWriter) -> AsyncGenerator[bytes, None]:
    async with answering:
        await answering.start()
        created = events.lifecycle("response.created", answering.response)
        yield created + events.lifecycle("response.in_progress", answering.response)
        async for told in answering:
            if told:
                yield events.write(told)
        ended = events.write(answering.end())
        response = await answering.kept()
        yield ended + events.lifecycle(f"response.{response.status}", response)


def _failure(answering: Answering, events: EventWriter, error: ApiError) -> bytes:
    """Return the event that ends a stream: the failed response, or the bare error where none was created yet."""
    if events.has_begun:
        return events.lifecycle("response.failed", answering.failed(error))
    return events.write([("error", {"code": error.code, "message": error.message, "param": error.param})])


@router.post("/v1/responses/input_tokens")
async def count_input_tokens(
    body: InputTokensRequest, request: Request, services: Shared, store: Store
) -> CountedInputTokens:
    """Count the tokens of the prompt that a request would make, of the alias where it names no model."""
    chat, _ = await asked_chat(body, services.route(body.model, body.profile), services, store)
    async with until_disconnect(request.receive):
        with naming_fields_of_this_api(allowed_offers(body)):
            prompt = await services.model_server.preprocess(chat, current_record().request_id)
    return CountedInputTokens(object="response.input_tokens", input_tokens=len(token_ids(prompt)))


# --- those that are kept --------------------------------------------------------------------------------------------


Include = Annotated[list[Includable] | None, Query()]
"""What is told in addition. Log probabilities are told where they were asked for when the answer was made."""


@router.get("/v1/responses/{response_id}", response_model=ResponseObject)
async def get_response(
    response_id: str,
    store: Store,
    include: Include = None,
    stream: Annotated[bool, Query()] = False,
    starting_after: Annotated[int | None, Query(ge=0)] = None,
    include_obfuscation: Annotated[bool, Query()] = False,
) -> Response:
    """Return a response that is kept."""
    if stream:
        message = "A response that is kept is whole, and is not streamed again; leave 'stream' out."
        raise InvalidRequestError(message, param="stream", code="unsupported_parameter")
    if starting_after is not None:
        message = "'starting_after' is only allowed when 'stream' is true."
        raise InvalidRequestError(message, param="starting_after", code="invalid_value")
    if include_obfuscation:
        message = "Unsupported value for 'include_obfuscation': this server does not honour it; leave it out."
        raise InvalidRequestError(message, param="include_obfuscation", code="unsupported_parameter")
    response = await store.response(response_id, carries_reasoning=CARRIED_REASONING in (include or ()))
    return Response(response, media_type="application/json")


@router.delete("/v1/responses/{response_id}")
async def delete_response(response_id: str, store: Store) -> DeletedResponse:
    """Forget a response."""
    await store.delete(response_id)
    return DeletedResponse(id=response_id, object="response", deleted=True)


@router.post("/v1/responses/{response_id}/cancel", response_model=ResponseObject)
async def cancel_response(response_id: str, store: Store) -> Response:
    """Refuse: only responses made in the background could be cancelled, and there are none."""
    await store.response(response_id)
    raise InvalidRequestError("Cannot cancel a synchronous response.", param="response_id", code="invalid_value")


@router.get("/v1/responses/{response_id}/input_items", response_model=ResponseItemList)
async def list_input_items(
    response_id: str,
    store: Store,
    limit: Annotated[int, Query(ge=1, le=100)] = 20,
    order: Annotated[Literal["asc", "desc"], Query()] = "desc",
    after: Annotated[str | None, Query()] = None,
    include: Include = None,
) -> Response:
    """List what a response was made from: its own input, and all that it continues."""
    items = await store.input_items(response_id)
    if order == "desc":
        items.reverse()
    if after is not None:
        items = items[_position_after(after, [item.id for item in items]) :]
    page = items[:limit]
    if CARRIED_REASONING in (include or ()):
        page = telling_reasoning_again(page)
    answer = ResponseItemList(
        object="list",
        data=page,
        first_id=page[0].id if page else None,
        last_id=page[-1].id if page else None,
        has_more=len(items) > limit,
    )
    return Response(answer.json_bytes(), media_type="application/json")


def _position_after(item_id: str, ids: list[str | None]) -> int:
    if item_id not in ids:
        message = f"'after' names the item '{item_id}', which this response was not made from."
        raise InvalidRequestError(message, param="after", code="invalid_value")
    return ids.index(item_id) + 1
