"""From the requests of OpenAI's API to the documents of the contract.

Stage: 2 validate → 3 prompt.
Owns: the mapping of chats; of the sampling, what chats and completions have of their own; the rules that tie their
fields together.
Does not know: what all APIs' sampling shares (sampling_plan), Harmony, Triton, how answers are written.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Set
from contextlib import AbstractContextManager
from dataclasses import replace
from datetime import date
from typing import Final

from gptoss_adapter.efforts import effort_of_chat
from gptoss_adapter.errors import invalid_value
from gptoss_adapter.field_names import naming_tools
from gptoss_adapter.limits import check_schemas, check_tools
from gptoss_adapter.parts import returned, said
from gptoss_adapter.sampling_plan import max_tokens_of, or_default, sampling_of
from gptoss_adapter.schemas.chat import (
    AssistantMessage,
    ChatCompletionRequest,
    Message,
    PromptFields,
    ToolMessage,
    Verbosity,
)
from gptoss_adapter.schemas.chat_tools import (
    AllowedToolsChoice,
    CustomCall,
    CustomChoice,
    FunctionCall,
    FunctionChoice,
    OfferedTool,
)
from gptoss_adapter.schemas.chat_tools import CustomTool as OfferedCustomTool
from gptoss_adapter.schemas.completions import CompletionRequest
from gptoss_adapter.schemas.raw_output import RawOutputFields
from gptoss_adapter.structured import asked_form, check_form, check_text_form, input_form, whole_text_structure
from gptoss_backend.contract import (
    CallSyntax,
    ChatMessage,
    ChatRequest,
    CustomTool,
    FunctionTool,
    ResponseFormat,
    Role,
    SamplingParams,
    TextForm,
    ToolCall,
    ToolChoice,
    ToolChoiceMode,
)
from gptoss_backend.settings import AdapterSettings, ProfileSettings

COMPLETION_MAX_TOKENS: Final = 16
"""OpenAI's default for completions."""
_WISHES: Final = {"low": "Keep your answers brief.", "high": "Answer in detail."}
"""What a verbosity is to models that were trained on none."""

# --- chats ----------------------------------------------------------------------------------------------------------


def chat_request(body: PromptFields, profile: ProfileSettings, today: date) -> ChatRequest:
    """Return what decides the prompt. Raises InvalidRequestError.

    `sampling` keeps its defaults: it does not change the prompt, and the same prompt with another temperature is then
    the same document, which Triton answers from its response cache.
    """
    choice, form = _tool_choice(body), asked_form(body)
    plain = {tool.name for tool in body.tools or () if isinstance(tool, OfferedCustomTool) and tool.grammar}
    return ChatRequest(
        messages=tuple(_message(message, plain) for message in body.messages),
        continues_last=_continues_last(body),
        notes=wish_of(body.verbosity),
        date=today.isoformat(),
        tools=tuple(_tools(tool for _, tool in _told(body))),
        tool_choice=choice,
        parallel_tool_calls=or_default(body.parallel_tool_calls, True),
        response_format=form if isinstance(form, ResponseFormat) else None,
        form=form if isinstance(form, TextForm) else None,
        reasoning_effort=effort_of_chat(body, profile),
    )


def naming_tools_of_chats(body: PromptFields) -> AbstractContextManager[None]:
    """Errors in the body name tools by their places among those that the model is told of: make them name the sent."""
    return naming_tools([f"tools[{at}]" for at, _ in _told(body)])


def check_length(body: PromptFields, limits: AdapterSettings) -> None:
    """Raise InvalidRequestError where the conversation, its tools or a schema are larger than this server takes."""
    if len(body.messages) > limits.max_messages:
        message = f"The conversation has {len(body.messages)} messages; this server takes {limits.max_messages}."
        raise invalid_value(message, "messages")
    check_tools(body.tools, limits)
    for at, tool in enumerate(_tools(body.tools or ())):
        if isinstance(tool, FunctionTool):
            check_schemas({f"tools[{at}].function.parameters": tool.parameters}, limits)
        elif tool.form is not None:
            check_text_form(tool.form, limits)
    check_form(asked_form(body), limits)


def wish_of(verbosity: Verbosity | None) -> tuple[str, ...]:
    """Return the note that asks for it."""
    wish = _WISHES.get(verbosity or "medium")
    return (wish,) if wish else ()


def sampling_params(body: ChatCompletionRequest, profile: ProfileSettings) -> SamplingParams:
    """Return how the answer's tokens are chosen. Raises InvalidRequestError for fields at odds with each other."""
    if body.top_logprobs and not body.logprobs:
        raise invalid_value("'top_logprobs' is only allowed when 'logprobs' is true.", "top_logprobs")
    logprobs = body.top_logprobs or 0 if body.logprobs else None
    param = "max_tokens" if body.max_completion_tokens is None else "max_completion_tokens"
    sampling = sampling_of(body, profile, max_tokens_of(profile, _asked_tokens(body), param), logprobs)
    return replace(sampling, allowed_token_ids=_allowed(body), prompt_logprobs=_of_prompt(body))


def _asked_tokens(body: ChatCompletionRequest) -> int | None:
    old, new = body.max_tokens, body.max_completion_tokens
    if old is not None and new is not None and old != new:
        message = f"'max_tokens' ({old}) and 'max_completion_tokens' ({new}) differ; send one of them."
        raise invalid_value(message, "max_tokens")
    return new if new is not None else old


def _continues_last(body: PromptFields) -> bool:
    does_continue, begins_anew = bool(body.continue_final_message), body.add_generation_prompt
    if does_continue and begins_anew:
        message = "'continue_final_message' and 'add_generation_prompt' cannot both be true; send one of them."
        raise invalid_value(message, "continue_final_message")
    if begins_anew is False and not does_continue:
        message = "'add_generation_prompt' may only be false where 'continue_final_message' is true."
        raise invalid_value(message, "add_generation_prompt")
    return does_continue


def _message(message: Message, plain: Set[str]) -> ChatMessage:
    """plain: the custom tools whose input has a grammar."""
    role = Role(message.role)
    if isinstance(message, ToolMessage):
        return ChatMessage(role=role, content=returned(message.content), tool_call_id=message.tool_call_id)
    content = None if message.content is None else said(message.content)
    if isinstance(message, AssistantMessage):
        return ChatMessage(
            role=role,
            content=_with_refusal(content, message.refusal),
            reasoning=message.reasoning if message.reasoning is not None else message.reasoning_content,
            tool_calls=tuple(_tool_call(call, plain) for call in message.tool_calls or ()),
        )
    return ChatMessage(role=role, content=content)


def _with_refusal(content: str | None, refusal: str | None) -> str | None:
    return f"{content}\n{refusal}" if content and refusal else refusal or content


def _tool_call(call: FunctionCall | CustomCall, plain: Set[str]) -> ToolCall:
    if isinstance(call, FunctionCall):
        return ToolCall(call.id, call.function.name, call.function.arguments)
    syntax = CallSyntax.PLAIN if call.custom.name in plain else CallSyntax.QUOTED
    return ToolCall(call.id, call.custom.name, call.custom.input, syntax)


def _told(body: PromptFields) -> Iterator[tuple[int, OfferedTool]]:
    """Yield the tools that the model is told of, each with its place in the request."""
    choice = body.tool_choice
    allowed = _kinds_and_names(choice.allowed_tools.tools) if isinstance(choice, AllowedToolsChoice) else None
    for at, tool in enumerate(body.tools or ()):
        if allowed is None or (tool.type, tool.name) in allowed:
            yield at, tool


def _kinds_and_names(tools: Iterable[OfferedTool | FunctionChoice | CustomChoice]) -> set[tuple[str, str]]:
    return {(tool.type, tool.name) for tool in tools}


def _tools(offered: Iterable[OfferedTool]) -> Iterator[FunctionTool | CustomTool]:
    """Yield the tools for the model. A fault of one names it by its place among these."""
    for at, tool in enumerate(offered):
        if isinstance(tool, OfferedCustomTool):
            form = input_form(tool.grammar, f"tools[{at}].custom.format.grammar.definition")
            yield CustomTool(tool.name, tool.custom.description or "", form)
        else:
            function = tool.function
            yield FunctionTool(
                function.name, function.description or "", function.parameters, strict=bool(function.strict)
            )


def _tool_choice(body: PromptFields) -> ToolChoice:
    offered = _kinds_and_names(body.tools or ())
    match body.tool_choice:
        case FunctionChoice() | CustomChoice() as choice:
            _check_offered(offered, choice, "tool_choice")
            return ToolChoice(ToolChoiceMode.REQUIRED, choice.name)
        case AllowedToolsChoice(allowed_tools=allowed):
            for at, choice in enumerate(allowed.tools):
                _check_offered(offered, choice, f"tool_choice.allowed_tools.tools[{at}]")
            return ToolChoice(ToolChoiceMode(allowed.mode))
        case "required" if not body.tools:
            raise invalid_value("'tool_choice' is 'required', but there are no 'tools'.", "tool_choice")
        case mode:
            return ToolChoice(ToolChoiceMode(mode or "auto"))


def _check_offered(offered: Set[tuple[str, str]], choice: FunctionChoice | CustomChoice, where: str) -> None:
    if (choice.type, choice.name) not in offered:
        param = f"{where}.{choice.type}.name"
        raise invalid_value(f"'{param}' is '{choice.name}', which is not among the 'tools'.", param)


# --- completions ----------------------------------------------------------------------------------------------------


def completion_sampling(body: CompletionRequest, profile: ProfileSettings) -> SamplingParams:
    """Return how a text's tokens are chosen. Raises InvalidRequestError for fields at odds with each other."""
    if body.best_of is not None and body.best_of != (body.n or 1):
        raise invalid_value("'best_of' is only taken where it equals 'n': this server ranks no answers.", "best_of")
    if body.max_tokens == 0 and not body.echo:
        raise invalid_value("'max_tokens' is 0, which is only allowed with 'echo'.", "max_tokens")
    asks_of_echo = body.echo and body.logprobs is not None
    if asks_of_echo and body.stream:
        raise invalid_value("'echo' with 'logprobs' cannot be streamed.", "echo")
    if asks_of_echo and body.prompt_logprobs not in (None, body.logprobs):
        raise invalid_value(
            "'prompt_logprobs' and the 'logprobs' of an echo differ; send one of them.", "prompt_logprobs"
        )
    max_tokens = max_tokens_of(profile, body.max_tokens, "max_tokens", default=COMPLETION_MAX_TOKENS)
    sampling = sampling_of(body, profile, 1 if body.max_tokens == 0 else max_tokens, body.logprobs)
    return replace(
        sampling,
        allowed_token_ids=_allowed(body),
        structure=whole_text_structure(body),
        prompt_logprobs=body.logprobs if asks_of_echo else _of_prompt(body),
    )


# --- both -----------------------------------------------------------------------------------------------------------


def _allowed(body: RawOutputFields) -> tuple[int, ...] | None:
    return None if body.allowed_token_ids is None else tuple(body.allowed_token_ids)


def _of_prompt(body: ChatCompletionRequest | CompletionRequest) -> int | None:
    if body.prompt_logprobs is not None and body.stream:
        raise invalid_value("'prompt_logprobs' cannot be streamed.", "prompt_logprobs")
    return body.prompt_logprobs
