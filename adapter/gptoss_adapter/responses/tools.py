"""Tools: as a request offers them, as the model is told of them, as a response repeats them.

Stage: 2 validate → 3 prompt.
Owns: which tools are told; the one name that a namespace's function has for the model; the rules on choosing.
Does not know: messages, Harmony.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

from pydantic import JsonValue

from gptoss_adapter.errors import InvalidRequestError
from gptoss_adapter.schemas.responses import (
    AllowedFunctions,
    FunctionNamespace,
    HostedTool,
    NamedFunction,
    RequestedTool,
    ResponseFields,
    ResponseTool,
)
from gptoss_backend.contract import FunctionTool, ToolChoice, ToolChoiceMode
from gptoss_backend.harmony.prompt import TOOL_NAME


@dataclass(frozen=True, slots=True)
class Offer:
    """A function that the model may call."""

    place: str
    """Where the request has it."""
    function: ResponseTool
    namespace: FunctionNamespace | None = None

    @property
    def name(self) -> str:
        """What the model knows it by."""
        return name_for_model(self.function.name, self.namespace.name if self.namespace is not None else None)


def name_for_model(name: str, namespace: str | None) -> str:
    """Return the one name of a function: a model's call has no place for its namespace."""
    return f"{namespace}__{name}" if namespace else name


def offers(tools: Sequence[RequestedTool] | None) -> list[Offer]:
    """Return the functions among the tools, those of namespaces in their places. Tools that OpenAI runs are none."""
    return [offer for at, tool in enumerate(tools or ()) for offer in _offers_of(tool, f"tools[{at}]")]


def _offers_of(tool: RequestedTool, place: str) -> Iterator[Offer]:
    if isinstance(tool, ResponseTool):
        yield Offer(place, tool)
    elif isinstance(tool, FunctionNamespace):
        for at, function in enumerate(tool.tools):
            yield Offer(f"{place}.tools[{at}]", function, tool)


def allowed_offers(body: ResponseFields) -> list[Offer]:
    """Return the functions the model is told of."""
    every = offers(body.tools)
    if not isinstance(body.tool_choice, AllowedFunctions):
        return every
    allowed = {choice.name for choice in body.tool_choice.tools}
    return [offer for offer in every if offer.name in allowed]


def check_names(offered: Iterable[Offer]) -> None:
    """Raise InvalidRequestError where a namespace's function has no name for the model, or shares it with another."""
    known: dict[str, Offer] = {}
    for offer in offered:
        if not TOOL_NAME.fullmatch(offer.name):
            message = f"'{offer.place}.name': the model would know it by '{offer.name}', more than 128 characters."
            raise _invalid(message, f"{offer.place}.name")
        first = known.setdefault(offer.name, offer)
        if first is not offer and not (first.namespace is offer.namespace is None):
            message = f"'{offer.place}.name': the model knows '{first.place}' by '{offer.name}', too."
            raise _invalid(message, f"{offer.place}.name")


def function_tools(offered: Iterable[Offer]) -> Iterator[FunctionTool]:
    """Yield the functions as the model is told of them; what is said of a namespace comes with its first one."""
    told: FunctionNamespace | None = None
    for offer in offered:
        function, description = offer.function, offer.function.description or ""
        if offer.namespace is not None and offer.namespace is not told and offer.namespace.description:
            description = f"{offer.namespace.description}\n\n{description}".rstrip()
        told = offer.namespace
        yield FunctionTool(offer.name, description, function.parameters, strict=bool(function.strict))


def tool_choice(body: ResponseFields) -> ToolChoice:
    """Return the choice. Raises InvalidRequestError where it names what is not there."""
    names = {offer.name for offer in offers(body.tools)}
    match body.tool_choice:
        case NamedFunction(name=name):
            _check_offered(names, name)
            return ToolChoice(ToolChoiceMode.REQUIRED, name)
        case AllowedFunctions(mode=mode, tools=tools):
            for choice in tools:
                _check_offered(names, choice.name)
            return ToolChoice(ToolChoiceMode(mode))
        case "required" if not names:
            raise _invalid("'tool_choice' is 'required', but there are no functions among the 'tools'.", "tool_choice")
        case mode:
            return ToolChoice(ToolChoiceMode(mode or "auto"))


def _check_offered(names: set[str], name: str) -> None:
    if name not in names:
        message = f"'tool_choice' names the function '{name}', which is not among the 'tools'."
        raise _invalid(message, "tool_choice")


def told_tools(tools: Sequence[RequestedTool] | None) -> list[dict[str, JsonValue]]:
    """Return the tools as a response repeats them, without those that OpenAI runs: they were not offered."""
    return [_told(tool) for tool in tools or () if not isinstance(tool, HostedTool)]


def _told(tool: ResponseTool | FunctionNamespace) -> dict[str, JsonValue]:
    if isinstance(tool, FunctionNamespace):
        return {
            "type": "namespace",
            "name": tool.name,
            "description": tool.description or "",
            "tools": [_told(function) for function in tool.tools],
        }
    return {
        "type": "function",
        "name": tool.name,
        "description": tool.description,
        "parameters": tool.parameters,
        "strict": bool(tool.strict),
    }


def _invalid(message: str, param: str) -> InvalidRequestError:
    return InvalidRequestError(message, param=param, code="invalid_value")
