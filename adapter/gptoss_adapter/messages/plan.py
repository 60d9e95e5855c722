"""From a request of Anthropic's API to the two documents of the contract.

Stage: 2 validate → 3 prompt.
Owns: the mapping, the profile's defaults, the limits, the names that refusals call fields by.
Does not know: blocks (conversation.py), Harmony, Triton.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Final

from pydantic import JsonValue
from pydantic_core import to_json

from gptoss_adapter.efforts import effort_of
from gptoss_adapter.errors import InvalidRequestError, invalid_value
from gptoss_adapter.field_names import naming_fields
from gptoss_adapter.limits import check_schemas, check_tools
from gptoss_adapter.messages.conversation import conversation, is_begun
from gptoss_adapter.messages.errors import THREAD_UNSUPPORTED
from gptoss_adapter.messages.thinking import Telling
from gptoss_adapter.sampling_plan import max_tokens_of, or_default, sampling_of
from gptoss_adapter.schemas.message_tools import MessageTool, NamedChoice, NoChoice, OpenChoice
from gptoss_adapter.schemas.messages import ConversationFields, MessageRequest
from gptoss_adapter.serving import ServedModel, Services
from gptoss_backend.contract import (
    ChatRequest,
    FunctionTool,
    ReasoningEffort,
    ResponseFormat,
    SamplingParams,
    ToolChoice,
    ToolChoiceMode,
)
from gptoss_backend.settings import ProfileSettings

_MEDIUM_BUDGET: Final = 4096
_HIGH_BUDGET: Final = 16384
"""Tokens from which a budget of thinking is that effort. Claude Code's have been 4,000, 10,000 and 31,999."""


def naming_fields_of_this_api() -> AbstractContextManager[None]:
    """Errors in the body name the fields of a chat: make them name those that were sent."""
    return naming_fields({"messages": "messages", "response_format": "output_config.format"})


def chat_request(body: ConversationFields, served: ServedModel, services: Services) -> ChatRequest:
    """Return what decides the prompt. Raises InvalidRequestError."""
    limits = services.settings.adapter
    if body.thread is not None:
        message = "'thread' is not honoured: no conversation is kept here between requests; send all of it."
        raise InvalidRequestError(message, param="thread", code=THREAD_UNSUPPORTED)
    _check_length(len(body.messages), limits.max_messages)
    check_tools(body.tools, limits)
    check_schemas(dict(_schemas(body)), limits)
    messages = conversation(body)
    if not messages:
        raise invalid_value("'messages' say nothing: the model has to be told something.", "messages")
    _check_length(len(messages), limits.max_messages)
    choice = body.tool_choice
    return ChatRequest(
        messages=messages,
        continues_last=is_begun(messages),
        date=services.today().isoformat(),
        tools=tuple(_tool(tool) for tool in body.tools or ()),
        tool_choice=_tool_choice(body),
        parallel_tool_calls=choice is None or isinstance(choice, NoChoice) or not choice.disable_parallel_tool_use,
        response_format=_response_format(body),
        reasoning_effort=_effort(body, served.profile),
    )


def sampling_params(body: MessageRequest, profile: ProfileSettings) -> SamplingParams:
    """Return how the answer's tokens are chosen. Raises InvalidRequestError.

    Whoever asks must name a number of tokens, so it is a ceiling: where a profile's is lower, that one holds.
    """
    wanted = max(body.max_tokens, 1)  # of none the engine computes no prompt: what comes is not told
    asked = min(wanted, or_default(profile.max_tokens_limit, wanted))
    return sampling_of(body, profile, max_tokens_of(profile, asked, "max_tokens"), None)


def telling(body: MessageRequest) -> Telling:
    """Return how much of the reasoning is told: all of it, unless the request says otherwise."""
    is_omitted = body.thinking is not None and body.thinking.display == "omitted"
    return Telling.OMITTED if is_omitted else Telling.WHOLE


def _effort(body: ConversationFields, profile: ProfileSettings) -> ReasoningEffort:
    thinking = body.thinking
    if thinking is not None and thinking.type == "disabled":
        return ReasoningEffort.NONE
    if body.output_config is not None and body.output_config.effort is not None:
        return effort_of(body.output_config.effort)
    if thinking is None or thinking.type in ("adaptive", "between_tools"):
        return profile.reasoning_effort
    budget = thinking.budget_tokens
    if budget is None:
        return profile.reasoning_effort
    if budget < _MEDIUM_BUDGET:
        return ReasoningEffort.LOW
    return ReasoningEffort.MEDIUM if budget < _HIGH_BUDGET else ReasoningEffort.HIGH


def _tool(tool: MessageTool) -> FunctionTool:
    examples = [f"Example: {to_json(example).decode()}" for example in tool.input_examples or ()]
    description = "\n".join([*([tool.description] if tool.description else []), *examples])
    return FunctionTool(tool.name, description, tool.input_schema, strict=bool(tool.strict))


def _tool_choice(body: ConversationFields) -> ToolChoice:
    match body.tool_choice:
        case NamedChoice(name=name):
            return ToolChoice(ToolChoiceMode.REQUIRED, name)
        case OpenChoice(type="any"):
            return ToolChoice(ToolChoiceMode.REQUIRED)
        case NoChoice():
            return ToolChoice(ToolChoiceMode.NONE)
    return ToolChoice(ToolChoiceMode.AUTO)


def _response_format(body: ConversationFields) -> ResponseFormat | None:
    asked = body.output_config.format if body.output_config is not None else None
    return ResponseFormat(asked.schema_) if asked is not None else None


def _schemas(body: ConversationFields) -> Iterator[tuple[str, dict[str, JsonValue]]]:
    for at, tool in enumerate(body.tools or ()):
        yield f"tools[{at}].input_schema", tool.input_schema
    if body.output_config is not None and body.output_config.format is not None:
        yield "output_config.format.schema", body.output_config.format.schema_


def _check_length(num_messages: int, max_messages: int) -> None:
    if num_messages > max_messages:
        message = f"The conversation has {num_messages} messages and tool results; this server takes {max_messages}."
        raise invalid_value(message, "messages")
