"""Tools of a chat: as they are offered, chosen and called.

Stage: 2 validate.
Owns: their fields, types and bounds. Every field is honoured, harmless (read by nobody) or NotHonoured.
Does not know: messages (chat.py); what the model is told of a tool (prompting.py).
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Discriminator, Field, JsonValue, Tag

from gptoss_adapter.schemas.fields import Harmless, ListOf, RequestModel, choice_kind, type_of
from gptoss_adapter.schemas.input_formats import FreeInput, InputGrammar, NestedGrammar

# --- offered --------------------------------------------------------------------------------------------------------


class Function(RequestModel):
    """A function the model may call; `parameters` is a JSON schema, which arguments are held to."""

    name: Annotated[str, Field(min_length=1)]
    description: str | None = None
    parameters: dict[str, JsonValue] | None = None
    strict: bool | None = None
    """Refuse a schema that arguments cannot be held to whole; else they are held to what of it can be."""
    cache_control: Harmless = None
    """Harmless, as a text part's."""


class FunctionTool(RequestModel):
    """A function among the tools."""

    type: Literal["function"]
    function: Function
    cache_control: Harmless = None
    """Harmless, as a text part's."""

    @property
    def name(self) -> str:
        """What the model knows it by."""
        return self.function.name


class Custom(RequestModel):
    """A tool that takes a text, which is held to `format`."""

    name: Annotated[str, Field(min_length=1)]
    description: str | None = None
    format: Annotated[FreeInput | NestedGrammar, Field(discriminator="type")] | None = None
    """None: any text."""
    cache_control: Harmless = None
    """Harmless, as a text part's."""


class CustomTool(RequestModel):
    """A custom tool among the tools."""

    type: Literal["custom"]
    custom: Custom
    cache_control: Harmless = None
    """Harmless, as a text part's."""

    @property
    def name(self) -> str:
        """What the model knows it by."""
        return self.custom.name

    @property
    def grammar(self) -> InputGrammar | None:
        """What its input is held to, None where that is any text."""
        return self.custom.format.grammar if isinstance(self.custom.format, NestedGrammar) else None


def _tool_tag(value: object) -> str | None:
    # a tag is part of a fault's place, where `function` is a field
    kind = type_of(value, missing="function")
    return f"a {kind} tool" if kind in ("function", "custom") else None


OfferedTool = Annotated[
    Annotated[FunctionTool, Tag("a function tool")] | Annotated[CustomTool, Tag("a custom tool")],
    Discriminator(
        _tool_tag,
        custom_error_type="tool_kind",
        custom_error_message="Input should be a tool of type function or custom",
    ),
]

# --- chosen ---------------------------------------------------------------------------------------------------------


class ToolName(RequestModel):
    """Names a tool."""

    name: str


class FunctionChoice(RequestModel):
    """This function must be called."""

    type: Literal["function"]
    function: ToolName

    @property
    def name(self) -> str:
        """The function's."""
        return self.function.name


class CustomChoice(RequestModel):
    """This custom tool must be called."""

    type: Literal["custom"]
    custom: ToolName

    @property
    def name(self) -> str:
        """The tool's."""
        return self.custom.name


class AllowedTools(RequestModel):
    """The model is told of these tools only."""

    mode: Literal["auto", "required"]
    tools: Annotated[
        ListOf[Annotated[FunctionChoice | CustomChoice, Field(discriminator="type")]],
        Field(min_length=1, max_length=1024),
    ]


class AllowedToolsChoice(RequestModel):
    """Some of the tools are to be chosen from."""

    type: Literal["allowed_tools"]
    allowed_tools: AllowedTools


ToolChoiceField = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag("mode")]
    | Annotated[FunctionChoice, Tag("function")]
    | Annotated[CustomChoice, Tag("custom")]
    | Annotated[AllowedToolsChoice, Tag("allowed_tools")],
    Discriminator(
        choice_kind,
        custom_error_type="tool_choice",
        custom_error_message=(
            "Input should be 'none', 'auto', 'required' or an object of type 'function', 'custom' or 'allowed_tools'"
        ),
    ),
]

# --- called ---------------------------------------------------------------------------------------------------------


class CalledFunction(RequestModel):
    """A function and the arguments of one call to it, as JSON text."""

    name: Annotated[str, Field(min_length=1)]
    arguments: str
    parsed_arguments: Harmless = None
    """Harmless: OpenAI's clients read `arguments` and send both back."""
    provider_specific_fields: Harmless = None
    """Harmless, as an assistant message's."""


class CalledCustomTool(RequestModel):
    """A custom tool and the text that one call gave it."""

    name: Annotated[str, Field(min_length=1)]
    input: str
    provider_specific_fields: Harmless = None
    """Harmless, as an assistant message's."""


class _MadeCall(RequestModel):
    """A call that an earlier answer made."""

    id: Annotated[str, Field(min_length=1)]
    index: int | None = None
    """Harmless: where the call stood in a stream, which OpenAI's clients send back."""
    provider_specific_fields: Harmless = None
    """Harmless, as an assistant message's."""


class FunctionCall(_MadeCall):
    """A call of a function."""

    type: Literal["function"] = "function"
    function: CalledFunction


class CustomCall(_MadeCall):
    """A call of a custom tool."""

    type: Literal["custom"]
    custom: CalledCustomTool


MadeCall = Annotated[
    Annotated[FunctionCall, Tag("a function tool")] | Annotated[CustomCall, Tag("a custom tool")],
    Discriminator(
        _tool_tag,
        custom_error_type="tool_kind",
        custom_error_message="Input should be a call of type function or custom",
    ),
]
