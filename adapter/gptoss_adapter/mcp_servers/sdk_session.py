"""A session with an MCP server, over the `mcp` package.

Stage: between the turns of an answer.
Owns: the task in which a session is opened and closed; what of the package's results is used.
Does not know: responses; how long a call may take.

Only imported where `adapter.mcp_servers` names a server.
"""

from __future__ import annotations

import asyncio
import logging
import uuid
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Final, cast

import httpx2
from mcp import MCPError
from mcp.client import Client
from mcp.client.streamable_http import streamable_http_client
from mcp_types import (
    CONNECTION_CLOSED,
    INVALID_REQUEST,
    REQUEST_TIMEOUT,
    CallToolResult,
    Implementation,
    RequestParamsMeta,
    Tool,
)
from pydantic import JsonValue

from gptoss_adapter.mcp_servers.results import result_text
from gptoss_adapter.mcp_servers.tools import CallResult, ListedTool, McpOutcome
from gptoss_adapter.schemas.mcp_items import McpProtocolError, McpToolExecutionError
from gptoss_backend.settings import McpServerSettings

logger = logging.getLogger(__name__)

_CONNECT_TIMEOUT_S: Final = 5.0
_MAX_PAGES: Final = 100
"""Of a listing: a server that never ends it is not waited for."""
_MAX_EVENT_BYTES: Final = 16 * 1024 * 1024
"""Of a result that comes as an event, pictures included."""
_CLOSE_TIMEOUT_S: Final = 5.0
_OF_THE_CONNECTION: Final = (CONNECTION_CLOSED, REQUEST_TIMEOUT, INVALID_REQUEST)
"""Codes that the package gives to what no server has said; the last to a session that the server has forgotten."""
_TLS: Final = httpx2.create_ssl_context()
"""Made once: it takes 48 ms, for which every stream of this process waits."""

for _name in ("httpx2", "mcp"):  # at INFO they tell each request, with its URL
    logging.getLogger(_name).setLevel(logging.WARNING)


class SdkSession:
    """An McpSession.

    A task of its own holds the package's client open: its cancel scopes must be left in the task that entered them, and
    what answers a stream changes tasks.
    """

    def __init__(self, label: str, server: McpServerSettings, version: str) -> None:
        """label: the server's, for the log: its URL may hold a secret. version: of this software, as it is told."""
        self._label = label
        self._server = server
        self._version = version
        self._meta = cast(RequestParamsMeta, {"client_id": uuid.uuid4().hex})
        """By this OpenAI's browser of an example tells clients, whose pages it keeps apart."""
        self._is_over = asyncio.Event()
        self._opened: asyncio.Future[Client] = asyncio.get_running_loop().create_future()
        self.task: asyncio.Task[None] | None = None

    async def tools(self) -> list[ListedTool]:
        """Return all tools of the server."""
        client = await self._client()
        tools: list[ListedTool] = []
        cursor = None
        for _ in range(_MAX_PAGES):
            page = await client.list_tools(cursor=cursor)
            tools += map(_listed, page.tools)
            cursor = page.next_cursor
            if cursor is None:
                return tools
        raise ValueError(f"the list of tools has more than {_MAX_PAGES} pages")

    async def instructions(self) -> str | None:
        """Return what the server says of its tools as a whole."""
        return (await self._client()).instructions

    async def call(self, name: str, arguments: Mapping[str, JsonValue]) -> CallResult:
        """Run a tool and return what came of it, be it an error that the server tells."""
        client = await self._client()
        try:
            return _result(await client.call_tool(name, dict(arguments), meta=self._meta))
        except MCPError as error:
            if error.code in _OF_THE_CONNECTION:
                raise
            refused = McpProtocolError(type="mcp_protocol_error", code=error.code, message=error.message)
            return CallResult(McpOutcome.REFUSED, error=refused)

    def end(self) -> None:
        """Close it, without waiting for that."""
        self._is_over.set()
        if self.task is not None and not self._opened.done():
            self.task.cancel()

    async def _client(self) -> Client:
        if self.task is None:
            self.task = asyncio.create_task(self._hold(), name="mcp-session")
        return await asyncio.shield(self._opened)  # whoever gives up waiting calls end()

    async def _hold(self) -> None:
        """Open the session, and close it once it is over."""
        try:
            async with asyncio.timeout(None) as closing, self._connection() as client:
                self._opened.set_result(client)
                await self._is_over.wait()
                closing.reschedule(asyncio.get_running_loop().time() + _CLOSE_TIMEOUT_S)
        except Exception as error:  # noqa: BLE001 (whatever the package raises means that there is no session)
            if self._opened.done():
                logger.info("a session with the MCP server %s ended: %r", self._label, error)
            else:
                self._fail(error)
        finally:
            if not self._opened.done():  # who waits is not cancelled with this task
                self._fail(ConnectionError("the session was given up"))

    def _fail(self, error: Exception) -> None:
        self._opened.set_exception(error)
        self._opened.exception()  # nobody need be waiting any more

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[Client]:
        timeout = httpx2.Timeout(None, connect=_CONNECT_TIMEOUT_S)
        async with httpx2.AsyncClient(headers=self._server.headers, timeout=timeout, verify=_TLS) as http:
            transport = streamable_http_client(self._server.url, http_client=http, max_sse_event_size=_MAX_EVENT_BYTES)
            about = Implementation(name="gptoss-triton", version=self._version)
            async with Client(transport, client_info=about, cache=None) as client:
                yield client


def _listed(tool: Tool) -> ListedTool:
    annotations = tool.annotations
    return ListedTool(
        name=tool.name,
        description=tool.description,
        input_schema=tool.input_schema,
        annotations=annotations.model_dump(mode="json", by_alias=True, exclude_none=True) if annotations else None,
    )


def _result(result: CallToolResult) -> CallResult:
    parts = [part.model_dump(mode="json", by_alias=True, exclude_none=True) for part in result.content]
    text = result_text(parts, result.structured_content)
    if not result.is_error:
        return CallResult(McpOutcome.COMPLETED, text)
    content: JsonValue = [{"type": "text", "text": text}]
    failed = McpToolExecutionError(type="mcp_tool_execution_error", content=content)
    return CallResult(McpOutcome.TOOL_ERROR, error=failed)
