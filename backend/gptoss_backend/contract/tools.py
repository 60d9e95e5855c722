"""Tools the model may call, and whether it must.

Stage: 2 validate → 3 prompt, and 5 step, where a grammar holds to them.
Owns: the kinds of tools, how a call of each is written.
Does not know: calls that were made (chat.py), how the model is told of a tool (harmony/).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, Final, Literal, TypeAlias

from pydantic import Discriminator, Field, Tag

from gptoss_backend.contract.documents import STRICT
from gptoss_backend.contract.forms import TextForm


class CallSyntax(StrEnum):
    """How the model writes what a call gives to its tool."""

    JSON = "json"
    """As the arguments of a function."""
    QUOTED = "quoted"
    """As the one string among the arguments of a function, which is the input of a custom tool."""
    PLAIN = "plain"
    """As a text by itself, which is the input of a custom tool."""


@dataclass(frozen=True, slots=True)
class FunctionTool:
    """A function the model may call. `parameters` is a JSON schema."""

    __pydantic_config__ = STRICT
    name: Annotated[str, Field(min_length=1)]
    description: str = ""
    parameters: dict[str, Any] | None = None
    strict: bool = False
    """Refuse parameters of which a grammar cannot hold every keyword, rather than leave those out of it."""
    type: Literal["function"] = "function"

    @property
    def syntax(self) -> CallSyntax:
        """How a call is written."""
        return CallSyntax.JSON


@dataclass(frozen=True, slots=True)
class CustomTool:
    """A tool that takes a text. How the model is told of it: harmony/custom_tools.py."""

    __pydantic_config__ = STRICT
    name: Annotated[str, Field(min_length=1)]
    description: str = ""
    form: TextForm | None = None
    """What the text must be; None: any."""
    type: Literal["custom"] = "custom"

    @property
    def syntax(self) -> CallSyntax:
        """How a call is written."""
        return CallSyntax.QUOTED if self.form is None else CallSyntax.PLAIN


TOOL_TAGS: Final = {"function": "a function", "custom": "a custom tool"}
"""Of the types of tools. They stand in pydantic's path of a fault, which no key of a document is to be mistaken for."""


def _tool_tag(value: object) -> str | None:
    kind = value.get("type", "function") if isinstance(value, dict) else getattr(value, "type", None)
    return TOOL_TAGS.get(kind) if isinstance(kind, str) else None


Tool: TypeAlias = Annotated[
    Annotated[FunctionTool, Tag(TOOL_TAGS["function"])] | Annotated[CustomTool, Tag(TOOL_TAGS["custom"])],
    Discriminator(
        _tool_tag,
        custom_error_type="tool_type",
        custom_error_message="Input should be a tool of type function, which needs not be said, or custom",
    ),
]
"""What the model may call. A document that names no type is a function."""


class BuiltinName(StrEnum):
    """A tool that the model was trained on, by Harmony's name."""

    BROWSER = "browser"
    PYTHON = "python"


@dataclass(frozen=True, slots=True)
class BuiltinTool:
    """A built-in tool the model may call. What it returns stands in a message of role tool, as of a function."""

    __pydantic_config__ = STRICT
    name: BuiltinName
    description: str | None = None
    """What the model is told of it as a whole; None: Harmony's own words."""


class ToolChoiceMode(StrEnum):
    """Whether the answer may or must call tools."""

    NONE = "none"
    """The model is not told of the tools and cannot call any."""
    AUTO = "auto"
    REQUIRED = "required"


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """Whether to call, and with mode required, possibly which."""

    __pydantic_config__ = STRICT
    mode: ToolChoiceMode = ToolChoiceMode.AUTO
    name: str | None = None
    """The one tool that must be called; with mode required only."""
