"""Tools of type custom in a request of /v1/responses.

Stage: 2 validate.
Owns: their fields, types and bounds. Every field is honoured, harmless (read by nobody) or NotHonoured.
Does not know: items (response_items.py); what the model is told of them (responses/tools.py).
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from gptoss_adapter.schemas.fields import AllowedCallers, Harmless, NotHonoured, RequestModel
from gptoss_adapter.schemas.input_formats import FlatGrammar, FreeInput
from gptoss_adapter.schemas.response_items import Async, FunctionName


class ResponseCustomTool(RequestModel):
    """A tool that takes a text, which is held to `format`."""

    type: Literal["custom"]
    name: FunctionName
    description: str | None = None
    format: Annotated[FreeInput | FlatGrammar, Field(discriminator="type")] | None = None
    """None: any text."""
    cache_control: Harmless = None
    """Harmless: Anthropic's hint on what to keep."""
    allowed_callers: AllowedCallers = None
    defer_loading: Annotated[object, NotHonoured(False)] = None
    async_: Async = None


class NamedCustomTool(RequestModel):
    """Names one custom tool, as the model is told of it."""

    type: Literal["custom"]
    name: FunctionName
