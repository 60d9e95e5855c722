"""The request of POST /v1/chat/completions.

Stage: 2 validate.
Owns: its fields, their types and bounds. Every field is honoured, harmless (read by nobody) or NotHonoured.
Does not know: tools and calls (chat_tools.py); the contract with Triton (prompting.py maps to it).
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Discriminator, Field, JsonValue, Tag

from gptoss_adapter.schemas.chat_tools import MadeCall, OfferedTool, ToolChoiceField
from gptoss_adapter.schemas.fields import (
    Harmless,
    Labels,
    ListOf,
    NotHonoured,
    RequestModel,
    content_kind,
    of_types,
)
from gptoss_adapter.schemas.raw_output import RawOutputFields
from gptoss_adapter.schemas.sampling import GenerationFields, ModelField
from gptoss_adapter.schemas.structured import StructuredFields
from gptoss_adapter.schemas.unseen_parts import FilePart, ImageUrlPart

# --- messages -------------------------------------------------------------------------------------------------------


class TextPart(RequestModel):
    """A piece of content; pictures, sound and files are beyond these models."""

    type: Literal["text"]
    text: str
    cache_control: Harmless = None
    """Harmless: Anthropic's hint on what to keep. What is computed here is kept without one."""
    prompt_cache_breakpoint: Harmless = None
    """Harmless: OpenAI's, as `cache_control`."""


class RefusalPart(RequestModel):
    """A piece of an earlier answer of OpenAI's models, in which they refuse. To this model it is what was said."""

    type: Literal["refusal"]
    refusal: str

    @property
    def text(self) -> str:
        """What was said."""
        return self.refusal


_CONTENT_KIND: Final = Discriminator(
    content_kind,
    custom_error_type="content_type",
    custom_error_message="Input should be a string or a list of text parts",
)
Content = Annotated[
    Annotated[str, Tag("text")] | Annotated[ListOf[Annotated[TextPart, of_types("text")]], Tag("parts")], _CONTENT_KIND
]
AnswerPart = Annotated[TextPart | RefusalPart, Field(discriminator="type"), of_types("text", "refusal")]
AnswerContent = Annotated[Annotated[str, Tag("text")] | Annotated[ListOf[AnswerPart], Tag("parts")], _CONTENT_KIND]
ResultPart = Annotated[
    TextPart | ImageUrlPart | FilePart, Field(discriminator="type"), of_types("text", unseen=("image_url", "file"))
]
ResultContent = Annotated[Annotated[str, Tag("text")] | Annotated[ListOf[ResultPart], Tag("parts")], _CONTENT_KIND]


class SystemMessage(RequestModel):
    """What the operator says about the whole conversation."""

    role: Literal["system"]
    content: Content
    name: str | None = None
    """Harmless: the model is told roles, not names."""


class DeveloperMessage(RequestModel):
    """What the developer says about the whole conversation."""

    role: Literal["developer"]
    content: Content
    name: str | None = None
    """Harmless: the model is told roles, not names."""


class UserMessage(RequestModel):
    """What the user says."""

    role: Literal["user"]
    content: Content
    name: str | None = None
    """Harmless: the model is told roles, not names."""


class AssistantMessage(RequestModel):
    """An earlier answer, as this server or another gave it."""

    role: Literal["assistant"]
    content: AnswerContent | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    """Another name for `reasoning`."""
    tool_calls: ListOf[MadeCall] | None = None
    parsed: Harmless = None
    """Harmless: OpenAI's clients read `content` as JSON and send both back."""
    provider_specific_fields: Harmless = None
    """Harmless: LiteLLM gathers what it has no field for, and sends it back beside what it was read from."""
    reasoning_details: Harmless = None
    """Harmless: OpenRouter's form of `reasoning`, which clients send back beside it."""
    thinking_blocks: Harmless = None
    """Harmless: Anthropic's form of `reasoning`, which LiteLLM sends back beside it."""
    name: str | None = None
    """Harmless: the model is told roles, not names."""
    refusal: str | None = None
    """Read as content, behind what there is of it."""
    annotations: Harmless = None
    """Harmless: citations of another server's tools."""
    audio: Annotated[object, NotHonoured()] = None
    function_call: Annotated[object, NotHonoured(instead="say it with 'tool_calls'")] = None


class ToolMessage(RequestModel):
    """What a called tool returned."""

    role: Literal["tool"]
    content: ResultContent
    tool_call_id: Annotated[str, Field(min_length=1)]
    name: str | None = None
    """Harmless: the call with this id says which tool it was."""


Message = Annotated[
    SystemMessage | DeveloperMessage | UserMessage | AssistantMessage | ToolMessage, Field(discriminator="role")
]

# --- formats --------------------------------------------------------------------------------------------------------


class TextFormat(RequestModel):
    """The answer is free."""

    type: Literal["text"]


class JsonObjectFormat(RequestModel):
    """The answer is a JSON object."""

    type: Literal["json_object"]
    schema_: Annotated[dict[str, JsonValue] | None, Field(alias="schema")] = None
    """llama.cpp's: of this JSON schema."""


class JsonSchema(RequestModel):
    """A JSON schema and what the model is told of it."""

    name: Annotated[str, Field(pattern="^[a-zA-Z0-9_-]{1,64}$")]
    description: str | None = None
    schema_: Annotated[dict[str, JsonValue] | None, Field(alias="schema")] = None
    strict: bool | None = None


class JsonSchemaFormat(RequestModel):
    """The answer is JSON of a schema."""

    type: Literal["json_schema"]
    json_schema: JsonSchema


ResponseFormatField = Annotated[TextFormat | JsonObjectFormat | JsonSchemaFormat, Field(discriminator="type")]

# --- the request ----------------------------------------------------------------------------------------------------


Effort = Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"]
"""The models were trained on low, medium and high: less than the one is low, more than the other high. None is held."""
Verbosity = Literal["low", "medium", "high"]


class TemplateFields(RequestModel):
    """What vLLM's clients tell a chat template."""

    reasoning_effort: Effort | None = None
    enable_thinking: bool | None = None
    """Of other models' templates: false is the effort none."""


class ReasoningOptions(RequestModel):
    """OpenRouter's words, and Ollama's, for how the model reasons and whether that is told."""

    effort: Effort | None = None
    exclude: bool | None = None
    """Do not tell the reasoning."""
    enabled: bool | None = None
    """As `enable_thinking`."""
    max_tokens: Annotated[object, NotHonoured(instead="say it with 'effort'")] = None


class PromptFields(StructuredFields):
    """All that decides a chat's prompt."""

    messages: Annotated[ListOf[Message], Field(min_length=1)]
    tools: ListOf[OfferedTool] | None = None
    tool_choice: ToolChoiceField | None = None
    parallel_tool_calls: bool | None = None
    response_format: ResponseFormatField | None = None
    reasoning_effort: Effort | None = None
    reasoning: ReasoningOptions | None = None
    verbosity: Verbosity | None = None
    """The models have no switch for it: low and high are a line of the developer message, medium is none."""
    chat_template_kwargs: TemplateFields | None = None
    add_special_tokens: bool | None = None
    """Harmless: this tokenizer adds none."""
    continue_final_message: bool | None = None
    """vLLM's: the last message is the assistant's, and the answer goes on with its text."""
    add_generation_prompt: bool | None = None
    """vLLM's: false beside `continue_final_message`, where it may also be left out; else a new message begins."""

    # vLLM's, as they are without being said
    documents: Annotated[object, NotHonoured([], instead="say them in 'messages'")] = None


class ChatCompletionRequest(PromptFields, RawOutputFields, GenerationFields, ModelField):
    """A chat to continue by one assistant turn, or by several to choose from."""

    max_completion_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    """The newer name of `max_tokens`."""
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    include_reasoning: bool | None = None
    """As `exclude` of `reasoning`, by the opposite."""

    # harmless: labels and hints that change no answer
    metadata: Labels | None = None
    store: bool | None = None
    service_tier: Literal["auto", "default", "flex", "scale", "priority", "fast"] | None = None
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    prompt_cache_options: Harmless = None

    functions: Annotated[object, NotHonoured([], instead="say it with 'tools'")] = None
    function_call: Annotated[object, NotHonoured("none", instead="say it with 'tool_choice'")] = None
    modalities: Annotated[object, NotHonoured(["text"])] = None
    audio: Annotated[object, NotHonoured()] = None
    prediction: Annotated[object, NotHonoured()] = None
    web_search_options: Annotated[object, NotHonoured()] = None
    moderation: Annotated[object, NotHonoured()] = None

    # vLLM's, as they are without being said
    echo: Annotated[object, NotHonoured(False)] = None
    skip_special_tokens: Annotated[object, NotHonoured(True)] = None

    # SGLang's and llama.cpp's, as they are without being said
    separate_reasoning: Annotated[object, NotHonoured(True)] = None
    stream_reasoning: Annotated[object, NotHonoured(True)] = None
    cache_prompt: bool | None = None
    """Harmless: whether a prompt's beginning is kept changes no answer, and it is."""

    @property
    def tells_reasoning(self) -> bool:
        """Whether the answer holds the reasoning."""
        is_excluded = self.reasoning is not None and bool(self.reasoning.exclude)
        return self.include_reasoning is not False and not is_excluded
