"""OpenAI's own tools, as a request names them.

Stage: 2 validate.
Owns: their types and their options. Which of them anybody runs, the settings say
(responses/server_tools/hosted_tools.py).
Does not know: what the model is told of them.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, ConfigDict
from pydantic_core import PydanticCustomError

from gptoss_adapter.schemas.fields import UNSUPPORTED, AllowedCallers, NotHonoured, RequestModel

WebSearchType = Literal["web_search", "web_search_2025_08_26", "web_search_preview", "web_search_preview_2025_03_11"]
UnusedToolType = Literal["image_generation", "local_shell"]


class UserLocation(RequestModel):
    """Where the user is, roughly."""

    type: Literal["approximate"] = "approximate"
    city: str | None = None
    region: str | None = None
    country: str | None = None
    timezone: str | None = None


class SearchFilters(RequestModel):
    """Which sites are searched: all of them."""

    allowed_domains: Annotated[object, NotHonoured([])] = None
    blocked_domains: Annotated[object, NotHonoured([])] = None


class WebSearchOptions(RequestModel):
    """What a search is to be like, where somebody runs it."""

    type: WebSearchType
    user_location: UserLocation | None = None
    """The model is told it."""
    search_context_size: Literal["low", "medium", "high"] | None = None
    """Harmless: the browser shows as much of a page as it does, and the model opens more."""
    search_content_types: Annotated[object, NotHonoured(["text"])] = None
    filters: SearchFilters | None = None
    external_web_access: bool | None = None
    """Where it is false the tool is not offered: the browser reads the web as it is now."""


class HostedTool(RequestModel):
    """A tool that a model of OpenAI may use or not. Where nobody runs it here it is an offer that nobody takes up.

    Its other fields are read by nobody then.
    """

    model_config = ConfigDict(extra="allow")

    type: WebSearchType | UnusedToolType


class AutoContainer(RequestModel):
    """A container of the response's own."""

    type: Literal["auto"]
    file_ids: Annotated[object, NotHonoured([])] = None
    memory_limit: Annotated[object, NotHonoured()] = None
    network_policy: Annotated[object, NotHonoured()] = None


def _not_by_id(container: object) -> object:
    if isinstance(container, str):
        what = "the code of each response runs in a container of its own; send {auto}"
        raise PydanticCustomError(UNSUPPORTED, what, {"auto": '{"type": "auto"}'})
    return container


class CodeInterpreterTool(RequestModel):
    """Runs code that the model writes."""

    type: Literal["code_interpreter"]
    container: Annotated[AutoContainer | None, BeforeValidator(_not_by_id)] = None
    allowed_callers: AllowedCallers = None


class NamedHosted(RequestModel):
    """Names one of them as the one to be used."""

    type: WebSearchType | Literal["code_interpreter"]
