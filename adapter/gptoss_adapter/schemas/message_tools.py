"""Tools of Anthropic's Messages API: as they are offered and chosen.

Stage: 2 validate.
Owns: their fields, types and bounds. Every field is honoured, harmless (read by nobody) or NotHonoured.
Does not know: calls and their results, which are blocks (message_blocks.py); what the model is told (messages/plan.py).
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, JsonValue

from gptoss_adapter.schemas.fields import AllowedCallers, ListOf, NotHonoured, RequestModel
from gptoss_adapter.schemas.message_blocks import CacheControl
from gptoss_adapter.schemas.response_items import FunctionName


class MessageTool(RequestModel):
    """A tool the model may use; `input_schema` is a JSON schema, which inputs are held to."""

    type: Annotated[
        object, NotHonoured("custom", instead="Anthropic's own tools are not run here, describe one by 'input_schema'")
    ] = None
    name: FunctionName
    description: str | None = None
    input_schema: dict[str, JsonValue]
    input_examples: ListOf[dict[str, JsonValue]] | None = None
    """The model is told of them behind the description."""
    strict: bool | None = None
    """Harmless: inputs are always held to the schema."""
    eager_input_streaming: bool | None = None
    """Harmless: inputs are always streamed as they come."""
    cache_control: CacheControl = None
    defer_loading: Annotated[object, NotHonoured(False)] = None
    allowed_callers: AllowedCallers = None


class OpenChoice(RequestModel):
    """The model decides: whether it calls (auto), or what (any)."""

    type: Literal["auto", "any"]
    disable_parallel_tool_use: bool | None = None


class NamedChoice(RequestModel):
    """This tool must be called."""

    type: Literal["tool"]
    name: str
    disable_parallel_tool_use: bool | None = None


class NoChoice(RequestModel):
    """The model is told of no tool."""

    type: Literal["none"]


ToolChoiceField = Annotated[OpenChoice | NamedChoice | NoChoice, Field(discriminator="type")]
