"""The requests of POST /v1/responses, …/input_tokens and …/compact.

Stage: 2 validate.
Owns: their fields, their types and bounds. Every field is honoured, harmless (read by nobody) or NotHonoured.
Does not know: items (response_items.py), tools (response_tools.py); the contract with Triton, to which
responses/plan.py maps it.
"""

from __future__ import annotations

from typing import Annotated, Final, Literal

from pydantic import Discriminator, Field, JsonValue, Tag

from gptoss_adapter.schemas.chat import Effort, Verbosity
from gptoss_adapter.schemas.fields import Harmless, Labels, ListOf, NotHonoured, RequestModel
from gptoss_adapter.schemas.response_items import InputItem
from gptoss_adapter.schemas.response_tools import InputTool, ResponseToolChoice
from gptoss_adapter.schemas.sampling import GenerationFields, ModelField, StreamOptions
from gptoss_adapter.schemas.structured import StructuredFields

# --- text and reasoning ---------------------------------------------------------------------------------------------


class PlainText(RequestModel):
    """Any text."""

    type: Literal["text"]


class JsonText(RequestModel):
    """Any JSON object."""

    type: Literal["json_object"]


class SchemaText(RequestModel):
    """JSON of a schema."""

    type: Literal["json_schema"]
    name: Annotated[str, Field(pattern=r"^[a-zA-Z0-9_-]{1,64}$")]
    schema_: Annotated[dict[str, JsonValue], Field(alias="schema")]
    description: str | None = None
    strict: bool | None = None


class TextConfig(RequestModel):
    """What the final text must be."""

    format: Annotated[PlainText | JsonText | SchemaText, Field(discriminator="type")] | None = None
    verbosity: Verbosity | None = None


SummaryDetail = Literal["auto", "concise", "detailed"]


class ReasoningConfig(RequestModel):
    """How the model reasons."""

    effort: Effort | None = None
    summary: SummaryDetail | None = None
    """Tell the reasoning once more as its own summary, for clients that read only that. All ask for the same."""
    generate_summary: SummaryDetail | None = None
    """The older name of `summary`."""
    context: Annotated[object, NotHonoured("auto")] = None
    mode: Annotated[object, NotHonoured("standard")] = None


# --- the request ----------------------------------------------------------------------------------------------------


LOGPROBS: Final = "message.output_text.logprobs"
CARRIED_REASONING: Final = "reasoning.encrypted_content"
SEARCH_RESULTS: Final = "web_search_call.results"
SEARCH_SOURCES: Final = "web_search_call.action.sources"
CODE_OUTPUTS: Final = "code_interpreter_call.outputs"
Includable = Literal[
    "message.output_text.logprobs",
    "reasoning.encrypted_content",
    "web_search_call.results",
    "web_search_call.action.sources",
    "code_interpreter_call.outputs",
    # harmless: nothing of these occurs here
    "file_search_call.results",
    "message.input_image.image_url",
    "computer_call_output.output.image_url",
]


def _input_kind(value: object) -> str | None:
    if isinstance(value, str):
        return "text"
    return "items" if isinstance(value, list) else None


class ConversationParam(RequestModel):
    """A conversation by its id, as a response tells it."""

    id: str


def _conversation_kind(value: object) -> str | None:
    if isinstance(value, str):
        return "id"
    return "object" if isinstance(value, dict | ConversationParam) else None


class EventOptions(StreamOptions):
    """How events are streamed. The last of them tells the usage."""

    continuous_usage_stats: Annotated[bool | None, NotHonoured(False)] = None


InputField = Annotated[
    Annotated[str, Tag("text")] | Annotated[ListOf[InputItem], Tag("items")],
    Discriminator(
        _input_kind,
        custom_error_type="input_type",
        custom_error_message="Input should be a string or a list of items",
    ),
]


class ResponseFields(StructuredFields, GenerationFields):
    """A conversation, or the next part of one.

    Fields of a chat that OpenAI's API does not have here (stop, top_k, seed, structured_outputs …) are taken too.
    """

    input: InputField | None = None
    instructions: str | None = None
    previous_response_id: str | None = None
    conversation: (
        Annotated[
            Annotated[str, Tag("id")] | Annotated[ConversationParam, Tag("object")],
            Discriminator(
                _conversation_kind,
                custom_error_type="conversation_type",
                custom_error_message="Input should be a conversation's id, or an object that holds it as 'id'",
            ),
        ]
        | None
    ) = None
    """Goes on from its items; what is asked and answered is added to them."""

    tools: ListOf[InputTool] | None = None
    tool_choice: ResponseToolChoice | None = None
    parallel_tool_calls: bool | None = None
    max_tool_calls: Annotated[int, Field(ge=1)] | None = None
    """Counts calls of tools that MCP servers run, be they of type mcp or OpenAI's own."""
    truncation: Literal["auto", "disabled"] | None = None
    """Whether the oldest of a conversation that is too long is left out, else it is refused."""
    text: TextConfig | None = None
    reasoning: ReasoningConfig | None = None

    max_output_tokens: Annotated[int, Field(ge=1, lt=2**31)] | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    max_tokens: Annotated[int | None, NotHonoured(instead="say it with 'max_output_tokens'")] = None
    n: Annotated[int | None, NotHonoured(1)] = None
    stream_options: EventOptions | None = None

    store: bool | None = None
    background: bool | None = None
    """Make the answer whether or not the client stays; it is fetched from the store."""
    include: ListOf[Includable] | None = None
    metadata: Labels | None = None

    # harmless: labels and hints that change no answer; told again in the response, `service_tier` as the one there is
    safety_identifier: str | None = None
    prompt_cache_key: str | None = None
    service_tier: Literal["auto", "default", "flex", "scale", "priority", "fast", "ultrafast"] | None = None
    prompt_cache_retention: str | None = None
    prompt_cache_options: Harmless = None
    client_metadata: Harmless = None
    """Harmless: Codex's notes on itself."""

    prompt: Annotated[object, NotHonoured(instead="say it with 'instructions' and 'input'")] = None
    context_management: Annotated[object, NotHonoured([])] = None
    background_options: Annotated[object, NotHonoured()] = None
    moderation: Annotated[object, NotHonoured()] = None
    access_programs: Annotated[object, NotHonoured()] = None
    image: Annotated[object, NotHonoured()] = None
    include_stop_str_in_output: Annotated[object, NotHonoured(False)] = None

    @property
    def conversation_id(self) -> str | None:
        """The conversation's, however it is said."""
        return self.conversation.id if isinstance(self.conversation, ConversationParam) else self.conversation


class ResponseRequest(ResponseFields, ModelField):
    """One to be answered."""


class InputTokensRequest(ResponseFields):
    """One whose prompt is to be counted."""

    model: str | None = None
    personality: Annotated[object, NotHonoured(instead="say it in 'instructions'")] = None


class CompactionRequest(ModelField):
    """A conversation to be made shorter."""

    input: InputField | None = None
    instructions: str | None = None
    previous_response_id: str | None = None
    reasoning: ReasoningConfig | None = None
    """Codex's, as are `tools` and what follows it; ours the profile."""
    profile: str | None = None

    # harmless: nothing is called or held to a form here, and hints
    tools: Harmless = None
    parallel_tool_calls: Harmless = None
    text: Harmless = None
    prompt_cache_key: str | None = None
    prompt_cache_retention: str | None = None
    prompt_cache_options: Harmless = None
    service_tier: Literal["auto", "default", "flex", "scale", "priority", "fast", "ultrafast"] | None = None

    image: Annotated[object, NotHonoured()] = None
