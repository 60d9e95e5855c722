"""The requests of POST /v1/messages and POST /v1/messages/count_tokens: Anthropic's Messages API.

Stage: 2 validate.
Owns: their fields, their types and bounds. Every field is honoured, harmless (read by nobody) or NotHonoured.
Does not know: what contents are made of (message_blocks.py), tools (message_tools.py), the contract with Triton
(messages/plan.py maps to it).
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Field, JsonValue, WithJsonSchema

from gptoss_adapter.schemas.fields import Harmless, ListOf, NotHonoured, RequestModel
from gptoss_adapter.schemas.message_blocks import AssistantContent, CacheControl, TextContent, UserContent
from gptoss_adapter.schemas.message_tools import MessageTool, ToolChoiceField
from gptoss_adapter.schemas.sampling import GenerationFields

# --- messages -------------------------------------------------------------------------------------------------------


class UserMessage(RequestModel):
    """What the user says, and what the tools returned."""

    role: Literal["user"]
    content: UserContent


class AssistantMessage(RequestModel):
    """An earlier answer."""

    role: Literal["assistant"]
    content: AssistantContent


class SystemMessage(RequestModel):
    """Further instructions, from here on where they are not the first message."""

    role: Literal["system"]
    content: TextContent


Message = Annotated[UserMessage | AssistantMessage | SystemMessage, Field(discriminator="role")]

_BLOCK: Final = {"type": "object", "properties": {"type": {"type": "string"}}, "required": ["type"]}
_MESSAGE: Final = {
    "type": "object",
    "properties": {
        "role": {"enum": ["user", "assistant", "system"]},
        "content": {"anyOf": [{"type": "string"}, {"type": "array", "items": _BLOCK}]},
    },
    "required": ["role", "content"],
}
_TOLD: Final = WithJsonSchema({"type": "array", "minItems": 1, "items": _MESSAGE})
"""What /openapi.json says of messages. Spelled out, lists within lists are more than schemathesis makes requests of."""

# --- thinking and output --------------------------------------------------------------------------------------------


class Thinking(RequestModel):
    """How much the model thinks, and whether that is told."""

    type: Literal["enabled", "adaptive", "between_tools", "disabled"]
    """Of `enabled` the budget decides; `disabled` is none, whatever the effort; the others leave it to the profile."""
    budget_tokens: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    display: Literal["summarized", "omitted"] | None = None
    """Thinking is never summarised; `omitted` leaves it out of its block."""


class JsonOutput(RequestModel):
    """The text is JSON of a schema."""

    type: Literal["json_schema"]
    schema_: Annotated[dict[str, JsonValue], Field(alias="schema")]


class OutputConfig(RequestModel):
    """How the model answers."""

    effort: Literal["low", "medium", "high", "xhigh", "max"] | None = None
    """The two above high are high: there is no more."""
    format: JsonOutput | None = None
    task_budget: Annotated[object, NotHonoured()] = None


class ContextEdit(RequestModel):
    """Harmless: of thinking, the model is shown only what follows its last answer, whatever is asked to be kept."""

    type: Literal["clear_thinking_20251015"]
    keep: Harmless = None


class ContextManagement(RequestModel):
    """What is to be left out of the conversation."""

    edits: ListOf[ContextEdit] | None = None


class Metadata(RequestModel):
    """Harmless: a label that changes no answer."""

    user_id: str | None = None


# --- the requests ---------------------------------------------------------------------------------------------------


class ConversationFields(RequestModel):
    """All that decides a prompt."""

    model: str
    messages: Annotated[ListOf[Message], Field(min_length=1), _TOLD]
    system: TextContent | None = None
    tools: ListOf[MessageTool] | None = None
    tool_choice: ToolChoiceField | None = None
    thinking: Thinking | None = None
    output_config: OutputConfig | None = None
    profile: str | None = None
    """The operating point: defaults and limits, and for the model `gpt-oss` which model answers."""

    cache_control: CacheControl = None
    context_management: ContextManagement | None = None

    output_format: Annotated[object, NotHonoured(instead="say it with 'output_config.format'")] = None
    speed: Annotated[object, NotHonoured("standard")] = None
    mcp_servers: Annotated[object, NotHonoured([])] = None
    compaction: Annotated[object, NotHonoured()] = None
    thread: dict[str, JsonValue] | None = None
    """Refused by plan.py, in the words on which Anthropic's clients go on without."""


class CountTokensRequest(ConversationFields):
    """A conversation whose prompt is to be counted."""


class MessageRequest(ConversationFields, GenerationFields):
    """A conversation to continue by one assistant message.

    The fields of a chat that Anthropic's API does not have (seed, min_p, priority …) are taken too.
    """

    max_tokens: Annotated[int, Field(ge=0, lt=2**31)]
    """At most so many: a profile may give less, and `stop_reason` then says so. 0: the prompt alone, into the cache."""
    stop_sequences: Annotated[
        ListOf[Annotated[str, Field(min_length=1, max_length=1024)]] | None, Field(max_length=64)
    ] = None
    temperature: Annotated[float, Field(ge=0.0, le=1.0)] | None = None

    # harmless: labels that change no answer
    metadata: Metadata | None = None
    service_tier: Literal["auto", "standard_only"] | None = None
    diagnostics: Harmless = None
    """Asks for a report on Anthropic's cache, which may always be missing."""

    stop: Annotated[None, NotHonoured(instead="say it with 'stop_sequences'")] = None
    n: Annotated[int | None, NotHonoured(1)] = None
    stream_options: Annotated[None, NotHonoured()] = None
    container: Annotated[object, NotHonoured()] = None
    inference_geo: Annotated[object, NotHonoured()] = None
    fallbacks: Annotated[object, NotHonoured([])] = None
    fallback_credit_token: Annotated[object, NotHonoured()] = None
    billing_policy: Annotated[object, NotHonoured()] = None
    include_stop_str_in_output: Annotated[object, NotHonoured(False)] = None
