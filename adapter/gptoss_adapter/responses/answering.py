"""One response, from its request to its end.

Stage: 2 validate … 7 SSE, around `Turn`.
Owns: the response's states; when it is kept, and what it adds to its conversation.
Does not know: HTTP, how events are framed.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from contextlib import suppress
from types import TracebackType
from typing import Self

from gptoss_adapter.context import current_record
from gptoss_adapter.drain import Drain
from gptoss_adapter.errors import (
    ApiError,
    ContextLengthExceededError,
    DrainingError,
    InternalError,
    InvalidRequestError,
    ServiceUnavailableError,
    TooManyRequestsError,
    invalid_value,
)
from gptoss_adapter.responses.event_log import EventLog
from gptoss_adapter.responses.history import History, history_of
from gptoss_adapter.responses.keeping.database import Ended
from gptoss_adapter.responses.keeping.item_texts import bare
from gptoss_adapter.responses.keeping.progress import EventChunk
from gptoss_adapter.responses.keeping.store import ResponseStore
from gptoss_adapter.responses.open_items import Event
from gptoss_adapter.responses.plan import begun_response, sampling_params
from gptoss_adapter.responses.server_tools.hosted_tools import HostedOffer, hosted_tools
from gptoss_adapter.responses.server_tools.mcp_conversation import approved_calls
from gptoss_adapter.responses.server_tools.mcp_tools import mcp_tools
from gptoss_adapter.responses.server_tools.mcp_turns import McpTurns
from gptoss_adapter.responses.told_again import Telling
from gptoss_adapter.responses.turns import Asked, SingleTurn, Turns
from gptoss_adapter.sampling_plan import check_answer_fields
from gptoss_adapter.schemas.mcp_items import McpApprovalResponseItem
from gptoss_adapter.schemas.response_answers import (
    IncompleteDetails,
    OutputItem,
    ResponseError,
    ResponseErrorCode,
    ResponseObject,
    ResponseUsage,
)
from gptoss_adapter.schemas.response_items import Item
from gptoss_adapter.schemas.responses import ResponseRequest
from gptoss_adapter.serving import Services


class Answering:
    """An async context manager: `start()`, then iterate the events of the items, then `end()` and `kept()`.

    Where its id is told earlier, `begin_to_keep()` comes before that: then it is kept however it ends.
    """

    def __init__(
        self,
        turns: Turns,
        begun: ResponseObject,
        history: History,
        telling: Telling,
        store: ResponseStore,
        drain: Drain,
    ) -> None:
        """telling: what of the items the response tells; all of them is kept."""
        self.response = begun
        """As it is now."""
        self.events: EventLog | None = None
        """Those that are kept with it; None: its stream is not to be taken up again."""
        self._turns = turns
        self._own_input = history.own_input
        self._place = history.place
        self._telling = telling
        self._store = store
        self._drain = drain
        self._request_id = current_record().request_id
        self._is_in_store = False  # as under way

    @classmethod
    async def of(cls, body: ResponseRequest, services: Services, store: ResponseStore) -> Self:
        """Gather the conversation and return the response, not yet begun. Raises ApiError."""
        served = services.route(body.model, body.profile)
        check_answer_fields(body, num_choices=1, max_choices=1)
        history = await history_of(body, services, store)
        sampling = sampling_params(body, served.profile)
        hosted = hosted_tools(body.tools, services.mcp_servers)
        begun = begun_response(body, served, sampling, hosted)
        current_record().notes["response_id"] = begun.id
        if history.place is not None:
            current_record().notes["conversation_id"] = history.place.conversation_id
        turns = _turns(Asked(body, served, services, sampling, history.items), history.own_input, hosted)
        return cls(turns, begun, history, Telling.of(body.include), store, services.drain)

    async def __aenter__(self) -> Self:
        """Hold its conversation, and begin to count the answer as in flight. Raises ApiError."""
        await self.hold_conversation()
        try:
            await self._turns.__aenter__()
        except BaseException:
            await self.let_conversation_go()
            raise
        return self

    async def __aexit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Let go of what is under way; keep how it ended, where that was begun and is not done."""
        try:
            await self._turns.__aexit__(error_type, error, traceback)
            if self._is_in_store:
                self._give_up(error)
                await self.kept()
        finally:
            await self.let_conversation_go()

    async def hold_conversation(self) -> None:
        """Let nobody else add to its conversation, where it has one, from here to its end. Raises ApiError."""
        if self._place is not None:
            await self._store.conversations.hold(self._place, self.response.id)

    async def let_conversation_go(self) -> None:
        """Let others add to its conversation again."""
        with suppress(ServiceUnavailableError):  # the lease runs out
            await self._store.conversations.let_go(self.response.id)

    async def start(self) -> None:
        """Wait until there is something to tell of. Raises ApiError."""
        await self._turns.start()

    async def begin_to_keep(self) -> None:
        """Keep the response as it is now, where it is to be kept.

        Where that fails it says that it is not kept; one in the background then raises ServiceUnavailableError.
        """
        if not self.response.store:
            return
        try:
            await self._store.begin(self.response, self._own_input, self._place, self._chunks())
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
        return await anext(self._turns)

    def end(self) -> list[Event]:
        """End the response and return the events that tell of its last item. After the last part only."""
        events, is_cut = self._turns.end(), self._turns.is_cut
        self.response = self.response.model_copy(
            update={
                "status": "incomplete" if is_cut else "completed",
                "incomplete_details": IncompleteDetails(reason="max_output_tokens") if is_cut else None,
                "completed_at": None if is_cut else int(time.time()),
                "output": self._told_items(),
                "usage": ResponseUsage.of(self._turns.usage),
            }
        )
        return events

    async def kept(self) -> ResponseObject:
        """Keep the response, where it is to be kept, add what it says to its conversation, and return it.

        An answer is not lost with the store: where that fails, the response says that it is not kept, and that it
        belongs to no conversation.
        """
        added = self._added()
        try:
            ended = await self._save(added)
        except ServiceUnavailableError:
            ended = Ended(is_kept=False, is_added=False)
        self._is_in_store = False
        if self.response.store and not ended.is_kept:
            self.response = self.response.model_copy(update={"store": False})
        if added is not None and not ended.is_added:
            self.response = self.response.model_copy(update={"conversation": None})
        return self.response

    def failed(self, error: ApiError) -> ResponseObject:
        """Return the response as it is after `error` ended it, with the items that were whole by then."""
        return self.response.model_copy(
            update={
                "status": "failed",
                "error": ResponseError(code=_code(error), message=error.message),
                "output": self._told_items(),
            }
        )

    async def _save(self, added: list[Item] | None) -> Ended:
        whole, place = self.response.model_copy(update={"output": self._turns.items}), self._place
        if self._is_in_store:
            return await self._store.end(whole, place, added, self._chunks())
        if whole.store:
            return await self._store.save(whole, self._own_input, place, added)
        if place is None or added is None:
            return Ended(is_kept=False, is_added=False)
        is_added = await self._store.conversations.add_turn(place, whole.id, added)
        return Ended(is_kept=False, is_added=is_added)

    def _added(self) -> list[Item] | None:
        """Return what the response adds to its conversation; None: nothing, for it has none, or did not end well."""
        if self._place is None or self.response.status not in ("completed", "incomplete"):
            return None
        return [*map(bare, self._own_input), *self._turns.items]

    def _told_items(self) -> list[OutputItem]:
        return self._telling.items(self._turns.items)

    def _chunks(self) -> list[EventChunk]:
        return self.events.chunks() if self.events is not None else []

    def _give_up(self, error: BaseException | None) -> None:
        """Make the response what it is after `error` ended it, and tell of that."""
        if (failure := self._failure_of(error)) is None:
            self.response = self.response.model_copy(update={"status": "cancelled", "output": self._told_items()})
            return
        self.response = self.failed(failure)
        if self.events is not None:
            self.events.error(failure)

    def _failure_of(self, error: BaseException | None) -> ApiError | None:
        """Return what a response that `error` ended failed by; None: it was cancelled."""
        if isinstance(error, ApiError):
            return error
        if isinstance(error, Exception):
            return InternalError(self._request_id)
        return DrainingError() if self._drain.has_cut else None


def _turns(asked: Asked, own_input: Sequence[Item], hosted: Sequence[HostedOffer]) -> Turns:
    """Return what makes the answer. own_input: what the request adds. Raises InvalidRequestError."""
    servers = mcp_tools(asked.body.tools, asked.services.mcp_servers)
    labels = {server.server_label for server in servers}
    answered = {item.approval_request_id for item in own_input if isinstance(item, McpApprovalResponseItem)}
    for call in approved_calls(asked.items):
        if call.id in answered and call.server_label not in labels:
            message = (
                f"'input' approves a call to the MCP server '{call.server_label}', which is not among the 'tools'."
            )
            raise invalid_value(message, "tools")
    return McpTurns(asked, servers, hosted) if servers or hosted else SingleTurn(asked)


def _code(error: ApiError) -> ResponseErrorCode:
    if isinstance(error, TooManyRequestsError):
        return "rate_limit_exceeded"
    if isinstance(error, ContextLengthExceededError):
        return "context_length_exceeded"
    return "invalid_prompt" if isinstance(error, InvalidRequestError) else "server_error"
