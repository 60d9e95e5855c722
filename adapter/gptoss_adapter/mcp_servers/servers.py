"""The MCP servers that the operator names, and calls of their tools.

Stage: 2 validate (which tools there are), and between the turns of an answer.
Owns: the servers by label, the lists of their tools, what bounds a call and counts it.
Does not know: how a session is held (sdk_session.py), responses.
"""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from typing import Final, TypeAlias

from pydantic import JsonValue

from gptoss_adapter.errors import McpListingError
from gptoss_adapter.mcp_servers.results import shortened
from gptoss_adapter.mcp_servers.tools import CallResult, ListedTool, McpOutcome, McpSession, ToolList
from gptoss_adapter.metrics import Metrics
from gptoss_adapter.schemas.mcp_items import McpHttpError, McpProtocolError, McpToolExecutionError
from gptoss_backend.settings import AdapterSettings, HostedKind

logger = logging.getLogger(__name__)

INVALID_ARGUMENTS: Final = -32602
"""JSON-RPC's code."""
_LIST_KEPT_S: Final = 60.0
_MAX_LOGGED_CHARS: Final = 300

Connect: TypeAlias = Callable[[str], McpSession]
"""Returns a new session with the server of that label."""
AroundCall: TypeAlias = Callable[[str, str], AbstractContextManager[None]]
"""What watches a call: of the server of that label, of the tool of that name."""


def nobody_watches(label: str, name: str) -> AbstractContextManager[None]:
    """Watch nothing."""
    return nullcontext()


def _no_session(label: str) -> McpSession:
    raise LookupError(f"there is no MCP server {label}")


class McpServers:
    """The servers. Used by the event loop's thread only."""

    def __init__(
        self,
        settings: AdapterSettings,
        metrics: Metrics,
        connect: Connect | None = None,
        around_call: AroundCall = nobody_watches,
    ) -> None:
        """connect: None where there are no servers."""
        self._settings = settings
        self._metrics = metrics
        self._connect = connect or _no_session
        self._around_call = around_call
        self._lists: dict[str, tuple[float, ToolList]] = {}
        self._listing: dict[str, asyncio.Task[ToolList]] = {}
        for label in self.labels:
            metrics.expect_mcp_calls(label, McpOutcome)

    @property
    def labels(self) -> list[str]:
        """The servers' names."""
        return list(self._settings.mcp_servers)

    def url(self, label: str) -> str:
        """Return where the server is."""
        return self._settings.mcp_servers[label].url

    def running(self, kind: HostedKind) -> str | None:
        """Return the label of the server that stands in for a tool of OpenAI's; None: nobody does."""
        return self._settings.hosted_tools.get(kind)

    async def tools(self, label: str) -> list[ListedTool]:
        """Return the tools of a server. Raises McpListingError."""
        return (await self.listing(label)).tools

    async def listing(self, label: str) -> ToolList:
        """Return the tools of a server, as it told them no longer ago than a minute. Raises McpListingError."""
        if (known := self._lists.get(label)) is not None and time.monotonic() - known[0] < _LIST_KEPT_S:
            return known[1]
        if (listing := self._listing.get(label)) is None:
            listing = self._listing[label] = asyncio.create_task(self._list(label), name="list-mcp-tools")
            listing.add_done_callback(lambda done: self._end_listing(label, done))
        return await asyncio.shield(listing)  # others may wait for it, too

    def calls(self) -> McpCalls:
        """Return what makes the calls of one response."""
        return McpCalls(self._settings, self._metrics, self._connect, self._around_call)

    async def close(self) -> None:
        """Give up what is being listed."""
        for listing in self._listing.values():
            listing.cancel()

    async def _list(self, label: str) -> ToolList:
        session = self._connect(label)
        timeout_s = self._settings.mcp_timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                listed = ToolList(await session.tools(), await session.instructions())
        except TimeoutError as error:
            raise McpListingError(label, f"It did not answer within {timeout_s:g} s.") from error
        except Exception as error:
            logger.warning("the tools of the MCP server %s cannot be listed: %s", label, why(error))
            what = "It cannot be reached, or speaks no MCP; this server's log says why."
            raise McpListingError(label, what) from error
        finally:
            session.end()
        self._lists[label] = (time.monotonic(), listed)
        return listed

    def _end_listing(self, label: str, listing: asyncio.Task[ToolList]) -> None:
        del self._listing[label]
        if not listing.cancelled():
            listing.exception()  # nobody need be waiting any more


class McpCalls:
    """The calls of one response: one session for each server, so that what a server remembers stays within it."""

    def __init__(self, settings: AdapterSettings, metrics: Metrics, connect: Connect, around_call: AroundCall) -> None:
        self._settings = settings
        self._metrics = metrics
        self._connect = connect
        self._around_call = around_call
        self._sessions: dict[str, McpSession] = {}

    async def call(self, label: str, name: str, arguments: str) -> CallResult:
        """Run a tool and return what came of it: whatever goes wrong is a result, too.

        arguments: JSON text, as the model wrote it.
        """
        begun_at = time.perf_counter()
        outcome = McpOutcome.CANCELLED
        try:
            with self._around_call(label, name):
                result = self._shortened(await self._call(label, name, arguments))
            outcome = result.outcome
            return result
        finally:
            self._metrics.mcp_calls.labels(label, outcome).inc()
            self._metrics.mcp_call_time.labels(label).observe(time.perf_counter() - begun_at)

    def end(self) -> None:
        """Close the sessions, without waiting for that."""
        while self._sessions:
            self._sessions.popitem()[1].end()

    async def _call(self, label: str, name: str, arguments: str) -> CallResult:
        try:
            parsed: JsonValue = json.loads(arguments or "{}")
        except (ValueError, RecursionError):
            parsed = None
        if not isinstance(parsed, dict):
            return _refused("The arguments are no JSON object.")
        timeout_s = self._settings.mcp_timeout_s
        try:
            async with asyncio.timeout(timeout_s):
                return await self._session(label).call(name, parsed)
        except TimeoutError:
            return self._failed(label, McpOutcome.TIMEOUT, 504, f"did not answer within {timeout_s:g} s")
        except Exception as error:  # noqa: BLE001 (a session may raise anything, and then is of no more use)
            logger.warning("a call of the MCP server %s failed: %s", label, why(error))
            return self._failed(label, McpOutcome.UNREACHABLE, 502, "cannot be reached, or answered with no result")

    def _session(self, label: str) -> McpSession:
        if label not in self._sessions:
            self._sessions[label] = self._connect(label)
        return self._sessions[label]

    def _failed(self, label: str, outcome: McpOutcome, code: int, what: str) -> CallResult:
        self._sessions.pop(label).end()  # the next call begins another
        return CallResult(outcome, error=McpHttpError(type="http_error", code=code, message=f"The MCP server {what}."))

    def _shortened(self, result: CallResult) -> CallResult:
        max_chars = self._settings.mcp_max_result_chars
        match result.error:
            case None:
                return replace(result, text=shortened(result.text, max_chars))
            case McpToolExecutionError(content=[{"text": str(text)}]) if len(text) > max_chars:
                content: JsonValue = [{"type": "text", "text": shortened(text, max_chars)}]
                return replace(result, error=result.error.model_copy(update={"content": content}))
            case McpProtocolError(message=message) if len(message) > max_chars:
                return replace(result, error=result.error.model_copy(update={"message": shortened(message, max_chars)}))
        return result


def why(error: BaseException) -> str:
    """Return an error as one line, of a group the first that is in it."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    told = " ".join(str(error).split())  # a server's words are in some, and a line of the log stays a line
    return f"{type(error).__name__}: {told[:_MAX_LOGGED_CHARS]}"


def _refused(message: str) -> CallResult:
    error = McpProtocolError(type="mcp_protocol_error", code=INVALID_ARGUMENTS, message=message)
    return CallResult(McpOutcome.REFUSED, error=error)
