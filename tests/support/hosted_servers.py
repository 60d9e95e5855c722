"""MCP servers with the tools of OpenAI's example: a browser over two pages, and one that runs some Python."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError

from gptoss_backend.contract import BuiltinName, BuiltinTool
from support.live_app import live

ABOUT_PYTHON = "Runs Python code, each time anew."
TOWER = "https://tower.example/height?of=a b"
ADDRESS = "https://tower.example/height?of=a%20b"
"""TOWER, as it is told."""
PAGES = {TOWER: "Tower (iron)", "https://bridge.example/": "Bridge"}
SEARCH: dict[str, Any] = {"type": "web_search"}
CODE: dict[str, Any] = {"type": "code_interpreter", "container": {"type": "auto"}}
ALL = ["web_search_call.results", "web_search_call.action.sources", "code_interpreter_call.outputs"]
"""What `include` may name of them."""
BROWSER, PYTHON = BuiltinTool(BuiltinName.BROWSER), BuiltinTool(BuiltinName.PYTHON, ABOUT_PYTHON)


def browsing(function: str, thought: str = "Look it up.", **arguments: object) -> str:
    """Return a turn of the model that uses the browser."""
    return _calling(f"browser.{function}", json.dumps(arguments), thought)


def coding(code: str, thought: str = "Compute.") -> str:
    """Return a turn of the model that has code run."""
    return _calling("python", code, thought)


def saying(text: str) -> str:
    """Return a turn of the model that answers."""
    return f"<|channel|>final<|message|>{text}<|return|>"


def _calling(recipient: str, text: str, thought: str) -> str:
    return (
        f"<|channel|>analysis<|message|>{thought}<|end|><|start|>assistant<|channel|>analysis"
        f" to={recipient} code<|message|>{text}<|call|>"
    )


@dataclass
class Browsed:
    """What the servers were asked."""

    calls: list[tuple[str, object]] = field(default_factory=list)
    browsers: dict[str, list[str]] = field(default_factory=dict)
    """The pages on show, by client."""
    cancelled: list[str] = field(default_factory=list)

    def forget(self) -> None:
        self.calls.clear()
        self.browsers.clear()
        self.cancelled.clear()


@contextmanager
def hosted_servers(seen: Browsed) -> Iterator[dict[str, str]]:
    """Serve both on free ports and yield their URLs by label, with one that has neither's tools."""
    nothing = MCPServer("nothing", log_level="CRITICAL")
    with (
        live(_browser(seen).streamable_http_app()) as browser,
        live(_python(seen).streamable_http_app()) as python,
        live(nothing.streamable_http_app()) as other,
    ):
        yield {"browser": f"{browser}/mcp", "python": f"{python}/mcp", "nothing": f"{other}/mcp"}


def _browser(seen: Browsed) -> MCPServer:
    server = MCPServer("browser", log_level="CRITICAL")

    def stack(context: Context) -> list[str]:
        meta: Any = context.request_context.meta
        return seen.browsers.setdefault(meta["client_id"], [])

    def shown(pages: list[str], head: str, url: str, text: str) -> str:
        pages.append(url)
        return f"[{len(pages) - 1}] {head}\n**viewing lines [0 - 1] of 1**\n\nL0: {text}"

    @server.tool()
    def search(context: Context, query: str, topn: int = 10, source: str | None = None) -> str:
        """Search."""
        seen.calls.append(("search", query))
        links = " ".join(f"【{at}†{title}†{url.split('/')[2]}】" for at, (url, title) in enumerate(PAGES.items()))
        return shown(stack(context), query, "", links)

    @server.tool(name="open")
    def open_page(context: Context, id: int | str = -1, cursor: int = -1, loc: int = -1) -> str:
        """Open."""
        seen.calls.append(("open", id))
        pages = stack(context)
        if id == 99:
            return "Error opening link: Invalid link id `99`."
        url = id if isinstance(id, str) else list(PAGES)[id] if id >= 0 else pages[cursor]
        return shown(pages, f"{PAGES[url]} ({url})", url, "330 m")

    @server.tool()
    def find(context: Context, pattern: str, cursor: int = -1) -> str:
        """Find."""
        seen.calls.append(("find", pattern))
        pages = stack(context)
        url = pages[cursor]
        head = f"Find results for text: `{pattern}` in `{PAGES[url]}` ({url}/find?pattern={pattern})"
        return shown(pages, head, url, f"# 【0†match at L0】 {pattern}")

    return server


def _python(seen: Browsed) -> MCPServer:
    server = MCPServer("python", instructions=ABOUT_PYTHON, log_level="CRITICAL")

    @server.tool()
    async def python(code: str) -> str:
        """Run code."""
        seen.calls.append(("python", code))
        if code == "fail":
            raise ToolError("no disk")
        if code == "wait":
            try:
                await asyncio.sleep(30)
            except asyncio.CancelledError:
                seen.cancelled.append(code)
                raise
        return f"ran {code}\n"

    return server
