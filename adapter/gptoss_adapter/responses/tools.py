"""Tools: as a request offers them, as the model is told of them, as a response repeats them.

Stage: 2 validate → 3 prompt.
Owns: which tools are told; the one name that a namespace's tool has for the model; the rules on choosing.
Does not know: messages, Harmony.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Self, TypeAlias

from pydantic import JsonValue

from gptoss_adapter.errors import invalid_value
from gptoss_adapter.mcp_servers.tools import ListedTool
from gptoss_adapter.responses.server_tools.hosted_tools import HostedOffer, is_run
from gptoss_adapter.responses.server_tools.mcp_tools import function_of, is_allowed, needs_approval
from gptoss_adapter.schemas.custom_tools import NamedCustomTool, ResponseCustomTool
from gptoss_adapter.schemas.hosted_tools import AutoContainer, CodeInterpreterTool, HostedTool, NamedHosted
from gptoss_adapter.schemas.input_formats import FlatGrammar
from gptoss_adapter.schemas.mcp_tools import McpTool, NamedMcp
from gptoss_adapter.schemas.response_tools import (
    AllowedFunctions,
    FunctionNamespace,
    NamedFunction,
    RequestedTool,
    ResponseTool,
)
from gptoss_adapter.schemas.responses import ResponseFields
from gptoss_adapter.structured import input_form
from gptoss_backend.contract import CustomTool, FunctionTool, ToolChoice, ToolChoiceMode
from gptoss_backend.harmony.tool_names import TOOL_NAME

Listed: TypeAlias = Mapping[str, Sequence[ListedTool]]
"""The tools of MCP servers, by the servers' labels."""


@dataclass(frozen=True, slots=True)
class Offer:
    """A function that the model may call. A custom tool is one to the model, too."""

    place: str
    """Where the request has it."""
    function: ResponseTool | ResponseCustomTool
    namespace: FunctionNamespace | None = None
    server: McpTool | None = None
    """Which MCP server runs it; None: the client does."""
    needs_approval: bool = False
    """Whether somebody is asked before the server runs it."""

    @property
    def group(self) -> FunctionNamespace | McpTool | None:
        """What it belongs to, with others."""
        return self.namespace or self.server

    @property
    def name(self) -> str:
        """What the model knows it by."""
        label = self.server.server_label if self.server is not None else None
        return name_for_model(self.function.name, self.namespace.name if self.namespace is not None else label)

    @property
    def grammar(self) -> FlatGrammar | None:
        """What the input of a custom tool is held to; None: any text, or it takes no text."""
        asked = self.function.format if isinstance(self.function, ResponseCustomTool) else None
        return asked if isinstance(asked, FlatGrammar) else None


def name_for_model(name: str, namespace: str | None) -> str:
    """Return the one name of a function: a model's call has no place for its namespace."""
    return f"{namespace}__{name}" if namespace else name


def offers(tools: Sequence[RequestedTool] | None, listed: Listed | None = None) -> list[Offer]:
    """Return the functions among the tools, those of namespaces and servers in their places.

    Tools that OpenAI runs are none. Raises InvalidRequestError for a tool that its server does not have.
    """
    return [offer for at, tool in enumerate(tools or ()) for offer in _offers_of(tool, f"tools[{at}]", listed or {})]


def _offers_of(tool: RequestedTool, place: str, listed: Listed) -> Iterator[Offer]:
    match tool:
        case ResponseTool() | ResponseCustomTool():
            yield Offer(place, tool)
        case FunctionNamespace():
            for at, function in enumerate(tool.tools):
                yield Offer(f"{place}.tools[{at}]", function, tool)
        case McpTool():
            for one in listed.get(tool.server_label, ()):
                if is_allowed(tool, one):
                    function, is_asked = function_of(one, tool.server_label), needs_approval(tool, one)
                    yield Offer(place, function, server=tool, needs_approval=is_asked)


@dataclass(frozen=True, slots=True)
class Offering:
    """The functions of a request, OpenAI's tools that are run here, and how the model is to choose among them."""

    every: Sequence[Offer]
    every_hosted: Sequence[HostedOffer]
    told: Sequence[Offer]
    """Those that the model is told of."""
    hosted: Sequence[HostedOffer]
    """As `told`."""
    choice: ToolChoice
    is_narrowed: bool = False
    """Whether of all that may be called later one server's tools, or one of OpenAI's, are told: one is to be called."""

    @classmethod
    def of(cls, body: ResponseFields, every: Sequence[Offer], hosted: Sequence[HostedOffer]) -> Self:
        """Return what `body` says of them all. Raises InvalidRequestError where it names what is not there."""
        choice, told = tool_choice(body, every, hosted), allowed_offers(body, every)
        asked = body.tool_choice
        is_narrowed = isinstance(asked, NamedHosted) or (isinstance(asked, NamedMcp) and asked.name is None)
        check_names(every if is_narrowed else told)
        return cls(every, hosted, told, allowed_hosted(body, hosted), choice, is_narrowed)

    def afterwards(self, *, with_servers: bool) -> Self:
        """Return what holds for the turns after the first: a call that was demanded has been made.

        with_servers: whether what MCP servers run is still offered.
        """
        told, hosted = (self.every, self.every_hosted) if self.is_narrowed else (self.told, self.hosted)
        if not with_servers:
            told, hosted = [offer for offer in told if offer.server is None], ()
        choice = self.choice if self.choice.mode is ToolChoiceMode.NONE else ToolChoice()
        return replace(self, told=told, hosted=hosted, choice=choice, is_narrowed=False)

    @property
    def places(self) -> list[str]:
        """Where the request has those that the model is told of."""
        return [offer.place for offer in self.told]


def allowed_offers(body: ResponseFields, every: Sequence[Offer]) -> list[Offer]:
    """Return the functions the model is told of."""
    match body.tool_choice:
        case AllowedFunctions(named=allowed):
            return [offer for offer in every if any(_is_named(offer, choice) for choice in allowed)]
        case NamedMcp(name=None) as choice:
            return [offer for offer in every if _is_named(offer, choice)]
        case NamedHosted():
            return []
    return list(every)


def allowed_hosted(body: ResponseFields, hosted: Sequence[HostedOffer]) -> list[HostedOffer]:
    """Return OpenAI's tools that the model is told of."""
    match body.tool_choice:
        case AllowedFunctions(named=allowed):
            named = [choice for choice in allowed if isinstance(choice, NamedHosted)]
        case NamedHosted() as choice:
            named = [choice]
        case NamedMcp(name=None):
            named = []
        case _:
            return list(hosted)
    return [offer for offer in hosted if any(map(offer.is_named, named))]


def _is_named(offer: Offer, choice: NamedFunction | NamedCustomTool | NamedMcp | NamedHosted) -> bool:
    if isinstance(choice, NamedHosted):
        return False
    if not isinstance(choice, NamedMcp):
        return (offer.function.type, offer.name) == (choice.type, choice.name)
    is_of_server = offer.server is not None and offer.server.server_label == choice.server_label
    return is_of_server and choice.name in (None, offer.function.name)


def check_names(offered: Iterable[Offer]) -> None:
    """Raise InvalidRequestError where a tool has no name that the model can know it by, or shares it with another."""
    known: dict[str, Offer] = {}
    for offer in offered:
        if not TOOL_NAME.fullmatch(offer.name):
            message = f"'{offer.place}.name': the model would know it by '{offer.name}', more than 128 characters."
            raise invalid_value(message, f"{offer.place}.name")
        first = known.setdefault(offer.name, offer)
        if first is not offer:
            message = f"'{offer.place}.name': the model knows '{first.place}' by '{offer.name}', too."
            raise invalid_value(message, f"{offer.place}.name")


def tools_for_model(offered: Iterable[Offer]) -> Iterator[FunctionTool | CustomTool]:
    """Yield the tools as the model is told of them; what is said of a group comes with its first one."""
    told: FunctionNamespace | McpTool | None = None
    for at, offer in enumerate(offered):
        function, description = offer.function, offer.function.description or ""
        if offer.group is not None and offer.group is not told and (about := _about(offer.group)):
            description = f"{about}\n\n{description}".rstrip()
        told = offer.group
        if isinstance(function, ResponseCustomTool):
            # by a chat's name of the field, which naming.py knows
            form = input_form(offer.grammar, f"tools[{at}].custom.format.grammar.definition")
            yield CustomTool(offer.name, description, form)
        else:
            yield FunctionTool(offer.name, description, function.parameters, strict=bool(function.strict))


def _about(group: FunctionNamespace | McpTool) -> str | None:
    return group.server_description if isinstance(group, McpTool) else group.description


def tool_choice(body: ResponseFields, every: Sequence[Offer], hosted: Sequence[HostedOffer]) -> ToolChoice:
    """Return the choice. Raises InvalidRequestError where it names what is not there."""
    match body.tool_choice:
        case NamedFunction() | NamedCustomTool() as choice:
            return ToolChoice(ToolChoiceMode.REQUIRED, _check_offered(every, choice).name)
        case NamedMcp(name=name) as choice:
            offer = _check_offered(every, choice)
            return ToolChoice(ToolChoiceMode.REQUIRED, None if name is None else offer.name)
        case NamedHosted() as choice:
            _check_run(hosted, choice)
            return ToolChoice(ToolChoiceMode.REQUIRED)
        case AllowedFunctions(mode=mode, named=named):
            for choice in named:
                if isinstance(choice, NamedHosted):
                    _check_run(hosted, choice)
                else:
                    _check_offered(every, choice)
            return ToolChoice(ToolChoiceMode(mode))
        case "required" if not (every or hosted):
            raise invalid_value(
                "'tool_choice' is 'required', but there are none to call among the 'tools'.", "tool_choice"
            )
        case mode:
            return ToolChoice(ToolChoiceMode(mode or "auto"))


def _check_offered(every: Sequence[Offer], choice: NamedFunction | NamedCustomTool | NamedMcp) -> Offer:
    """Return the first one that is named."""
    for offer in every:
        if _is_named(offer, choice):
            return offer
    if not isinstance(choice, NamedMcp):
        what = "function" if isinstance(choice, NamedFunction) else "custom tool"
        message = f"'tool_choice' names the {what} '{choice.name}', which is not among the 'tools'."
    else:
        what = f"the tool '{choice.name}'" if choice.name is not None else "the tools"
        message = f"'tool_choice' names {what} of the MCP server '{choice.server_label}'; 'tools' offers no such."
    raise invalid_value(message, "tool_choice")


def _check_run(hosted: Iterable[HostedOffer], choice: NamedHosted) -> None:
    if not any(offer.is_named(choice) for offer in hosted):
        what = f"'tool_choice' names the tool '{choice.type}'; the 'tools' have none such that is run here"
        raise invalid_value(f"{what} (adapter.hosted_tools).", "tool_choice")


def told_tools(tools: Sequence[RequestedTool] | None, hosted: Sequence[HostedOffer]) -> list[dict[str, JsonValue]]:
    """Return the tools as a response repeats them, without those that OpenAI alone runs: they were not offered."""
    return [_told(tool) for tool in tools or () if not isinstance(tool, HostedTool) or is_run(tool, hosted)]


def _told(tool: RequestedTool) -> dict[str, JsonValue]:
    if isinstance(tool, CodeInterpreterTool):
        tool = tool.model_copy(update={"container": AutoContainer(type="auto")})
    if isinstance(tool, McpTool | HostedTool | CodeInterpreterTool):
        told: dict[str, JsonValue] = tool.model_dump(mode="json", exclude_none=True)
        return told
    if isinstance(tool, FunctionNamespace):
        return {
            "type": "namespace",
            "name": tool.name,
            "description": tool.description or "",
            "tools": [_told(function) for function in tool.tools],
        }
    if isinstance(tool, ResponseCustomTool):
        asked: JsonValue = tool.format.model_dump(mode="json") if tool.format is not None else {"type": "text"}
        return {"type": "custom", "name": tool.name, "description": tool.description, "format": asked}
    return {
        "type": "function",
        "name": tool.name,
        "description": tool.description,
        "parameters": tool.parameters,
        "strict": bool(tool.strict),
    }
