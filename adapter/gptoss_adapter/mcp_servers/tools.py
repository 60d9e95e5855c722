"""What is known of a server's tools and of what they return.

Stage: between the turns of an answer.
Owns: the types that the other modules here exchange.
Does not know: the `mcp` package.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from pydantic import JsonValue

from gptoss_adapter.schemas.mcp_items import McpCallError


class McpOutcome(StrEnum):
    """How a call ended, as metrics tell it."""

    COMPLETED = "completed"
    TOOL_ERROR = "tool_error"
    """The tool ran, and says that it failed."""
    REFUSED = "refused"
    """The server took it for no call, or the arguments were none."""
    UNREACHABLE = "unreachable"
    TIMEOUT = "timeout"
    CANCELLED = "cancelled"


@dataclass(frozen=True, slots=True)
class ListedTool:
    """A tool, as its server describes it."""

    name: str
    description: str | None
    input_schema: dict[str, JsonValue]
    annotations: dict[str, JsonValue] | None

    @property
    def is_read_only(self) -> bool:
        """Whether the server calls it so."""
        return (self.annotations or {}).get("readOnlyHint") is True


@dataclass(frozen=True, slots=True)
class ToolList:
    """All tools of a server."""

    tools: list[ListedTool]
    instructions: str | None
    """What the server says of them as a whole."""


@dataclass(frozen=True, slots=True)
class CallResult:
    """What came of a call."""

    outcome: McpOutcome
    text: str = ""
    """What the tool returned, where it completed."""
    error: McpCallError | None = None


class McpSession(Protocol):
    """A server's session. Opened on first use; whatever goes wrong in it raises, of any type."""

    async def tools(self) -> list[ListedTool]:
        """Return all tools of the server."""

    async def instructions(self) -> str | None:
        """Return what the server says of its tools as a whole."""

    async def call(self, name: str, arguments: Mapping[str, JsonValue]) -> CallResult:
        """Run a tool and return what came of it, be it an error that the server tells."""

    def end(self) -> None:
        """Close it, without waiting for that."""
