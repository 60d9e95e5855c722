"""What the endpoints under /v1/responses answer.

Stage: 7 SSE, and the whole answers.
Owns: the shapes of a response and of what is told about kept ones. Events are shaped by responses/open_items.py.
Does not know: where the values come from.
"""

from __future__ import annotations

from typing import Annotated, Literal, Self, TypeAlias

from pydantic import Field, JsonValue

from gptoss_adapter.schemas.answers import Usage
from gptoss_adapter.schemas.compaction import CompactionItem
from gptoss_adapter.schemas.fields import AnswerModel
from gptoss_adapter.schemas.hosted_items import CodeInterpreterCallItem, WebSearchCallItem
from gptoss_adapter.schemas.mcp_items import McpApprovalRequestItem, McpCallItem, McpListToolsItem
from gptoss_adapter.schemas.response_items import CallItem, Item, MessageItem, ReasoningItem

OutputItem = Annotated[
    MessageItem
    | ReasoningItem
    | CallItem
    | McpCallItem
    | McpListToolsItem
    | McpApprovalRequestItem
    | WebSearchCallItem
    | CodeInterpreterCallItem,
    Field(discriminator="type"),
]
ListedItem = Annotated[Item, Field(discriminator="type")]


class InputTokensDetails(AnswerModel):
    """Of the input's tokens, those whose keys and values were still in the KV cache, and those now written to it."""

    cached_tokens: int
    cache_write_tokens: int


class OutputTokensDetails(AnswerModel):
    """Of the output's tokens, those that were reasoning."""

    reasoning_tokens: int


class ResponseUsage(AnswerModel):
    """What a response cost, in tokens."""

    input_tokens: int
    input_tokens_details: InputTokensDetails
    output_tokens: int
    output_tokens_details: OutputTokensDetails
    total_tokens: int

    @classmethod
    def of(cls, usage: Usage) -> Self:
        """Return it by the names that it has here."""
        details = usage.prompt_tokens_details
        reasoning_tokens = usage.completion_tokens_details.reasoning_tokens
        return cls(
            input_tokens=usage.prompt_tokens,
            input_tokens_details=InputTokensDetails(
                cached_tokens=details.cached_tokens, cache_write_tokens=details.cache_write_tokens
            ),
            output_tokens=usage.completion_tokens,
            output_tokens_details=OutputTokensDetails(reasoning_tokens=reasoning_tokens),
            total_tokens=usage.total_tokens,
        )


ResponseErrorCode: TypeAlias = Literal[
    "server_error", "rate_limit_exceeded", "invalid_prompt", "context_length_exceeded"
]
"""The last one is not in OpenAI's description; its server says it."""


class ResponseError(AnswerModel):
    """Why a response failed."""

    code: ResponseErrorCode
    message: str


class IncompleteDetails(AnswerModel):
    """Why a response is not complete."""

    reason: Literal["max_output_tokens"]


class ConversationReference(AnswerModel):
    """The conversation that a response belongs to."""

    id: str


class ResponseObject(AnswerModel):
    """A response: how far it is, what the model gave, and what was asked of it."""

    id: str
    object: Literal["response"]
    created_at: int
    """Unix seconds, as is `completed_at`."""
    completed_at: int | None
    status: Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]
    error: ResponseError | None
    incomplete_details: IncompleteDetails | None
    model: str
    output: list[OutputItem]
    usage: ResponseUsage | None

    instructions: str | None
    previous_response_id: str | None
    conversation: ConversationReference | None = None
    """None, too, where it could not be added to."""
    tools: list[dict[str, JsonValue]]
    tool_choice: JsonValue
    parallel_tool_calls: bool
    text: dict[str, JsonValue]
    reasoning: dict[str, JsonValue]
    max_output_tokens: int | None
    """What the request named. Without one, a profile's may end the answer."""
    max_tool_calls: int | None
    temperature: float
    top_p: float
    presence_penalty: float
    frequency_penalty: float
    top_logprobs: int
    truncation: Literal["auto", "disabled"]
    background: bool
    store: bool
    """Whether the response is, or once it is over will be, kept."""
    service_tier: Literal["default"]
    metadata: dict[str, str]
    user: str | None
    safety_identifier: str | None
    prompt_cache_key: str | None
    prompt_cache_retention: str | None
    prompt_cache_options: dict[str, JsonValue] | None


class CountedInputTokens(AnswerModel):
    """How long a prompt would be."""

    object: Literal["response.input_tokens"]
    input_tokens: int


class CompactedResponse(AnswerModel):
    """A conversation made shorter, to be sent as `input` in place of it."""

    id: str
    object: Literal["response.compaction"]
    created_at: int
    """Unix seconds."""
    output: list[Annotated[MessageItem | CompactionItem, Field(discriminator="type")]]
    usage: ResponseUsage
    """What the summary cost."""


class DeletedResponse(AnswerModel):
    """A response that is not kept any more."""

    id: str
    object: Literal["response"]
    deleted: Literal[True]


class ResponseItemList(AnswerModel):
    """Some of the items of a conversation, or of what a response was made from."""

    object: Literal["list"]
    data: list[ListedItem]
    first_id: str | None
    last_id: str | None
    has_more: bool

    @classmethod
    def page(cls, items: list[Item], *, has_more: bool) -> Self:
        """Return the list of those items, which others may follow."""
        return cls(
            object="list",
            data=items,
            first_id=items[0].id if items else None,
            last_id=items[-1].id if items else None,
            has_more=has_more,
        )
