"""Items: what a response is made from and what it consists of.

Stage: 2 validate, and 7 SSE.
Owns: the shapes of the items. They go both ways: an answer's items are sent back as input, and are kept as both.
Does not know: what an item means to the model (responses/conversation.py).
"""

from __future__ import annotations

from typing import Annotated, Any, Final, Literal, TypeAlias

from pydantic import AfterValidator, AliasChoices, BeforeValidator, Discriminator, Field, Tag
from pydantic_core import PydanticCustomError

from gptoss_adapter.schemas.carried_text import reasoning_of
from gptoss_adapter.schemas.chat import RefusalPart
from gptoss_adapter.schemas.compaction import CompactionItem
from gptoss_adapter.schemas.fields import (
    UNSUPPORTED,
    Harmless,
    ItemId,
    ListOf,
    NotHonoured,
    RequestModel,
    content_kind,
    of_types,
)
from gptoss_adapter.schemas.hosted_items import (
    CodeInterpreterCallItem,
    HostedItem,
    UrlCitation,
    WebSearchCallItem,
)
from gptoss_adapter.schemas.mcp_items import (
    McpApprovalRequestItem,
    McpApprovalResponseItem,
    McpCallItem,
    McpItem,
    McpListToolsItem,
)
from gptoss_adapter.schemas.unseen_parts import InputFilePart, InputImagePart
from gptoss_backend.contract import Phase
from gptoss_backend.harmony.tool_names import TOOL_NAME

ItemStatus = Literal["in_progress", "completed", "incomplete"]
FunctionName = Annotated[str, Field(pattern=f"^{TOOL_NAME.pattern}$")]
Async = Annotated[
    object,
    NotHonoured(False),
    Field(validation_alias=AliasChoices("async", "async_"), serialization_alias="async"),
]
"""Whether a call goes on while the model does. OpenAI's client dumps it under the name that it has in Python."""
Caller = Annotated[object, NotHonoured({"type": "direct"})]
"""Who makes a call. Here it is always the model itself, never a program that it wrote."""


def _citations(value: object) -> object:
    """Return those annotations that this server makes, too: what others hold, megabytes maybe, is not looked at."""
    return list(filter(_is_citation, value)) if isinstance(value, list) else value


def _is_citation(annotation: object) -> bool:
    if isinstance(annotation, dict):
        return annotation.keys() == UrlCitation.model_fields.keys()
    return isinstance(annotation, UrlCitation)


class MessagePart(RequestModel):
    """A piece of a message; pictures, sound and files are beyond these models."""

    type: Literal["input_text", "output_text"]
    text: str
    annotations: Annotated[ListOf[UrlCitation] | None, BeforeValidator(_citations)] = None
    """Of pages that a web search has read. Harmless in an input: the text has the marks that the model made."""
    logprobs: list[Any] | None = None
    cache_control: Harmless = None
    """Harmless: Anthropic's hint on what to keep."""
    prompt_cache_breakpoint: Harmless = None
    """Harmless: OpenAI's, as `cache_control`."""


ContentPart = Annotated[
    MessagePart | RefusalPart, Field(discriminator="type"), of_types("input_text", "output_text", "refusal")
]
_CONTENT_KIND: Final = Discriminator(
    content_kind,
    custom_error_type="content_type",
    custom_error_message="Input should be a string or a list of text parts",
)
Content = Annotated[Annotated[str, Tag("text")] | Annotated[ListOf[ContentPart], Tag("parts")], _CONTENT_KIND]
OutputPart = Annotated[
    MessagePart | RefusalPart | InputImagePart | InputFilePart,
    Field(discriminator="type"),
    of_types("input_text", "output_text", "refusal", unseen=("input_image", "input_file")),
]
OutputContent = Annotated[Annotated[str, Tag("text")] | Annotated[ListOf[OutputPart], Tag("parts")], _CONTENT_KIND]
"""What a call returned."""


class MessageItem(RequestModel):
    """What somebody said. The short form leaves out the type and has a string for content."""

    id: ItemId | None = None
    type: Literal["message"] = "message"
    status: ItemStatus | None = None
    role: Literal["user", "assistant", "system", "developer"]
    content: Content
    name: str | None = None
    """Harmless: the model is told roles, not names."""
    phase: Phase | None = None
    """Of the assistant's; None: commentary before a call, else the answer. Harmless on others' messages."""


class ReasoningText(RequestModel):
    """A piece of reasoning, as the model wrote it."""

    type: Literal["reasoning_text"]
    text: str


class SummaryText(RequestModel):
    """A piece of what another server made of the reasoning, or here the reasoning itself."""

    type: Literal["summary_text"]
    text: str


def _undamaged(blob: str) -> str:
    try:
        reasoning_of(blob)
    except ValueError:
        raise PydanticCustomError(
            UNSUPPORTED, "it is not as this server has encoded it; leave it out and send 'content'"
        ) from None
    return blob


class ReasoningItem(RequestModel):
    """What the model thought before it went on."""

    id: ItemId | None = None
    type: Literal["reasoning"]
    status: ItemStatus | None = None
    summary: Annotated[ListOf[SummaryText], Field(default_factory=list)]
    """Stands in for the reasoning where neither of the next two tells it."""
    content: ListOf[ReasoningText] | None = None
    encrypted_content: Annotated[str, AfterValidator(_undamaged)] | None = None
    """Stands in for `content` where that is missing: the same text, encoded.

    Another server's is as good as none: whoever changes models within a conversation holds some.
    """

    @property
    def pieces(self) -> list[str]:
        """The reasoning, wherever it stands; none where only another server can read it."""
        if not self.content and (carried := reasoning_of(self.encrypted_content or "")):
            return [carried]
        return [part.text for part in self.content or self.summary]


class FunctionCallItem(RequestModel):
    """A call the model makes."""

    id: ItemId | None = None
    type: Literal["function_call"]
    status: ItemStatus | None = None
    call_id: ItemId
    name: str
    """As the model wrote it; no tool need have the name."""
    arguments: str
    """JSON text, as the model wrote it."""
    namespace: str | None = None
    """Of the function, which the model knows by both names in one."""
    created_by: str | None = None
    """Harmless: who made the item, as OpenAI lists it."""
    caller: Caller = None
    async_: Async = None


class FunctionCallOutputItem(RequestModel):
    """What a called function returned."""

    id: ItemId | None = None
    type: Literal["function_call_output"]
    status: ItemStatus | None = None
    call_id: ItemId
    output: OutputContent
    name: str | None = None
    """Harmless: the call with this id says which function it was."""
    namespace: str | None = None
    """Harmless, as `name`."""
    created_by: str | None = None
    """Harmless: who made the item, as OpenAI lists it."""
    caller: Caller = None


class CustomToolCallItem(RequestModel):
    """A call of a custom tool that the model makes."""

    id: ItemId | None = None
    type: Literal["custom_tool_call"]
    status: ItemStatus | None = None
    call_id: ItemId
    name: str
    """As the model wrote it, as is `input`; no tool need have the name."""
    input: str
    namespace: str | None = None
    """Of the tool, which the model knows by both names in one."""
    created_by: str | None = None
    """Harmless: who made the item, as OpenAI lists it."""
    caller: Caller = None
    async_: Async = None


class CustomToolCallOutputItem(RequestModel):
    """What a called custom tool returned."""

    id: ItemId | None = None
    type: Literal["custom_tool_call_output"]
    status: ItemStatus | None = None
    call_id: ItemId
    output: OutputContent
    name: str | None = None
    """Harmless: the call with this id says which tool it was."""
    created_by: str | None = None
    """Harmless: who made the item, as OpenAI lists it."""
    caller: Caller = None


CallItem: TypeAlias = FunctionCallItem | CustomToolCallItem
"""A call that the client runs."""
CallOutputItem: TypeAlias = FunctionCallOutputItem | CustomToolCallOutputItem


class ItemReference(RequestModel):
    """Stands for an item that is kept."""

    type: Literal["item_reference"] | None = None
    id: ItemId


Item: TypeAlias = MessageItem | ReasoningItem | CompactionItem | CallItem | CallOutputItem | McpItem | HostedItem
"""An item that says something itself."""

_KINDS: Final = (
    *("message", "reasoning", "function_call", "function_call_output", "item_reference"),
    *("custom_tool_call", "custom_tool_call_output"),
    *("mcp_call", "mcp_list_tools", "mcp_approval_request", "mcp_approval_response"),
    *("web_search_call", "code_interpreter_call", "compaction"),
)


def _item_kind(value: object) -> str | None:
    if isinstance(value, dict):
        kind = value.get("type")
        if kind is None:
            kind = "message" if "role" in value else "item_reference"
    elif isinstance(value, ItemReference):  # read before, and may have come without a type
        kind = "item_reference"
    else:
        kind = getattr(value, "type", None)
    return kind if kind in _KINDS else None


InputItem = Annotated[
    Annotated[MessageItem, Tag("message")]
    | Annotated[ReasoningItem, Tag("reasoning")]
    | Annotated[FunctionCallItem, Tag("function_call")]
    | Annotated[FunctionCallOutputItem, Tag("function_call_output")]
    | Annotated[CustomToolCallItem, Tag("custom_tool_call")]
    | Annotated[CustomToolCallOutputItem, Tag("custom_tool_call_output")]
    | Annotated[ItemReference, Tag("item_reference")]
    | Annotated[McpCallItem, Tag("mcp_call")]
    | Annotated[McpListToolsItem, Tag("mcp_list_tools")]
    | Annotated[McpApprovalRequestItem, Tag("mcp_approval_request")]
    | Annotated[McpApprovalResponseItem, Tag("mcp_approval_response")]
    | Annotated[WebSearchCallItem, Tag("web_search_call")]
    | Annotated[CodeInterpreterCallItem, Tag("code_interpreter_call")]
    | Annotated[CompactionItem, Tag("compaction")],
    Discriminator(
        _item_kind,
        custom_error_type="item_kind",
        custom_error_message=f"Input should be an item of one of the types {', '.join(_KINDS)}",
    ),
]
