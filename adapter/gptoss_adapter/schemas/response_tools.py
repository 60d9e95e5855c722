"""Tools in a request for a response: those offered, and the one or those chosen.

Stage: 2 validate.
Owns: functions and the groups of tools; which types of tools there are.
Does not know: the fields of custom, hosted and MCP tools, which have modules of their own; how the model is told.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Final, Literal, TypeAlias, get_args

from pydantic import Discriminator, Field, JsonValue, Tag

from gptoss_adapter.schemas.custom_tools import NamedCustomTool, ResponseCustomTool
from gptoss_adapter.schemas.fields import (
    AllowedCallers,
    Harmless,
    ListOf,
    NotHonoured,
    RequestModel,
    choice_kind,
    type_of,
)
from gptoss_adapter.schemas.hosted_tools import (
    CodeInterpreterTool,
    HostedTool,
    NamedHosted,
    UnusedToolType,
    WebSearchType,
)
from gptoss_adapter.schemas.mcp_tools import McpTool, NamedMcp
from gptoss_adapter.schemas.response_items import Async, FunctionName


class ResponseTool(RequestModel):
    """A function the model may call; `parameters` is a JSON schema."""

    type: Literal["function"]
    name: FunctionName
    description: str | None = None
    parameters: dict[str, JsonValue] | None = None
    strict: bool | None = None
    """Refuse `parameters` that arguments cannot be held to whole; else they are held to what of them can be."""
    cache_control: Harmless = None
    """Harmless: Anthropic's hint on what to keep."""
    allowed_callers: AllowedCallers = None
    defer_loading: Annotated[object, NotHonoured(False)] = None
    async_: Async = None
    output_schema: dict[str, JsonValue] | None = None
    """Harmless: the model is told what a function takes."""


def _grouped_kind(value: object) -> str | None:
    kind = type_of(value)
    return f"a {kind}" if kind in ("function", "custom") else None


GroupedTool = Annotated[
    Annotated[ResponseTool, Tag("a function")] | Annotated[ResponseCustomTool, Tag("a custom")],
    Discriminator(
        _grouped_kind,
        custom_error_type="tool_kind",
        custom_error_message="Input should be a tool of type function or custom",
    ),
]


class FunctionNamespace(RequestModel):
    """Tools that belong together, as Codex groups them. The model is told of `namespace__tool`."""

    type: Literal["namespace"]
    name: FunctionName
    description: str | None = None
    tools: ListOf[GroupedTool]


RequestedTool: TypeAlias = (
    ResponseTool | ResponseCustomTool | FunctionNamespace | McpTool | HostedTool | CodeInterpreterTool
)

_SEARCHES: Final = get_args(WebSearchType)
_HOSTED: Final = (*_SEARCHES, *get_args(UnusedToolType))


def _tool_kind(value: object) -> str | None:
    kind = type_of(value)
    if kind in ("function", "custom", "namespace", "mcp", "code_interpreter"):
        return f"a {kind}"  # tags are part of a fault's place, where `function` may be a field sent by mistake
    return "hosted" if kind in _HOSTED else None


InputTool = Annotated[
    Annotated[ResponseTool, Tag("a function")]
    | Annotated[ResponseCustomTool, Tag("a custom")]
    | Annotated[FunctionNamespace, Tag("a namespace")]
    | Annotated[McpTool, Tag("a mcp")]
    | Annotated[CodeInterpreterTool, Tag("a code_interpreter")]
    | Annotated[HostedTool, Tag("hosted")],
    Discriminator(
        _tool_kind,
        custom_error_type="tool_kind",
        custom_error_message=(
            "Input should be a tool of type function, custom, namespace, mcp or code_interpreter, or one that may be "
            "left out: " + ", ".join(_HOSTED)
        ),
    ),
]


class NamedFunction(RequestModel):
    """Names one function, as the model is told of it."""

    type: Literal["function"]
    name: FunctionName


NamedTool = Annotated[NamedFunction | NamedCustomTool | NamedMcp | NamedHosted, Field(discriminator="type")]


class AllowedFunctions(RequestModel):
    """Names the tools that may be called, of those in `tools`."""

    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: Annotated[ListOf[NamedTool], Field(min_length=1, max_length=1024)]

    @property
    def named(self) -> Collection[NamedTool]:
        """The tools, each once."""
        return dict.fromkeys(self.tools)


def _choice_kind(value: object) -> str | None:
    """Return the tag of a tool choice, as `choice_kind` does: there may be other tools than functions, too."""
    kind = type_of(value)
    if kind in (*_SEARCHES, "code_interpreter"):
        return "hosted"
    return "mcp" if kind == "mcp" else choice_kind(value)


ResponseToolChoice = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag("mode")]
    | Annotated[NamedFunction, Tag("function")]
    | Annotated[NamedCustomTool, Tag("custom")]
    | Annotated[NamedMcp, Tag("mcp")]
    | Annotated[NamedHosted, Tag("hosted")]
    | Annotated[AllowedFunctions, Tag("allowed_tools")],
    Discriminator(
        _choice_kind,
        custom_error_type="choice_kind",
        custom_error_message=(
            "Input should be none, auto, required, or an object of type function, custom, mcp, allowed_tools, "
            f"code_interpreter or {', '.join(_SEARCHES)}"
        ),
    ),
]
