"""From an OpenAI chat request to the two documents of the contract.

Stage: 2 validate → 3 prompt.
Owns: the mapping, the profile's defaults, the rules that tie several fields together.
Does not know: Harmony, Triton, how answers are written.
"""

from __future__ import annotations

from datetime import date
from typing import TypeVar

from gptoss_adapter.errors import InvalidRequestError
from gptoss_adapter.schemas.chat import (
    AssistantMessage,
    ChatCompletionRequest,
    Content,
    Message,
    MessageToolCall,
    Tool,
    ToolMessage,
)
from gptoss_backend.contract import (
    ChatMessage,
    ChatRequest,
    FunctionTool,
    ReasoningEffort,
    Role,
    SamplingParams,
    ToolCall,
)
from gptoss_backend.settings import ProfileSettings

T = TypeVar("T")


def chat_request(body: ChatCompletionRequest, profile: ProfileSettings, today: date) -> ChatRequest:
    """Return what decides the prompt.

    `sampling` keeps its defaults: it does not change the prompt, and the same prompt with another temperature is then
    the same document, which Triton answers from its response cache.
    """
    effort = ReasoningEffort(body.reasoning_effort) if body.reasoning_effort else profile.reasoning_effort
    tools = body.tools or [] if body.tool_choice != "none" else []
    return ChatRequest(
        messages=tuple(_message(message) for message in body.messages),
        date=today.isoformat(),
        tools=tuple(_tool(tool) for tool in tools),
        reasoning_effort=effort,
    )


def sampling_params(body: ChatCompletionRequest, profile: ProfileSettings) -> SamplingParams:
    """Return how the answer's tokens are chosen. Raises InvalidRequestError for fields at odds with each other."""
    defaults = SamplingParams()
    return SamplingParams(
        max_tokens=_max_tokens(body) or profile.max_tokens,
        temperature=_or(body.temperature, defaults.temperature),
        top_p=_or(body.top_p, defaults.top_p),
        top_k=max(_or(body.top_k, defaults.top_k), 0),
        min_p=_or(body.min_p, defaults.min_p),
        seed=body.seed,
        ignore_eos=_or(body.ignore_eos, defaults.ignore_eos),
    )


def _or(value: T | None, default: T) -> T:
    return default if value is None else value


def _max_tokens(body: ChatCompletionRequest) -> int | None:
    old, new = body.max_tokens, body.max_completion_tokens
    if old is not None and new is not None and old != new:
        message = f"'max_tokens' ({old}) and 'max_completion_tokens' ({new}) differ; send one of them."
        raise InvalidRequestError(message, param="max_tokens", code="invalid_value")
    return new if new is not None else old


def _message(message: Message) -> ChatMessage:
    role, content = Role(message.role), _text(message.content)
    if isinstance(message, AssistantMessage):
        return ChatMessage(
            role=role,
            content=content,
            reasoning=message.reasoning if message.reasoning is not None else message.reasoning_content,
            tool_calls=tuple(_tool_call(call) for call in message.tool_calls or ()),
        )
    if isinstance(message, ToolMessage):
        return ChatMessage(role=role, content=content, tool_call_id=message.tool_call_id)
    return ChatMessage(role=role, content=content)


def _text(content: Content | None) -> str | None:
    if content is None or isinstance(content, str):
        return content
    return "\n".join(part.text for part in content)


def _tool_call(call: MessageToolCall) -> ToolCall:
    return ToolCall(id=call.id, name=call.function.name, arguments=call.function.arguments)


def _tool(tool: Tool) -> FunctionTool:
    function = tool.function
    return FunctionTool(name=function.name, description=function.description or "", parameters=function.parameters)
