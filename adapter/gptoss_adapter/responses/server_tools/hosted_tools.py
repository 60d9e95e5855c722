"""OpenAI's own tools: which of them a request wants, and which an MCP server runs in OpenAI's stead.

Stage: 2 validate.
Owns: what their options come to; that the server that stands in has what the model was trained to call.
Does not know: how servers are reached; how the model is told (harmony/builtin_tools.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Final

from fastapi.exceptions import RequestValidationError
from pydantic import ValidationError

from gptoss_adapter.errors import McpListingError, invalid_value
from gptoss_adapter.mcp_servers.servers import McpServers
from gptoss_adapter.schemas.hosted_tools import (
    CodeInterpreterTool,
    HostedTool,
    NamedHosted,
    UserLocation,
    WebSearchOptions,
)
from gptoss_adapter.schemas.response_tools import RequestedTool
from gptoss_backend.contract import BuiltinName, BuiltinTool
from gptoss_backend.harmony.builtin_tools import recipients
from gptoss_backend.settings import HostedKind

_BUILTINS: Final[dict[HostedKind, BuiltinName]] = {
    "web_search": BuiltinName.BROWSER,
    "code_interpreter": BuiltinName.PYTHON,
}


@dataclass(frozen=True, slots=True)
class HostedOffer:
    """A tool of OpenAI's that the model may use here."""

    kind: HostedKind
    label: str
    """Of the MCP server that runs it."""
    note: str | None = None
    """What the model is told besides."""
    description: str | None = None
    """What the server says of it; None: what the model was trained on."""

    @property
    def builtin(self) -> BuiltinTool:
        """The tool that it is to the model."""
        return BuiltinTool(_BUILTINS[self.kind], self.description)

    def is_named(self, choice: NamedHosted) -> bool:
        """Say whether it is the one that is chosen, whichever of its types it goes by."""
        return (choice.type == "code_interpreter") is (self.kind == "code_interpreter")


def hosted_tools(tools: Sequence[RequestedTool] | None, servers: McpServers) -> list[HostedOffer]:
    """Return those that are run here. Raises InvalidRequestError, RequestValidationError."""
    found: dict[HostedKind, HostedOffer] = {}
    for at, tool in enumerate(tools or ()):
        if (offer := _offer(tool, at, servers)) is None:
            continue
        if offer.kind in found:
            raise invalid_value(f"'tools' names the tool '{offer.kind}' twice.", f"tools[{at}].type")
        found[offer.kind] = offer
    return list(found.values())


async def described(offers: Iterable[HostedOffer], servers: McpServers) -> list[HostedOffer]:
    """Return them with what their servers say of them. Raises McpListingError."""
    return [await _described(offer, servers) for offer in offers]


def is_run(tool: RequestedTool, offers: Iterable[HostedOffer]) -> bool:
    """Say whether a tool is one of OpenAI's that is run here."""
    return any(offer.kind == _kind(tool) for offer in offers)


def tool_of(recipient: str) -> str:
    """Return which tool of a server a call is of: `browser.search` is the browser's `search`."""
    return recipient.rpartition(".")[2]


def _kind(tool: RequestedTool) -> HostedKind | None:
    if isinstance(tool, CodeInterpreterTool):
        return "code_interpreter"
    return "web_search" if isinstance(tool, HostedTool) and tool.type.startswith("web_search") else None


def _offer(tool: RequestedTool, at: int, servers: McpServers) -> HostedOffer | None:
    kind = _kind(tool)
    label = servers.running(kind) if kind is not None else None
    if isinstance(tool, CodeInterpreterTool) and label is None:
        what = "this server runs no code; its operator can name an MCP server that does (adapter.hosted_tools)"
        raise invalid_value(f"'tools[{at}].type': {what}.", f"tools[{at}].type")
    if kind is None or label is None:
        return None
    if not isinstance(tool, HostedTool):
        return HostedOffer(kind, label)
    options = _search_options(tool, at)
    return None if options.external_web_access is False else HostedOffer(kind, label, _where(options.user_location))


def _search_options(tool: HostedTool, at: int) -> WebSearchOptions:
    """Return what a search is to be like. Raises RequestValidationError: nobody looks at it where nobody searches."""
    fields = tool.model_dump()
    try:
        return WebSearchOptions.model_validate(fields)
    except ValidationError as error:
        faults = [{**fault, "loc": ("body", "tools", at, *fault["loc"])} for fault in error.errors()]
        raise RequestValidationError(faults, body={"tools": [*({} for _ in range(at)), fields]}) from error


def _where(location: UserLocation | None) -> str | None:
    if location is None:
        return None
    parts = (location.city, location.region, location.country, location.timezone)
    told = ", ".join(part for part in parts if part)
    return f"The user's approximate location: {told}." if told else None


async def _described(offer: HostedOffer, servers: McpServers) -> HostedOffer:
    listing = await servers.listing(offer.label)
    names = {tool.name for tool in listing.tools}
    for recipient in recipients([offer.builtin.name]):
        if (name := tool_of(recipient)) not in names:
            raise McpListingError(offer.label, f"It has no tool '{name}', without which it cannot run {offer.kind}.")
    return replace(offer, description=(listing.instructions or "").strip() or None)
