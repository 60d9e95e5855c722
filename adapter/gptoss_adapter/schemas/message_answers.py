"""What the endpoints under /v1/messages answer, in Anthropic's shapes.

Stage: 7 SSE, and the whole answers.
Owns: the shapes of a message, of a count and of an error. Events are shaped by messages/output.py.
Does not know: where the values come from.
"""

from __future__ import annotations

from typing import Literal, TypeAlias

from pydantic import JsonValue

from gptoss_adapter.schemas.fields import AnswerModel

StopReason = Literal["end_turn", "max_tokens", "stop_sequence", "tool_use", "model_context_window_exceeded"]
ErrorType = Literal[
    "invalid_request_error",
    "authentication_error",
    "permission_error",
    "not_found_error",
    "request_too_large",
    "rate_limit_error",
    "timeout_error",
    "overloaded_error",
    "api_error",
]


class AnswerText(AnswerModel):
    """What the model says."""

    type: Literal["text"]
    text: str


class AnswerThinking(AnswerModel):
    """What the model thought."""

    type: Literal["thinking"]
    thinking: str
    signature: str


class AnswerToolUse(AnswerModel):
    """A call the model makes."""

    type: Literal["tool_use"]
    id: str
    name: str
    input: dict[str, JsonValue]


AnswerBlock: TypeAlias = AnswerText | AnswerThinking | AnswerToolUse


class ThinkingTokens(AnswerModel):
    """Of the output's tokens, those that were thinking."""

    thinking_tokens: int


class MessageUsage(AnswerModel):
    """What a message cost, in tokens. The prompt's are those read from the KV cache and `input_tokens` together."""

    input_tokens: int
    cache_creation_input_tokens: Literal[0]
    """Writing the cache is no extra work here: what is written counts as input."""
    cache_read_input_tokens: int
    output_tokens: int
    output_tokens_details: ThinkingTokens
    service_tier: Literal["standard"]


class MessageAnswer(AnswerModel):
    """The assistant's message."""

    id: str
    type: Literal["message"]
    role: Literal["assistant"]
    model: str
    content: list[AnswerBlock]
    stop_reason: StopReason | None
    stop_sequence: str | None
    usage: MessageUsage


class CountedMessageTokens(AnswerModel):
    """How long a conversation's prompt is."""

    input_tokens: int


class UnsupportedThread(AnswerModel):
    """What Anthropic's tool runner reads: it then sends the whole conversation each time."""

    error_code: Literal["thread_unsupported_request"]
    unsupported: list[str]


class MessageErrorDetail(AnswerModel):
    """Why there is no answer."""

    type: ErrorType
    message: str
    details: UnsupportedThread | None = None


class MessageError(AnswerModel):
    """The body of every answer of these endpoints with a status of 400 or more."""

    type: Literal["error"]
    error: MessageErrorDetail
    request_id: str
