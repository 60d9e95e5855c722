"""From the requests of OpenAI's API to the documents of the contract.

Stage: 2 validate → 3 prompt.
Owns: the mapping, the profile's defaults, the rules that tie several fields together.
Does not know: Harmony, Triton, how answers are written.
"""

from __future__ import annotations

from collections.abc import Set
from dataclasses import replace
from datetime import date
from typing import Final, TypeVar

from gptoss_adapter.context import may_hurry
from gptoss_adapter.errors import invalid_value
from gptoss_adapter.schemas.chat import (
    AllowedToolsChoice,
    AnswerContent,
    AssistantMessage,
    ChatCompletionRequest,
    Content,
    FunctionChoice,
    Message,
    MessageToolCall,
    PromptFields,
    Tool,
    ToolMessage,
    Verbosity,
)
from gptoss_adapter.schemas.completions import CompletionRequest
from gptoss_adapter.schemas.raw_output import RawOutputFields
from gptoss_adapter.schemas.sampling import GenerationFields
from gptoss_adapter.structured import asked_form, whole_text_structure
from gptoss_backend.contract import (
    ChatMessage,
    ChatRequest,
    FunctionTool,
    ReasoningEffort,
    ResponseFormat,
    Role,
    SamplingParams,
    TextForm,
    ToolCall,
    ToolChoice,
    ToolChoiceMode,
)
from gptoss_backend.settings import ProfileSettings

T = TypeVar("T")

COMPLETION_MAX_TOKENS: Final = 16
"""OpenAI's default for completions."""
_WISHES: Final = {"low": "Keep your answers brief.", "high": "Answer in detail."}
"""What a verbosity is to models that were trained on none."""
NO_SEED: Final = -1
"""What vLLM and llama.cpp take for a seed that was left out."""

# --- chats ----------------------------------------------------------------------------------------------------------


def chat_request(body: PromptFields, profile: ProfileSettings, today: date) -> ChatRequest:
    """Return what decides the prompt. Raises InvalidRequestError.

    `sampling` keeps its defaults: it does not change the prompt, and the same prompt with another temperature is then
    the same document, which Triton answers from its response cache.
    """
    choice, form = _tool_choice(body), asked_form(body)
    return ChatRequest(
        messages=(*(_message(message) for message in body.messages), *wish_of(body.verbosity)),
        date=today.isoformat(),
        tools=tuple(_tool(tool) for tool in _allowed_tools(body)),
        tool_choice=choice,
        parallel_tool_calls=or_default(body.parallel_tool_calls, True),
        response_format=form if isinstance(form, ResponseFormat) else None,
        form=form if isinstance(form, TextForm) else None,
        reasoning_effort=_effort(body, profile),
    )


def effort_of(asked: str) -> ReasoningEffort:
    """Return the effort for what a request calls it: there is none below low, and none above high."""
    match asked:
        case "minimal":
            return ReasoningEffort.LOW
        case "xhigh" | "max":
            return ReasoningEffort.HIGH
    return ReasoningEffort(asked)


def wish_of(verbosity: Verbosity | None) -> tuple[ChatMessage, ...]:
    """Return the message that asks for it, to stand behind all others, so that these keep their places.

    The prompt has it at the end of the instructions.
    """
    wish = _WISHES.get(verbosity or "medium")
    return (ChatMessage(Role.DEVELOPER, wish),) if wish else ()


def sampling_params(body: ChatCompletionRequest, profile: ProfileSettings) -> SamplingParams:
    """Return how the answer's tokens are chosen. Raises InvalidRequestError for fields at odds with each other."""
    if body.top_logprobs and not body.logprobs:
        raise invalid_value("'top_logprobs' is only allowed when 'logprobs' is true.", "top_logprobs")
    logprobs = body.top_logprobs or 0 if body.logprobs else None
    param = "max_tokens" if body.max_completion_tokens is None else "max_completion_tokens"
    sampling = sampling_of(body, profile, max_tokens_of(profile, _asked_tokens(body), param), logprobs)
    return replace(sampling, allowed_token_ids=_allowed(body), prompt_logprobs=_of_prompt(body))


def _effort(body: PromptFields, profile: ProfileSettings) -> ReasoningEffort:
    asked = body.reasoning_effort
    of_template = body.chat_template_kwargs.reasoning_effort if body.chat_template_kwargs else None
    if asked and of_template and effort_of(asked) != effort_of(of_template):
        param = "chat_template_kwargs.reasoning_effort"
        raise invalid_value(
            f"'{param}' ({of_template}) and 'reasoning_effort' ({asked}) differ; send one of them.", param
        )
    return effort_of(asked or of_template or profile.reasoning_effort)


def _asked_tokens(body: ChatCompletionRequest) -> int | None:
    old, new = body.max_tokens, body.max_completion_tokens
    if old is not None and new is not None and old != new:
        message = f"'max_tokens' ({old}) and 'max_completion_tokens' ({new}) differ; send one of them."
        raise invalid_value(message, "max_tokens")
    return new if new is not None else old


def _message(message: Message) -> ChatMessage:
    role, content = Role(message.role), _text(message.content)
    if isinstance(message, AssistantMessage):
        return ChatMessage(
            role=role,
            content=_with_refusal(content, message.refusal),
            reasoning=message.reasoning if message.reasoning is not None else message.reasoning_content,
            tool_calls=tuple(_tool_call(call) for call in message.tool_calls or ()),
        )
    if isinstance(message, ToolMessage):
        return ChatMessage(role=role, content=content, tool_call_id=message.tool_call_id)
    return ChatMessage(role=role, content=content)


def _with_refusal(content: str | None, refusal: str | None) -> str | None:
    return f"{content}\n{refusal}" if content and refusal else refusal or content


def _text(content: Content | AnswerContent | None) -> str | None:
    if content is None or isinstance(content, str):
        return content
    return "\n".join(part.text for part in content)


def _tool_call(call: MessageToolCall) -> ToolCall:
    return ToolCall(id=call.id, name=call.function.name, arguments=call.function.arguments)


def _tool(tool: Tool) -> FunctionTool:
    function = tool.function
    return FunctionTool(function.name, function.description or "", function.parameters, strict=bool(function.strict))


def _allowed_tools(body: PromptFields) -> list[Tool]:
    """Return the tools the model is told of."""
    tools = body.tools or []
    if not isinstance(body.tool_choice, AllowedToolsChoice):
        return tools
    allowed = {choice.function.name for choice in body.tool_choice.allowed_tools.tools}
    return [tool for tool in tools if tool.function.name in allowed]


def _tool_choice(body: PromptFields) -> ToolChoice:
    offered = {tool.function.name for tool in body.tools or ()}
    match body.tool_choice:
        case FunctionChoice(function=function):
            _check_offered(offered, function.name, "tool_choice.function.name")
            return ToolChoice(ToolChoiceMode.REQUIRED, function.name)
        case AllowedToolsChoice(allowed_tools=allowed):
            for at, choice in enumerate(allowed.tools):
                _check_offered(offered, choice.function.name, f"tool_choice.allowed_tools.tools[{at}].function.name")
            return ToolChoice(ToolChoiceMode(allowed.mode))
        case "required" if not body.tools:
            raise invalid_value("'tool_choice' is 'required', but there are no 'tools'.", "tool_choice")
        case mode:
            return ToolChoice(ToolChoiceMode(mode or "auto"))


def _check_offered(offered: Set[str], name: str, param: str) -> None:
    if name not in offered:
        raise invalid_value(f"'{param}' is '{name}', which is not among the 'tools'.", param)


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


def copies_of(sampling: SamplingParams, count: int) -> list[SamplingParams]:
    """Return the sampling of `count` answers to one prompt: a seed is counted on, so that they differ."""
    if sampling.seed is None:
        return [sampling] * count
    return [replace(sampling, seed=_as_int64(sampling.seed + index)) for index in range(count)]


def scored_once(copies: list[SamplingParams]) -> list[SamplingParams]:
    """Return the sampling of answers to one prompt, of which only the first tells the prompt's log probabilities."""
    return [copies[0], *(replace(copy, prompt_logprobs=None) for copy in copies[1:])]


def check_answer_fields(body: GenerationFields, num_choices: int, max_choices: int) -> None:
    """Raise InvalidRequestError where the request asks for another way of answering than this server's."""
    if num_choices > max_choices:
        message = f"The request asks for {num_choices} answers ('n' for each prompt); this server gives {max_choices}."
        raise invalid_value(message, "n")
    if body.stream_options is not None and not body.stream:
        raise invalid_value("'stream_options' is only allowed when 'stream' is true.", "stream_options")


def max_tokens_of(profile: ProfileSettings, asked: int | None, param: str, *, default: int | None = None) -> int | None:
    """Return how long an answer may get; None: as long as the context allows.

    asked: by the field `param`. default: in place of the profile's. Raises InvalidRequestError above its limit.
    """
    limit = profile.max_tokens_limit
    if asked is not None and limit is not None and asked > limit:
        raise invalid_value(f"'{param}' is {asked}; this profile gives at most {limit} tokens.", param)
    wanted = asked or default or profile.max_tokens
    return min(wanted, limit) if wanted and limit else wanted or limit


def sampling_of(
    body: GenerationFields, profile: ProfileSettings, max_tokens: int | None, logprobs: int | None
) -> SamplingParams:
    """Return how an answer's tokens are chosen. Raises InvalidRequestError for fields at odds with each other."""
    defaults = SamplingParams()
    if body.priority is not None and body.priority < defaults.priority and not may_hurry():
        raise invalid_value(
            f"'priority' is {body.priority}; this key may ask for {defaults.priority} or later.", "priority"
        )
    min_tokens = or_default(body.min_tokens, defaults.min_tokens)
    if max_tokens is not None and min_tokens > max_tokens:
        raise invalid_value(f"'min_tokens' ({min_tokens}) is more than the {max_tokens} tokens allowed.", "min_tokens")
    return SamplingParams(
        max_tokens=max_tokens,
        temperature=or_default(body.temperature, or_default(profile.temperature, defaults.temperature)),
        top_p=or_default(body.top_p, or_default(profile.top_p, defaults.top_p)),
        top_k=max(or_default(body.top_k, defaults.top_k), 0),
        min_p=or_default(body.min_p, defaults.min_p),
        seed=None if body.seed == NO_SEED else body.seed,
        ignore_eos=or_default(body.ignore_eos, defaults.ignore_eos),
        presence_penalty=or_default(body.presence_penalty, defaults.presence_penalty),
        frequency_penalty=or_default(body.frequency_penalty, defaults.frequency_penalty),
        repetition_penalty=or_default(body.repetition_penalty, defaults.repetition_penalty),
        logit_bias={int(token): bias for token, bias in (body.logit_bias or {}).items()},
        min_tokens=min_tokens,
        stop_token_ids=tuple(body.stop_token_ids or ()),
        logprobs=logprobs,
        priority=or_default(body.priority, defaults.priority),
        cache_salt=body.cache_salt,
    )


def _allowed(body: RawOutputFields) -> tuple[int, ...] | None:
    return None if body.allowed_token_ids is None else tuple(body.allowed_token_ids)


def _of_prompt(body: ChatCompletionRequest | CompletionRequest) -> int | None:
    if body.prompt_logprobs is not None and body.stream:
        raise invalid_value("'prompt_logprobs' cannot be streamed.", "prompt_logprobs")
    return body.prompt_logprobs


def _as_int64(number: int) -> int:
    return (number + 2**63) % 2**64 - 2**63


def or_default(value: T | None, default: T) -> T:
    """Return the value, or the default where it was left out."""
    return default if value is None else value
