"""Tools of type mcp, as a request names them.

Stage: 2 validate.
Owns: their fields. Which servers there are, the settings say (responses/server_tools/mcp_tools.py compares).
Does not know: what tools a server has.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import Discriminator, Field, Tag, model_validator

from gptoss_adapter.schemas.fields import AllowedCallers, ListOf, NotHonoured, RequestModel

_OPERATORS = "the operator sets it in adapter.mcp_servers"


class ToolFilter(RequestModel):
    """Those tools of a server that all of it fits."""

    tool_names: ListOf[str] | None = None
    read_only: bool | None = None
    """Whether the server calls the tool one that only reads (`readOnlyHint`)."""

    @model_validator(mode="after")
    def _check_says_something(self) -> Self:
        if self.tool_names is None and self.read_only is None:
            raise ValueError("name 'tool_names', 'read_only' or both")
        return self


class ApprovalFilters(RequestModel):
    """Which tools are only run once somebody has approved of the call. Those that neither names are such tools, too."""

    always: ToolFilter | None = None
    """Wins over `never`."""
    never: ToolFilter | None = None


def _allowed_kind(value: object) -> str:
    return "names" if isinstance(value, list) else "filter"


def _approval_kind(value: object) -> str:
    return "word" if isinstance(value, str) else "filters"


class McpTool(RequestModel):
    """The tools of one MCP server."""

    type: Literal["mcp"]
    server_label: str
    """One of the operator's: the server connects to no other."""
    server_url: str | None = None
    """The operator's for this label, or left out."""
    server_description: str | None = None
    """The model is told it with the first of the tools."""
    allowed_tools: (
        Annotated[
            Annotated[ListOf[str], Tag("names")] | Annotated[ToolFilter, Tag("filter")], Discriminator(_allowed_kind)
        ]
        | None
    ) = None
    require_approval: (
        Annotated[
            Annotated[Literal["always", "never"], Tag("word")] | Annotated[ApprovalFilters, Tag("filters")],
            Discriminator(_approval_kind),
        ]
        | None
    ) = None
    """None: always, as at OpenAI."""
    authorization: Annotated[object, NotHonoured(instead=_OPERATORS)] = None
    headers: Annotated[object, NotHonoured({}, instead=_OPERATORS)] = None
    connector_id: Annotated[object, NotHonoured(instead="name a 'server_label'")] = None
    tunnel_id: Annotated[object, NotHonoured(instead="name a 'server_label'")] = None
    allowed_callers: AllowedCallers = None
    defer_loading: Annotated[object, NotHonoured(False)] = None


class NamedMcp(RequestModel):
    """Names the tools of one server, or one of them."""

    type: Literal["mcp"]
    server_label: str
    name: Annotated[str, Field(min_length=1)] | None = None
