"""One response, from its request to its end.

Stage: 2 validate … 7 SSE, around `Turn`.
Owns: the response's states; when it is kept.
Does not know: HTTP, how events are framed.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from types import TracebackType
from typing import Final, Literal, Self

from pydantic import JsonValue

from gptoss_adapter.context import current_record
from gptoss_adapter.drain import Drain
from gptoss_adapter.errors import (
    ApiError,
    DrainingError,
    InternalError,
    InvalidRequestError,
    ServiceUnavailableError,
    TooManyRequestsError,
)
from gptoss_adapter.field_names import naming_fields
from gptoss_adapter.limits import check_schemas, check_tools
from gptoss_adapter.responses.event_log import EventLog
from gptoss_adapter.responses.items import own_items
from gptoss_adapter.responses.output import Event, Output
from gptoss_adapter.responses.plan import (
    begun_response,
    carries_reasoning,
    chat_request,
    sampling_params,
    summary_detail,
)
from gptoss_adapter.responses.progress import EventChunk
from gptoss_adapter.responses.store import ResponseStore
from gptoss_adapter.responses.tools import Offer, allowed_offers, offers
from gptoss_adapter.responses.truncation import FittedPrompt
from gptoss_adapter.sampling_plan import check_answer_fields
from gptoss_adapter.schemas.answers import Usage
from gptoss_adapter.schemas.response_answers import (
    IncompleteDetails,
    InputTokensDetails,
    OutputTokensDetails,
    ResponseError,
    ResponseObject,
    ResponseUsage,
)
from gptoss_adapter.schemas.response_items import Item
from gptoss_adapter.schemas.responses import ResponseFields, ResponseRequest, SchemaText
from gptoss_adapter.serving import ServedModel, Services
from gptoss_adapter.turn import ChatPrompt, Turn
from gptoss_backend.contract import ChatRequest

_OUR_FIELDS: Final = {"messages": "input", "response_format": "text.format"}
"""A chat's field → ours. Its index says nothing: several items make one message."""


class Answering:
    """An async context manager: `start()`, then iterate the events of the items, then `end()` and `kept()`.

    Where its id is told earlier, `begin_to_keep()` comes before that: then it is kept however it ends.
    """

    def __init__(
        self,
        turn: Turn,
        begun: ResponseObject,
        own_input: list[Item],
        store: ResponseStore,
        output: Output,
        offered: Sequence[Offer],
        drain: Drain,
    ) -> None:
        """offered: the functions the model is told of."""
        self.response = begun
        """As it is now."""
        self.events: EventLog | None = None
        """Those that are kept with it; None: its stream is not to be taken up again."""
        self._turn = turn
        self._own_input = own_input
        self._store = store
        self._output = output
        self._offered = offered
        self._drain = drain
        self._request_id = current_record().request_id
        self._is_in_store = False  # as under way

    @classmethod
    async def of(cls, body: ResponseRequest, services: Services, store: ResponseStore) -> Self:
        """Gather the conversation and return the response, not yet begun. Raises ApiError."""
        served = services.route(body.model, body.profile)
        check_answer_fields(body, num_choices=1, max_choices=1)
        chat, own_input = await asked_chat(body, served, services, store)
        sampling = sampling_params(body, served.profile)
        begun = begun_response(body, served, sampling)
        record = current_record()
        record.notes["response_id"] = begun.id
        offered = allowed_offers(body)
        with naming_fields_of_this_api(offered):
            prompt = chat_prompt(body, chat, served, services)
            turn = Turn(services, served, chat, sampling, record, stop=body.stop_strings, prompt=prompt)
        output = Output(
            {offer.name: offer for offer in offered},
            carries_reasoning=carries_reasoning(body),
            tells_summary=summary_detail(body) is not None,
        )
        return cls(turn, begun, own_input, store, output, offered, services.drain)

    async def __aenter__(self) -> Self:
        """Begin to count the turn as in flight."""
        await self._turn.__aenter__()
        return self

    async def __aexit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Let go of the turn; keep how it ended, where that was begun and is not done."""
        await self._turn.__aexit__(error_type, error, traceback)
        if self._is_in_store:
            self.response = self._given_up(error)
            await self.kept()

    async def start(self) -> None:
        """Wait until the engine takes the turn up. Raises ApiError."""
        with naming_fields_of_this_api(self._offered):
            await self._turn.start()

    async def begin_to_keep(self) -> None:
        """Keep the response as it is now, where it is to be kept.

        Where that fails it says that it is not kept; one in the background then raises ServiceUnavailableError.
        """
        if not self.response.store:
            return
        try:
            await self._store.begin(self.response, self._own_input, self._chunks())
        except ServiceUnavailableError:
            if self.response.background:
                raise
            self.response = self.response.model_copy(update={"store": False})
        else:
            self._is_in_store = True

    async def leave_queue(self) -> None:
        """Say, and keep, that the response is in progress."""
        self.response = self.response.model_copy(update={"status": "in_progress"})
        with suppress(ServiceUnavailableError):  # its end may be kept all the same
            await self._store.change(self.response)

    def __aiter__(self) -> Self:
        """Return itself."""
        return self

    async def __anext__(self) -> list[Event]:
        """Wait for the next part of the answer and return the events that tell of it. Raises ApiError."""
        return self._output.add(await anext(self._turn))

    def end(self) -> list[Event]:
        """End the response and return the events that tell of its last item. After the last part only."""
        is_cut = self._turn.finish_reason == "length"
        events = self._output.end(cut=is_cut or self._turn.has_cut_call)
        self.response = self.response.model_copy(
            update={
                "status": "incomplete" if is_cut else "completed",
                "incomplete_details": IncompleteDetails(reason="max_output_tokens") if is_cut else None,
                "completed_at": None if is_cut else int(time.time()),
                "output": self._output.items,
                "usage": _usage(self._turn.usage),
            }
        )
        return events

    async def kept(self) -> ResponseObject:
        """Keep the response, where it is to be kept, and return it.

        An answer is not lost with the store: where that fails, the response says that it is not kept.
        """
        if self.response.store:
            try:
                is_kept = await self._save()
            except ServiceUnavailableError:
                is_kept = False
            self._is_in_store = False
            if not is_kept:
                self.response = self.response.model_copy(update={"store": False})
        return self.response

    def failed(self, error: ApiError) -> ResponseObject:
        """Return the response as it is after `error` ended it, with the items that were whole by then."""
        return self.response.model_copy(
            update={
                "status": "failed",
                "error": ResponseError(code=_code(error), message=error.message),
                "output": self._output.items,
            }
        )

    async def _save(self) -> bool:
        if self._is_in_store:
            return await self._store.end(self.response, self._chunks())
        await self._store.save(self.response, self._own_input)
        return True

    def _chunks(self) -> list[EventChunk]:
        return self.events.chunks() if self.events is not None else []

    def _given_up(self, error: BaseException | None) -> ResponseObject:
        """Return the response as it is after `error` ended it."""
        if isinstance(error, ApiError):
            return self.failed(error)
        if isinstance(error, Exception):
            return self.failed(InternalError(self._request_id))
        if self._drain.has_cut:
            return self.failed(DrainingError())
        return self.response.model_copy(update={"status": "cancelled", "output": self._output.items})


async def asked_chat(
    body: ResponseFields, served: ServedModel, services: Services, store: ResponseStore
) -> tuple[ChatRequest, list[Item]]:
    """Gather the conversation: return its chat, and the items that the request adds to it. Raises ApiError."""
    if body.input is None and body.previous_response_id is None:
        message = "Missing required parameter: one of 'input' and 'previous_response_id' must be there."
        raise InvalidRequestError(message, param="input", code="missing_required_parameter")
    limits = services.settings.adapter
    if isinstance(body.input, list):  # before any is looked up
        _check_length(len(body.input), limits.max_messages)
    own_input = await own_items(body.input, store)
    earlier = await store.conversation(body.previous_response_id) if body.previous_response_id is not None else []
    _check_length(len(earlier) + len(own_input), limits.max_messages)
    check_tools(offers(body.tools), limits)
    check_schemas(dict(_schemas(body)), limits)
    return chat_request(body, [*earlier, *own_input], served.profile, services.today()), own_input


def chat_prompt(body: ResponseFields, chat: ChatRequest, served: ServedModel, services: Services) -> ChatPrompt:
    """Return the prompt of the chat, not yet rendered; with `truncation: auto` one that fits. Raises ApiError."""
    request_id = current_record().request_id
    if body.truncation != "auto":
        return ChatPrompt(services.model_server, chat, request_id)
    max_tokens = sampling_params(body, served.profile).max_tokens
    return FittedPrompt(services, served, chat, request_id, max_tokens)


def naming_fields_of_this_api(offered: Sequence[Offer] = ()) -> AbstractContextManager[None]:
    """Errors in the body name the fields of a chat: make them name those that were sent.

    offered: the functions the model is told of, in their order.
    """
    return naming_fields(_OUR_FIELDS, [offer.place for offer in offered])


def _check_length(num_items: int, max_items: int) -> None:
    if num_items > max_items:
        message = f"The conversation has {num_items} items; this server takes {max_items}."
        raise InvalidRequestError(message, param="input", code="invalid_value")


def _schemas(body: ResponseFields) -> Iterator[tuple[str, dict[str, JsonValue] | None]]:
    for offer in offers(body.tools):
        yield f"{offer.place}.parameters", offer.function.parameters
    if body.text is not None and isinstance(body.text.format, SchemaText):
        yield "text.format.schema", body.text.format.schema_


def _usage(usage: Usage) -> ResponseUsage:
    details = usage.prompt_tokens_details
    return ResponseUsage(
        input_tokens=usage.prompt_tokens,
        input_tokens_details=InputTokensDetails(
            cached_tokens=details.cached_tokens, cache_write_tokens=details.cache_write_tokens
        ),
        output_tokens=usage.completion_tokens,
        output_tokens_details=OutputTokensDetails(reasoning_tokens=usage.completion_tokens_details.reasoning_tokens),
        total_tokens=usage.total_tokens,
    )


def _code(error: ApiError) -> Literal["rate_limit_exceeded", "invalid_prompt", "server_error"]:
    if isinstance(error, TooManyRequestsError):
        return "rate_limit_exceeded"
    return "invalid_prompt" if isinstance(error, InvalidRequestError) else "server_error"
