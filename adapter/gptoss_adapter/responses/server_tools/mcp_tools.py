"""Tools of type mcp: which servers and which of their tools a request means.

Stage: 2 validate.
Owns: that only the operator's servers are named; which of a server's tools are offered, which need approval.
Does not know: how servers are reached; how tools are told to the model (tools.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from pydantic import ValidationError

from gptoss_adapter.errors import McpListingError, invalid_value
from gptoss_adapter.mcp_servers.servers import McpServers
from gptoss_adapter.mcp_servers.tools import ListedTool
from gptoss_adapter.schemas.mcp_tools import McpTool, ToolFilter
from gptoss_adapter.schemas.response_tools import RequestedTool, ResponseTool


def mcp_tools(tools: Sequence[RequestedTool] | None, servers: McpServers) -> list[McpTool]:
    """Return those of type mcp. Raises InvalidRequestError where one is of no server of the operator's."""
    labels: set[str] = set()
    found: list[McpTool] = []
    for at, tool in enumerate(tools or ()):
        if isinstance(tool, McpTool):
            _check_server(tool, f"tools[{at}]", servers)
            if tool.server_label in labels:
                message = f"'tools' names the MCP server '{tool.server_label}' twice."
                raise invalid_value(message, f"tools[{at}].server_label")
            labels.add(tool.server_label)
            found.append(tool)
    return found


def _check_server(tool: McpTool, place: str, servers: McpServers) -> None:
    if tool.server_label not in servers.labels:
        those = ", ".join(f"'{label}'" for label in servers.labels)
        there = f"it has {those}" if those else "it has none (adapter.mcp_servers)"
        message = f"'{place}.server_label': this server has no MCP server '{tool.server_label}'; {there}."
        raise invalid_value(message, f"{place}.server_label")
    if tool.server_url is not None and tool.server_url != servers.url(tool.server_label):
        message = (
            f"'{place}.server_url': this server connects to the MCP servers of its operator only; "
            f"leave it out, '{tool.server_label}' says which one."
        )
        raise invalid_value(message, f"{place}.server_url")


async def listed_tools(tools: Iterable[McpTool], servers: McpServers) -> dict[str, list[ListedTool]]:
    """Return the tools of each server. Raises McpListingError, and InvalidRequestError as `check_allowed`."""
    listed: dict[str, list[ListedTool]] = {}
    for tool in tools:
        listed[tool.server_label] = await servers.tools(tool.server_label)
        check_allowed(tool, listed[tool.server_label])
    return listed


def check_allowed(tool: McpTool, listed: Iterable[ListedTool]) -> None:
    """Raise InvalidRequestError where a tool is allowed that its server does not have."""
    allowed, names = _allowed(tool), [one.name for one in listed]
    for name in (allowed.tool_names if allowed is not None else None) or ():
        if name not in names:
            there = ", ".join(names) or "none"
            message = f"'tools': the MCP server '{tool.server_label}' has no tool '{name}'; it has {there}."
            raise invalid_value(message, "tools")


def is_allowed(tool: McpTool, listed: ListedTool) -> bool:
    """Say whether the request offers a tool of the server."""
    allowed = _allowed(tool)
    return allowed is None or _fits(allowed, listed)


def needs_approval(tool: McpTool, listed: ListedTool) -> bool:
    """Say whether somebody is asked before the tool is run."""
    match tool.require_approval:
        case "never":
            return False
        case None | "always":
            return True
        case filters:
            if filters.always is not None and _fits(filters.always, listed):
                return True
            return filters.never is None or not _fits(filters.never, listed)


def function_of(listed: ListedTool, label: str) -> ResponseTool:
    """Return a server's tool as a function. Raises McpListingError where it cannot be one."""
    try:
        return ResponseTool(
            type="function", name=listed.name, description=listed.description, parameters=listed.input_schema
        )
    except ValidationError as error:
        why = f"Its tool {listed.name!r} has a name that no function can have; leave it out of 'allowed_tools'."
        raise McpListingError(label, why) from error


def _allowed(tool: McpTool) -> ToolFilter | None:
    """Return `allowed_tools` as a filter, whichever way it was written."""
    if isinstance(tool.allowed_tools, list):
        return ToolFilter(tool_names=tool.allowed_tools)
    return tool.allowed_tools


def _fits(wanted: ToolFilter, listed: ListedTool) -> bool:
    is_named = wanted.tool_names is None or listed.name in wanted.tool_names
    return is_named and wanted.read_only in (None, listed.is_read_only)
