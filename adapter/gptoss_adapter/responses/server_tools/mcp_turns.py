"""An answer in several turns of the model, between which MCP servers run the tools that it calls.

Stage: 3 prompt … 7 SSE, around `Turn`.
Owns: the order of listing, calls and turns; what all turns together may take of tokens, calls and time.
Does not know: the response around the items; how a call is made (mcp_servers/) and told to the model.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from dataclasses import replace
from types import TracebackType
from typing import Final, Self

from gptoss_adapter.context import current_record
from gptoss_adapter.errors import (
    ContextLengthExceededError,
    InvalidRequestError,
    McpListingError,
)
from gptoss_adapter.mcp_servers.tools import CallResult, ListedTool, McpOutcome
from gptoss_adapter.responses.naming import naming_fields_of_this_api
from gptoss_adapter.responses.open_items import Event, OpenServerCall
from gptoss_adapter.responses.server_tools.deadline import Deadline
from gptoss_adapter.responses.server_tools.hosted_tools import HostedOffer, described
from gptoss_adapter.responses.server_tools.mcp_conversation import approved_calls
from gptoss_adapter.responses.server_tools.mcp_open_items import NOT_MADE, OpenToolList
from gptoss_adapter.responses.server_tools.mcp_tools import check_allowed, is_allowed
from gptoss_adapter.responses.tools import Offering, name_for_model
from gptoss_adapter.responses.turns import Asked, Turns, offering_of
from gptoss_adapter.schemas.answers import Usage
from gptoss_adapter.schemas.mcp_items import (
    McpApprovalRequestItem,
    McpListToolsItem,
    McpProtocolError,
)
from gptoss_adapter.schemas.mcp_tools import McpTool
from gptoss_adapter.schemas.response_answers import OutputItem
from gptoss_adapter.schemas.response_items import CallItem
from gptoss_adapter.stats_activity import COMPLETED, Outcome
from gptoss_adapter.turn import Turn
from gptoss_backend.contract import SamplingParams

_MOST_CALLS: Final = 128
"""Of a request that names no `max_tool_calls`: a model that calls for ever ends all the same."""


class McpTurns(Turns):
    """The turns of an answer, and the calls between them."""

    def __init__(self, asked: Asked, servers: Sequence[McpTool], hosted: Sequence[HostedOffer]) -> None:
        """servers: those of the request. hosted: OpenAI's tools that servers run. Raises InvalidRequestError."""
        self._asked = asked
        self._servers = servers
        self._hosted = hosted
        labels = {server.server_label for server in servers}
        self._approved = [call for call in approved_calls(asked.items) if call.server_label in labels]
        self._output = asked.output()
        self._calls = asked.services.mcp_servers.calls()
        self._record = current_record()
        self._deadline = Deadline(asked.served.profile.request_timeout_s)
        self._usages: list[Usage] = []
        self._is_cut = False
        self._num_calls = 0
        self._has_refused_call = False  # for there were enough
        self._events = self._make()
        self._first: list[Event] | None = None

    @property
    def items(self) -> list[OutputItem]:
        """The items that were whole by now."""
        return self._output.items

    @property
    def usage(self) -> Usage:
        """What the turns have cost together."""
        return Usage.of_prompts(self._usages)

    @property
    def is_cut(self) -> bool:
        """Whether there was no room to end."""
        return self._is_cut

    async def __aenter__(self) -> Self:
        """Do nothing: each turn is counted by itself."""
        return self

    async def __aexit__(
        self, error_type: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """Let go of the turn or the call that is under way, and of the servers."""
        await self._events.aclose()
        self._calls.end()
        if error is not None and self._record.notes.get("outcome") in COMPLETED:  # it was the last whole turn's
            is_left = isinstance(error, (asyncio.CancelledError, GeneratorExit))
            self._record.notes["outcome"] = (Outcome.CANCELLED if is_left else Outcome.ERROR).value

    async def start(self) -> None:
        """Wait until the tools are listed, and the engine takes the first turn up. Raises ApiError.

        A list that cannot be had is told of first: it raises with the next part.
        """
        self._first = await anext(self._events)

    async def __anext__(self) -> list[Event]:
        """Wait for the next part of the answer and return the events that tell of it. Raises ApiError."""
        if self._first is not None:
            first, self._first = self._first, None
            return first
        return await anext(self._events)

    # --- the way ----------------------------------------------------------------------------------------------------

    async def _make(self) -> AsyncGenerator[list[Event], None]:
        """Yield what is told: the tools, then what was approved, then each turn and its calls."""
        listed: dict[str, Sequence[ListedTool]] = {}
        told: list[Event] = []
        for server in self._servers:
            try:
                listed[server.server_label] = await self._list(server)
            except McpListingError as error:
                yield [*told, *self._tell_tools(server, (), error.message)]
                raise
            told += self._tell_tools(server, listed[server.server_label])
        async with self._deadline.running():
            hosted = await described(self._hosted, self._asked.services.mcp_servers)
        offering = offering_of(self._asked.body, self._asked.services, listed, hosted)
        self._check_approved(offering)
        for request in self._approved:
            yield [*told, *self._output.add_approved(request)]
            told = []
            async with aclosing(self._run_waiting()) as calls:
                async for events in calls:
                    yield events
        async with aclosing(self._make_turns(offering)) as turns:
            async for events in turns:
                yield [*told, *events]
                told = []

    async def _make_turns(self, offering: Offering) -> AsyncGenerator[list[Event], None]:
        while True:
            num_before = len(self._output.items)
            self._output.offer(offering.told, offering.hosted)
            async with aclosing(self._make_turn(offering)) as turn:
                async for events in turn:
                    yield events
            self._write_notes()
            if not self._output.waiting:
                return
            if self._is_cut or self._tokens_left() == 0:
                self._is_cut = True
                yield [event for call in self._output.waiting for event in self._output.settle(call, None)]
                return
            async with aclosing(self._run_waiting()) as calls:
                async for events in calls:
                    yield events
            if any(isinstance(item, CallItem | McpApprovalRequestItem) for item in self.items[num_before:]):
                return  # the client's turn
            offering = offering.afterwards(with_servers=not self._has_refused_call)

    async def _make_turn(self, offering: Offering) -> AsyncGenerator[list[Event], None]:
        try:
            async with self._turn(offering) as turn:
                with naming_fields_of_this_api(offering.places):
                    await turn.start()
                    yield []
                    async for deltas in turn:
                        yield self._output.add(deltas)
                self._is_cut = turn.finish_reason == "length"
                self._usages.append(turn.usage)
                yield self._output.end(cut=self._is_cut or turn.has_cut_call)
        except ContextLengthExceededError:
            if not self._num_calls:
                raise
            self._is_cut = True  # what the tools returned has left no room

    def _turn(self, offering: Offering) -> Turn:
        """Return the next turn, which sees all that was told so far."""
        asked = self._asked
        if self._usages:
            self._record.num_went_on += 1
        self._record.generating_since = time.perf_counter()
        served = asked.served.within(self._deadline.left_s())
        return asked.turn(offering, [*asked.items, *self.items], self._sampling(), served)

    # --- tools ------------------------------------------------------------------------------------------------------

    async def _list(self, server: McpTool) -> list[ListedTool]:
        """Return the tools of a server that the request allows."""
        async with self._deadline.running():
            tools = await self._asked.services.mcp_servers.tools(server.server_label)
        check_allowed(server, tools)
        return [tool for tool in tools if is_allowed(server, tool)]

    def _tell_tools(self, server: McpTool, tools: Sequence[ListedTool], error: str | None = None) -> list[Event]:
        """Add the list to the output, unless the conversation has one already."""
        label = server.server_label
        if error is None and any(
            isinstance(item, McpListToolsItem) and item.server_label == label and item.error is None
            for item in self._asked.items
        ):
            return []
        return self._output.add_tools(OpenToolList(self._output.next_index, label, tools, error))

    def _check_approved(self, offering: Offering) -> None:
        names = {offer.name for offer in offering.every if offer.server is not None}
        for request in self._approved:
            if name_for_model(request.name, request.server_label) not in names:
                what = f"'input' approves a call of '{request.name}' of the MCP server '{request.server_label}'"
                raise InvalidRequestError(f"{what}, which is not among the 'tools'.", param="input")

    async def _run_waiting(self) -> AsyncGenerator[list[Event], None]:
        """Have the calls run, unless there were enough, and yield the events that tell of it."""
        for call in self._output.waiting:
            if self._num_calls >= (most := self._asked.body.max_tool_calls or _MOST_CALLS):
                yield self._refuse(call, most)
                continue
            self._num_calls += 1
            self._record.notes["mcp_calls"] = self._num_calls
            self._record.may_be_repeated = False
            yield list(call.running())
            async with self._deadline.running():
                result = await self._calls.call(call.label, call.name, call.arguments)
            yield self._output.settle(call, result)

    def _refuse(self, call: OpenServerCall, most: int) -> list[Event]:
        self._has_refused_call = True
        message = f"it was not made, for no more than {most} are made for one answer. Answer with what is known."
        error = McpProtocolError(type="mcp_protocol_error", code=NOT_MADE, message=message)
        return self._output.settle(call, CallResult(McpOutcome.REFUSED, error=error))

    # --- what all turns share ---------------------------------------------------------------------------------------

    def _num_generated(self) -> int:
        return sum(usage.completion_tokens for usage in self._usages)

    def _tokens_left(self) -> int | None:
        most = self._asked.sampling.max_tokens
        return None if most is None else max(0, most - self._num_generated())

    def _sampling(self) -> SamplingParams:
        sampling = self._asked.sampling
        min_tokens = max(0, sampling.min_tokens - self._num_generated())
        return replace(sampling, max_tokens=self._tokens_left(), min_tokens=min_tokens)

    def _write_notes(self) -> None:
        """Let the log line tell what all turns have cost; each has told its own."""
        usage, notes = self.usage, self._record.notes
        notes["prompt_tokens"] = usage.prompt_tokens
        notes["cached_tokens"] = usage.prompt_tokens_details.cached_tokens
