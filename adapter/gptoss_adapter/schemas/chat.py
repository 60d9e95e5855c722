"""The request of POST /v1/chat/completions.

Stage: 2 validate.
Owns: its fields, their types and bounds. Every field is honoured, harmless (read by nobody) or NotHonoured.
Does not know: the contract with Triton (prompting.py maps to it).
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Discriminator, Field, JsonValue, Tag

from gptoss_adapter.schemas.fields import NotHonoured, RequestModel

# --- messages -------------------------------------------------------------------------------------------------------


class TextPart(RequestModel):
    """A piece of content; pictures, sound and files are beyond these models."""

    type: Literal["text"]
    text: str


def _content_kind(value: object) -> str | None:
    if isinstance(value, str):
        return "text"
    return "parts" if isinstance(value, list) else None


Content = Annotated[
    Annotated[str, Tag("text")] | Annotated[list[TextPart], Tag("parts")],
    Discriminator(
        _content_kind,
        custom_error_type="content_type",
        custom_error_message="Input should be a string or a list of text parts",
    ),
]


class SystemMessage(RequestModel):
    """What the operator says about the whole conversation."""

    role: Literal["system"]
    content: Content
    name: Annotated[object, NotHonoured()] = None


class DeveloperMessage(RequestModel):
    """What the developer says about the whole conversation."""

    role: Literal["developer"]
    content: Content
    name: Annotated[object, NotHonoured()] = None


class UserMessage(RequestModel):
    """What the user says."""

    role: Literal["user"]
    content: Content
    name: Annotated[object, NotHonoured()] = None


class CalledFunction(RequestModel):
    """A function and the arguments of one call to it, as JSON text."""

    name: Annotated[str, Field(min_length=1)]
    arguments: str


class MessageToolCall(RequestModel):
    """A call an earlier answer made."""

    id: Annotated[str, Field(min_length=1)]
    type: Literal["function"] = "function"
    function: CalledFunction


class AssistantMessage(RequestModel):
    """An earlier answer, as this server or another gave it."""

    role: Literal["assistant"]
    content: Content | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    """Another name for `reasoning`."""
    tool_calls: list[MessageToolCall] | None = None
    name: Annotated[object, NotHonoured()] = None
    refusal: Annotated[object, NotHonoured()] = None
    annotations: Annotated[object, NotHonoured([])] = None
    audio: Annotated[object, NotHonoured()] = None
    function_call: Annotated[object, NotHonoured()] = None


class ToolMessage(RequestModel):
    """What a called tool returned."""

    role: Literal["tool"]
    content: Content
    tool_call_id: Annotated[str, Field(min_length=1)]
    name: str | None = None
    """Harmless: the call with this id says which tool it was."""


Message = Annotated[
    SystemMessage | DeveloperMessage | UserMessage | AssistantMessage | ToolMessage, Field(discriminator="role")
]

# --- tools and options ----------------------------------------------------------------------------------------------


class Function(RequestModel):
    """A function the model may call; `parameters` is a JSON schema."""

    name: Annotated[str, Field(min_length=1)]
    description: str | None = None
    parameters: dict[str, JsonValue] | None = None
    strict: Annotated[object, NotHonoured(False)] = None


class Tool(RequestModel):
    """A tool the model may use."""

    type: Literal["function"]
    function: Function


class StreamOptions(RequestModel):
    """How an answer is streamed."""

    include_usage: bool | None = None
    include_obfuscation: Annotated[object, NotHonoured(False)] = None


class ChatCompletionRequest(RequestModel):
    """A chat to continue by one assistant turn."""

    model: str
    messages: Annotated[list[Message], Field(min_length=1)]

    tools: list[Tool] | None = None
    tool_choice: Literal["auto", "none"] | None = None
    reasoning_effort: Literal["low", "medium", "high"] | None = None

    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    temperature: Annotated[float, Field(ge=0.0, le=2.0)] | None = None
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] | None = None
    top_k: Annotated[int, Field(ge=-1)] | None = None
    """0 and -1: no limit."""
    min_p: Annotated[float, Field(ge=0.0, le=1.0)] | None = None
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    ignore_eos: bool | None = None

    stream: bool | None = None
    stream_options: StreamOptions | None = None

    # harmless: labels and hints that change no answer
    user: str | None = None
    metadata: dict[str, str] | None = None
    service_tier: str | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None

    store: Annotated[object, NotHonoured(False)] = None
    n: Annotated[object, NotHonoured(1)] = None
    stop: Annotated[object, NotHonoured([])] = None
    logprobs: Annotated[object, NotHonoured(False)] = None
    top_logprobs: Annotated[object, NotHonoured(0)] = None
    logit_bias: Annotated[object, NotHonoured({})] = None
    presence_penalty: Annotated[object, NotHonoured(0)] = None
    frequency_penalty: Annotated[object, NotHonoured(0)] = None
    repetition_penalty: Annotated[object, NotHonoured(1)] = None
    min_tokens: Annotated[object, NotHonoured(0)] = None
    priority: Annotated[object, NotHonoured(0)] = None
    include_reasoning: Annotated[object, NotHonoured(True)] = None
    response_format: Annotated[object, NotHonoured({"type": "text"})] = None
    parallel_tool_calls: Annotated[object, NotHonoured(True)] = None
    functions: Annotated[object, NotHonoured([])] = None
    function_call: Annotated[object, NotHonoured("none")] = None
    modalities: Annotated[object, NotHonoured(["text"])] = None
    audio: Annotated[object, NotHonoured()] = None
    prediction: Annotated[object, NotHonoured()] = None
    verbosity: Annotated[object, NotHonoured("medium")] = None
    web_search_options: Annotated[object, NotHonoured()] = None
