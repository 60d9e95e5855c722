"""/v1/responses and what is under it.

Stage: 1 route, 2 validate, then the rest in order, as `Turn` runs it.
Owns: what happens in which order, whole and streamed.
Does not know: gRPC, Harmony, tables, how an event is framed.
"""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query
from starlette.requests import Request
from starlette.responses import Response

from gptoss_adapter.context import current_record
from gptoss_adapter.disconnect import until_disconnect
from gptoss_adapter.errors import InvalidRequestError, invalid_value
from gptoss_adapter.raw_prompts import token_ids
from gptoss_adapter.responses.answering import Answering
from gptoss_adapter.responses.compaction import compacted
from gptoss_adapter.responses.history import history_of
from gptoss_adapter.responses.naming import naming_fields_of_this_api
from gptoss_adapter.responses.plan import chat_request
from gptoss_adapter.responses.resuming import ResumedStream
from gptoss_adapter.responses.server_tools.hosted_tools import described, hosted_tools
from gptoss_adapter.responses.server_tools.mcp_tools import listed_tools, mcp_tools
from gptoss_adapter.responses.streaming import ResponseStream
from gptoss_adapter.responses.told_again import Telling
from gptoss_adapter.responses.turns import chat_prompt, offering_of
from gptoss_adapter.routes.keeping import After, Background, Include, Limit, Order, Store, keep_store
from gptoss_adapter.schemas.answers import ErrorBody
from gptoss_adapter.schemas.response_answers import (
    CompactedResponse,
    CountedInputTokens,
    DeletedResponse,
    ResponseItemList,
    ResponseObject,
)
from gptoss_adapter.schemas.responses import CompactionRequest, InputTokensRequest, ResponseRequest
from gptoss_adapter.serving import Services, Shared
from gptoss_adapter.sse import EventStream
from gptoss_adapter.strict_routes import StrictQueryRoute

router = APIRouter(
    tags=["responses"],
    route_class=StrictQueryRoute,
    lifespan=keep_store,
    responses={"4XX": {"model": ErrorBody}, "5XX": {"model": ErrorBody}},
)

# --- making one -----------------------------------------------------------------------------------------------------


@router.post(
    "/v1/responses",
    response_model=ResponseObject,
    responses={200: {"content": {EventStream.media_type: {"schema": {"type": "string"}}}}},
)
async def create_response(
    body: ResponseRequest, request: Request, services: Shared, store: Store, background: Background
) -> Response:
    """Answer a conversation, or the next part of one, streamed or whole, or in the background."""
    answering = await Answering.of(body, services, store)
    if body.background:
        begun = await background.begin(answering, current_record(), streamed=bool(body.stream))
        if begun.events is not None:
            return _resumed(ResumedStream.of_log(begun.events), services)
        return Response(answering.response.json_bytes(), media_type="application/json")
    if body.stream:
        keepalive_s = services.settings.adapter.keepalive_s
        told = ResponseStream(answering, opens_within_s=keepalive_s)
        return EventStream(told.framed(), keepalive_s, told.failure, told.keep_alive, opens_itself=True)
    async with until_disconnect(request.receive), answering:
        await answering.start()
        async for _ in answering:
            pass
        answering.end()
        response = await answering.kept()
    return Response(response.json_bytes(), media_type="application/json")


def _resumed(told: ResumedStream, services: Services) -> EventStream:
    return EventStream(told.framed(), services.settings.adapter.keepalive_s, told.failure, told.keep_alive)


@router.post("/v1/responses/input_tokens")
async def count_input_tokens(
    body: InputTokensRequest, request: Request, services: Shared, store: Store
) -> CountedInputTokens:
    """Count the tokens of the prompt that a request would make, of the alias where it names no model."""
    served = services.route(body.model, body.profile)
    history = await history_of(body, services, store)
    hosted = hosted_tools(body.tools, services.mcp_servers)
    servers = mcp_tools(body.tools, services.mcp_servers)
    async with until_disconnect(request.receive):
        listed = await listed_tools(servers, services.mcp_servers)
        offering = offering_of(body, services, listed, await described(hosted, services.mcp_servers))
        chat = chat_request(body, history.items, offering, served.profile, services.today())
        with naming_fields_of_this_api(offering.places):
            prompt = await chat_prompt(body, chat, served, services).ids()
    return CountedInputTokens(object="response.input_tokens", input_tokens=len(token_ids(prompt)))


@router.post("/v1/responses/compact", response_model_exclude_unset=True)
async def compact_conversation(
    body: CompactionRequest, request: Request, services: Shared, store: Store
) -> CompactedResponse:
    """Make a conversation shorter: what others than the model have said, and its summary of the rest."""
    async with until_disconnect(request.receive):
        return await compacted(body, services, store)


# --- those that are kept --------------------------------------------------------------------------------------------


@router.get(
    "/v1/responses/{response_id}",
    response_model=ResponseObject,
    responses={200: {"content": {EventStream.media_type: {"schema": {"type": "string"}}}}},
)
async def get_response(
    response_id: str,
    services: Shared,
    store: Store,
    background: Background,
    include: Include = None,
    stream: Annotated[bool, Query()] = False,
    starting_after: Annotated[int | None, Query(ge=0, lt=2**31)] = None,
    include_obfuscation: Annotated[bool, Query()] = False,
) -> Response:
    """Return a response that is kept, as it is now, or the events of one whose stream can be taken up again."""
    if include_obfuscation:
        message = "Unsupported value for 'include_obfuscation': this server does not honour it; leave it out."
        raise InvalidRequestError(message, param="include_obfuscation", code="unsupported_parameter")
    if stream:
        after = -1 if starting_after is None else starting_after
        resumed = await ResumedStream.of(response_id, after, Telling.of(include), background, store)
        current_record().counted.close()  # it may wait for the response's end, and reads little meanwhile
        return _resumed(resumed, services)
    if starting_after is not None:
        message = "'starting_after' is only allowed when 'stream' is true."
        raise invalid_value(message, "starting_after")
    kept = await store.response(response_id)
    return Response(kept.json(Telling.of(include)), media_type="application/json")


@router.delete("/v1/responses/{response_id}")
async def delete_response(response_id: str, store: Store, background: Background) -> DeletedResponse:
    """Forget a response; one that is under way in the background ends."""
    await store.delete(response_id)
    if (made_here := background.find(response_id)) is not None:
        await made_here.cancel()
    return DeletedResponse(id=response_id, object="response", deleted=True)


@router.post("/v1/responses/{response_id}/cancel", response_model=ResponseObject)
async def cancel_response(response_id: str, store: Store, background: Background) -> Response:
    """End a response that is under way in the background, and return it as it is then; one that is over stays so."""
    kept = await store.response(response_id)
    if not kept.is_background:
        raise invalid_value("Cannot cancel a synchronous response.", "response_id")
    if (made_here := background.find(response_id)) is not None:
        await made_here.cancel()
    await store.cancel(response_id)
    return Response((await store.response(response_id)).json(), media_type="application/json")


@router.get("/v1/responses/{response_id}/input_items", response_model=ResponseItemList)
async def list_input_items(
    response_id: str,
    store: Store,
    limit: Limit = 20,
    order: Order = "desc",
    after: After = None,
    include: Include = None,
) -> Response:
    """List what a response was made from: its own input, and all that it continues."""
    items = await store.input_items(response_id)
    if order == "desc":
        items.reverse()
    if after is not None:
        items = items[_position_after(after, [item.id for item in items]) :]
    page = Telling.of(include).items(items[:limit])
    answer = ResponseItemList.page(page, has_more=len(items) > limit)
    return Response(answer.json_bytes(), media_type="application/json")


def _position_after(item_id: str, ids: list[str | None]) -> int:
    if item_id not in ids:
        message = f"'after' names the item '{item_id}', which this response was not made from."
        raise invalid_value(message, "after")
    return ids.index(item_id) + 1
