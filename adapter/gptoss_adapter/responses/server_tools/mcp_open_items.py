"""Items of tools that MCP servers run, while they are being written, and the events that tell of them.

Stage: 7 SSE.
Owns: the order and the fields of these events: a call's item ends once the server has answered.
Does not know: how a call is made.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

from gptoss_adapter.content import ContentToken
from gptoss_adapter.mcp_servers.tools import CallResult, ListedTool
from gptoss_adapter.responses.open_items import Event, OpenItem, OpenServerCall
from gptoss_adapter.schemas.mcp_items import (
    McpApprovalRequestItem,
    McpCallError,
    McpCallItem,
    McpCallStatus,
    McpListedTool,
    McpListToolsItem,
    McpProtocolError,
)
from gptoss_adapter.schemas.response_items import ItemStatus

NOT_MADE: Final = -32000
"""The code, of those that JSON-RPC leaves to servers, of a call that was not made or not waited for."""


class OpenMcpCall(OpenServerCall):
    """A call of a tool of type mcp."""

    kind = McpCallItem
    text_event = "response.mcp_call_arguments"

    def __init__(self, output_index: int, label: str, name: str, approval_request_id: str | None = None) -> None:
        super().__init__(output_index, label, name)
        self._approval_request_id = approval_request_id
        self._result: CallResult | None = None

    def item(self, status: ItemStatus) -> McpCallItem:
        """Return the item as it is now; status: unless the server has answered."""
        result = self._result
        if result is None:
            return self._item(status)
        return self._item("failed", error=result.error) if result.error else self._item("completed", output=result.text)

    def opening(self) -> Iterator[Event]:
        """Yield what tells that it begins."""
        yield from super().opening()
        yield "response.mcp_call.in_progress", self._place()

    def closing(self, status: ItemStatus) -> Iterator[Event]:
        """Yield what tells that it has been written, or cut."""
        yield f"{self.text_event}.done", {**self._place(), "arguments": self.text}
        if status != "completed":
            yield from super().closing(status)

    def settling(self, result: CallResult | None) -> Iterator[Event]:
        """Take the result, None where it is not run, and yield what tells of it."""
        self._result = result
        if result is not None:
            yield f"response.mcp_call.{'completed' if result.error is None else 'failed'}", self._place()
        yield from super().closing("incomplete")

    def given_up(self) -> McpCallItem:
        """Return the item where the response ends without its result."""
        if not self.is_running:
            return self._item("incomplete")
        message = "The call was interrupted; whether the tool has done its work is not known."
        error = McpProtocolError(type="mcp_protocol_error", code=NOT_MADE, message=message)
        return self._item("failed", error=error)

    def _item(
        self, status: McpCallStatus, *, error: McpCallError | None = None, output: str | None = None
    ) -> McpCallItem:
        return McpCallItem(
            id=self.id,
            type="mcp_call",
            status=status,
            server_label=self.label,
            name=self.name,
            arguments=self.text,
            approval_request_id=self._approval_request_id,
            error=error,
            output=output,
        )


class OpenApprovalRequest(OpenItem):
    """A call that somebody is asked about: told once it is whole."""

    kind = McpApprovalRequestItem

    def __init__(self, output_index: int, label: str, name: str) -> None:
        super().__init__(output_index)
        self._label = label
        self._name = name

    def is_told(self, status: ItemStatus) -> bool:
        """Say whether it is whole: nobody is asked about half a call."""
        return status == "completed"

    def item(self, status: ItemStatus) -> McpApprovalRequestItem:
        """Return the item as it is now."""
        return McpApprovalRequestItem(
            id=self.id,
            type="mcp_approval_request",
            server_label=self._label,
            name=self._name,
            arguments=self.text,
        )

    def opening(self) -> Iterator[Event]:
        """Yield nothing."""
        yield from ()

    def grow(self, text: str, tokens: Sequence[ContentToken]) -> Iterator[Event]:
        """Take more of the arguments."""
        self._pieces.append(text)
        yield from ()

    def closing(self, status: ItemStatus) -> Iterator[Event]:
        """Yield all that tells of it."""
        if self.is_told(status):
            yield from super().opening()
            yield from super().closing(status)


class OpenToolList(OpenItem):
    """The tools of a server, or why there are none."""

    kind = McpListToolsItem

    def __init__(self, output_index: int, label: str, tools: Sequence[ListedTool], error: str | None = None) -> None:
        super().__init__(output_index)
        self._label = label
        self._tools = tools
        self._error = error

    def item(self, status: ItemStatus) -> McpListToolsItem:
        """Return the item; one in progress has no tools yet."""
        whole = status != "in_progress"
        return McpListToolsItem(
            id=self.id,
            type="mcp_list_tools",
            server_label=self._label,
            tools=[_told(tool) for tool in self._tools] if whole else [],
            error=self._error if whole else None,
        )

    def told(self) -> Iterator[Event]:
        """Yield all that tells of it."""
        yield from self.opening()
        yield "response.mcp_list_tools.in_progress", self._place()
        yield f"response.mcp_list_tools.{'completed' if self._error is None else 'failed'}", self._place()
        yield from self.closing("completed")


def _told(tool: ListedTool) -> McpListedTool:
    return McpListedTool(
        name=tool.name, description=tool.description, input_schema=tool.input_schema, annotations=tool.annotations
    )
