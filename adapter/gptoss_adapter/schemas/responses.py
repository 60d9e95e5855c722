"""The request of POST /v1/responses.

Stage: 2 validate.
Owns: its fields, their types and bounds. Every field is honoured, harmless (read by nobody) or NotHonoured.
Does not know: items (response_items.py), the contract with Triton (responses/plan.py maps to it).
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Annotated, Final, Literal, TypeAlias, get_args

from pydantic import Discriminator, Field, JsonValue, Tag

from gptoss_adapter.schemas.chat import Effort, Verbosity
from gptoss_adapter.schemas.custom_tools import NamedCustomTool, ResponseCustomTool
from gptoss_adapter.schemas.fields import Harmless, Labels, ListOf, NotHonoured, RequestModel, choice_kind
from gptoss_adapter.schemas.hosted_tools import (
    CodeInterpreterTool,
    HostedTool,
    NamedHosted,
    UnusedToolType,
    WebSearchType,
)
from gptoss_adapter.schemas.mcp_tools import McpTool, NamedMcp
from gptoss_adapter.schemas.response_items import Async, FunctionName, InputItem
from gptoss_adapter.schemas.sampling import GenerationFields, ModelField, StreamOptions

# --- tools ----------------------------------------------------------------------------------------------------------


class ResponseTool(RequestModel):
    """A function the model may call; `parameters` is a JSON schema."""

    type: Literal["function"]
    name: FunctionName
    description: str | None = None
    parameters: dict[str, JsonValue] | None = None
    strict: bool | None = None
    """Refuse `parameters` that arguments cannot be held to whole; else they are held to what of them can be."""
    cache_control: Harmless = None
    """Harmless: Anthropic's hint on what to keep."""
    allowed_callers: Annotated[object, NotHonoured(["direct"])] = None
    defer_loading: Annotated[object, NotHonoured(False)] = None
    async_: Async = None
    output_schema: dict[str, JsonValue] | None = None
    """Harmless: the model is told what a function takes."""


def _grouped_kind(value: object) -> str | None:
    kind = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
    return f"a {kind}" if kind in ("function", "custom") else None


GroupedTool = Annotated[
    Annotated[ResponseTool, Tag("a function")] | Annotated[ResponseCustomTool, Tag("a custom")],
    Discriminator(
        _grouped_kind,
        custom_error_type="tool_kind",
        custom_error_message="Input should be a tool of type function or custom",
    ),
]


class FunctionNamespace(RequestModel):
    """Tools that belong together, as Codex groups them. The model is told of `namespace__tool`."""

    type: Literal["namespace"]
    name: FunctionName
    description: str | None = None
    tools: ListOf[GroupedTool]


RequestedTool: TypeAlias = (
    ResponseTool | ResponseCustomTool | FunctionNamespace | McpTool | HostedTool | CodeInterpreterTool
)

_SEARCHES: Final = get_args(WebSearchType)
_HOSTED: Final = (*_SEARCHES, *get_args(UnusedToolType))


def _tool_kind(value: object) -> str | None:
    kind = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
    if kind in ("function", "custom", "namespace", "mcp", "code_interpreter"):
        return f"a {kind}"  # tags are part of a fault's place, where `function` may be a field sent by mistake
    return "hosted" if kind in _HOSTED else None


InputTool = Annotated[
    Annotated[ResponseTool, Tag("a function")]
    | Annotated[ResponseCustomTool, Tag("a custom")]
    | Annotated[FunctionNamespace, Tag("a namespace")]
    | Annotated[McpTool, Tag("a mcp")]
    | Annotated[CodeInterpreterTool, Tag("a code_interpreter")]
    | Annotated[HostedTool, Tag("hosted")],
    Discriminator(
        _tool_kind,
        custom_error_type="tool_kind",
        custom_error_message=(
            "Input should be a tool of type function, custom, namespace, mcp or code_interpreter, or one that may be "
            "left out: " + ", ".join(_HOSTED)
        ),
    ),
]


class NamedFunction(RequestModel):
    """Names one function, as the model is told of it."""

    type: Literal["function"]
    name: FunctionName


NamedTool = Annotated[NamedFunction | NamedCustomTool | NamedMcp | NamedHosted, Field(discriminator="type")]


class AllowedFunctions(RequestModel):
    """Names the tools that may be called, of those in `tools`."""

    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: Annotated[ListOf[NamedTool], Field(min_length=1, max_length=1024)]

    @property
    def named(self) -> Collection[NamedTool]:
        """The tools, each once."""
        return dict.fromkeys(self.tools)


def _choice_kind(value: object) -> str | None:
    """Return the tag of a tool choice, as `choice_kind` does: there may be other tools than functions, too."""
    kind = value.get("type") if isinstance(value, dict) else getattr(value, "type", None)
    if kind in (*_SEARCHES, "code_interpreter"):
        return "hosted"
    return "mcp" if kind == "mcp" else choice_kind(value)


ResponseToolChoice = Annotated[
    Annotated[Literal["none", "auto", "required"], Tag("mode")]
    | Annotated[NamedFunction, Tag("function")]
    | Annotated[NamedCustomTool, Tag("custom")]
    | Annotated[NamedMcp, Tag("mcp")]
    | Annotated[NamedHosted, Tag("hosted")]
    | Annotated[AllowedFunctions, Tag("allowed_tools")],
    Discriminator(
        _choice_kind,
        custom_error_type="choice_kind",
        custom_error_message=(
            "Input should be none, auto, required, or an object of type function, custom, mcp, allowed_tools, "
            f"code_interpreter or {', '.join(_SEARCHES)}"
        ),
    ),
]

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


class ResponseFields(GenerationFields):
    """A conversation, or the next part of one.

    The fields of a chat that OpenAI's API does not have here (stop, top_k, seed …) are taken too.
    """

    input: (
        Annotated[
            Annotated[str, Tag("text")] | Annotated[ListOf[InputItem], Tag("items")],
            Discriminator(
                _input_kind,
                custom_error_type="input_type",
                custom_error_message="Input should be a string or a list of items",
            ),
        ]
        | None
    ) = None
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
