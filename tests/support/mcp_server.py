"""A small MCP server, made with the official package, for the tests of tools of type mcp."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from mcp.server.mcpserver import Image, MCPServer
from mcp.server.mcpserver.exceptions import ToolError
from mcp_types import ToolAnnotations
from starlette.types import ASGIApp, Receive, Scope, Send

from support.live_app import live

SECRET = "Bearer of-the-operator"
DOCS: dict[str, Any] = {"type": "mcp", "server_label": "docs", "require_approval": "never"}
ASKED: dict[str, Any] = {"type": "mcp", "server_label": "docs"}
SEARCH = {"query": "x"}


def calling(tool: str, arguments: object = SEARCH, thought: str = "Look it up.") -> str:
    """Return a turn of the model that calls a tool of the server `docs`."""
    text = arguments if isinstance(arguments, str) else json.dumps(arguments)
    return (
        f"<|channel|>analysis<|message|>{thought}<|end|><|start|>assistant<|channel|>commentary"
        f" to=functions.docs__{tool} <|constrain|>json<|message|>{text}<|call|>"
    )


def kinds(output: list[dict[str, Any]]) -> list[str]:
    """Return the items' types."""
    return [item["type"] for item in output]


def call_of(told: dict[str, Any]) -> dict[str, Any]:
    """Return the one call among a response's items."""
    [call] = [item for item in told["output"] if item["type"] == "mcp_call"]
    return call


@dataclass
class Seen:
    """What the server was asked."""

    calls: list[tuple[str, object]] = field(default_factory=list)
    cancelled: list[str] = field(default_factory=list)
    num_requests: int = 0
    authorizations: set[str | None] = field(default_factory=set)

    def forget(self) -> None:
        self.calls.clear()
        self.cancelled.clear()
        self.num_requests = 0
        self.authorizations.clear()


@contextmanager
def mcp_server(seen: Seen) -> Iterator[str]:
    """Serve tools on a free port and yield the server's URL."""
    app = _Watched(_server(seen).streamable_http_app(), seen)
    with live(app) as url:
        yield f"{url}/mcp"


def _server(seen: Seen) -> MCPServer:
    server = MCPServer("docs", log_level="CRITICAL")

    @server.tool(annotations=ToolAnnotations(read_only_hint=True))
    def search(query: str) -> str:
        """Search the documents."""
        seen.calls.append(("search", query))
        return f"Found: {query}"

    @server.tool()
    def delete(name: str) -> str:
        """Delete a document."""
        seen.calls.append(("delete", name))
        return f"Deleted {name}."

    @server.tool()
    def fail() -> str:
        """Fail."""
        seen.calls.append(("fail", None))
        raise ToolError("no such shelf")

    @server.tool()
    def long() -> str:
        """Return much."""
        return "word " * 2000

    @server.tool()
    def picture() -> Image:
        """Return a picture."""
        return Image(data=b"png", format="png")

    @server.tool()
    async def wait(seconds: float) -> str:
        """Wait."""
        seen.calls.append(("wait", seconds))
        try:
            await asyncio.sleep(seconds)
        except asyncio.CancelledError:
            seen.cancelled.append("wait")
            raise
        return "waited"

    return server


class _Watched:
    """ASGI middleware that looks at the requests."""

    def __init__(self, app: ASGIApp, seen: Seen) -> None:
        self._app = app
        self._seen = seen

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            self._seen.num_requests += 1
            self._seen.authorizations.add(dict(scope["headers"]).get(b"authorization", b"").decode() or None)
        await self._app(scope, receive, send)
