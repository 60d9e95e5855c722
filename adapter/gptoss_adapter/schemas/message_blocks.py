"""The blocks of which the contents of Anthropic's messages are made.

Stage: 2 validate.
Owns: their fields, types and bounds, and which of them may stand where. Every field is honoured, harmless (read by
nobody) or NotHonoured.
Does not know: messages and requests (messages.py); what the model is told of a block (messages/conversation.py).
"""

from __future__ import annotations

from typing import Annotated, Literal, TypeAlias

from pydantic import Discriminator, Field, JsonValue, Tag

from gptoss_adapter.schemas.fields import Harmless, ItemId, ListOf, NotHonoured, RequestModel, content_kind, of_types
from gptoss_adapter.schemas.unseen_parts import DocumentBlock, ImageBlock

CacheControl: TypeAlias = Harmless
"""Harmless wherever it stands: the beginning of every prompt is kept for as long as there is room."""


class TextBlock(RequestModel):
    """A piece of content."""

    type: Literal["text"]
    text: str
    citations: Harmless = None
    """Harmless: what an earlier text was taken from, by another server's tools."""
    cache_control: CacheControl = None


class ThinkingBlock(RequestModel):
    """What the model thought before it went on."""

    type: Literal["thinking"]
    thinking: str
    signature: str | None = None
    """Read where it holds the thinking that `display: omitted` left out, else harmless: nothing is verified here."""


class RedactedThinkingBlock(RequestModel):
    """Harmless: what another server has encrypted is nothing to this one."""

    type: Literal["redacted_thinking"]
    data: str


class ToolUseBlock(RequestModel):
    """A call an earlier answer made."""

    type: Literal["tool_use"]
    id: ItemId
    name: str
    input: dict[str, JsonValue]
    caller: Annotated[object, NotHonoured({"type": "direct"})] = None
    toolset_name: Annotated[object, NotHonoured()] = None
    cache_control: CacheControl = None


def _content_of(what: str) -> Discriminator:
    return Discriminator(
        content_kind,
        custom_error_type="content_type",
        custom_error_message=f"Input should be a string or a list of {what}",
    )


TextContent = Annotated[
    Annotated[str, Tag("text")] | Annotated[ListOf[Annotated[TextBlock, of_types("text")]], Tag("parts")],
    _content_of("text blocks"),
]


class SearchResultBlock(RequestModel):
    """What a search found."""

    type: Literal["search_result"]
    title: str
    source: str
    content: ListOf[TextBlock]
    citations: Harmless = None
    cache_control: CacheControl = None

    @property
    def text(self) -> str:
        """What the model is told."""
        return "\n".join((self.title, self.source, *(block.text for block in self.content)))


ResultPart: TypeAlias = TextBlock | ImageBlock | DocumentBlock | SearchResultBlock
ResultContent = Annotated[
    Annotated[str, Tag("text")]
    | Annotated[
        ListOf[
            Annotated[
                ResultPart,
                Field(discriminator="type"),
                of_types("text", unseen=("image", "document", "search_result")),
            ]
        ],
        Tag("parts"),
    ],
    _content_of("blocks of text, pictures and documents"),
]


class ToolResultBlock(RequestModel):
    """What a called tool returned."""

    type: Literal["tool_result"]
    tool_use_id: ItemId
    content: ResultContent | None = None
    is_error: bool | None = None
    toolset_name: Annotated[object, NotHonoured()] = None
    cache_control: CacheControl = None


UserBlock = Annotated[TextBlock | ToolResultBlock, Field(discriminator="type"), of_types("text", "tool_result")]
AssistantBlock = Annotated[
    TextBlock | ThinkingBlock | RedactedThinkingBlock | ToolUseBlock,
    Field(discriminator="type"),
    of_types("text", "thinking", "redacted_thinking", "tool_use"),
]

UserContent = Annotated[Annotated[str, Tag("text")] | Annotated[ListOf[UserBlock], Tag("parts")], _content_of("blocks")]
AssistantContent = Annotated[
    Annotated[str, Tag("text")] | Annotated[ListOf[AssistantBlock], Tag("parts")], _content_of("blocks")
]
