"""Items that tell of tools which MCP servers run.

Stage: 2 validate, and 7 SSE.
Owns: their shapes. They go both ways, as those of response_items.py do.
Does not know: what an item means to the model (responses/server_tools/mcp_conversation.py); MCP itself.
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import Field, JsonValue

from gptoss_adapter.schemas.fields import ItemId, ListOf, RequestModel


class McpProtocolError(RequestModel):
    """The call was no call: the server knows no such tool, or the arguments are none; or it was not made at all."""

    type: Literal["mcp_protocol_error"]
    code: int
    """JSON-RPC's."""
    message: str


class McpToolExecutionError(RequestModel):
    """The tool ran, and failed."""

    type: Literal["mcp_tool_execution_error"]
    content: JsonValue
    """What it says of that: parts of text."""


class McpHttpError(RequestModel):
    """The server could not be reached, or did not answer in time."""

    type: Literal["http_error"]
    code: int
    """502 or 504."""
    message: str


McpCallError: TypeAlias = McpProtocolError | McpToolExecutionError | McpHttpError


McpCallStatus = Literal["in_progress", "completed", "incomplete", "calling", "failed"]


class McpCallItem(RequestModel):
    """A call of a tool, and what came of it."""

    id: ItemId | None = None
    type: Literal["mcp_call"]
    status: McpCallStatus | None = None
    server_label: str
    name: str
    arguments: str
    """JSON text, as the model wrote it."""
    approval_request_id: str | None = None
    error: Annotated[McpCallError, Field(discriminator="type")] | None = None
    output: str | None = None


class McpListedTool(RequestModel):
    """A tool, as its server describes it."""

    name: str
    description: str | None = None
    input_schema: JsonValue
    annotations: JsonValue = None


class McpListToolsItem(RequestModel):
    """The tools of a server that the model was told of."""

    id: ItemId | None = None
    type: Literal["mcp_list_tools"]
    server_label: str
    tools: ListOf[McpListedTool]
    error: str | None = None
    """Why there are none."""


class McpApprovalRequestItem(RequestModel):
    """A call that the model wants to make, and that somebody is asked about."""

    id: ItemId | None = None
    type: Literal["mcp_approval_request"]
    server_label: str
    name: str
    arguments: str


class McpApprovalResponseItem(RequestModel):
    """What whoever was asked says."""

    id: ItemId | None = None
    type: Literal["mcp_approval_response"]
    approval_request_id: ItemId
    approve: bool
    reason: str | None = None
    """The model is told it where the call is refused."""


McpItem: TypeAlias = McpCallItem | McpListToolsItem | McpApprovalRequestItem | McpApprovalResponseItem
