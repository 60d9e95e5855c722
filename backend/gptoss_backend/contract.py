"""The contract on the wire: tensor names, dtypes, and the dataclasses with their codecs.

Stage: every hop between the adapter (or any Triton client) and the stubs.
Owns: every tensor name and JSON key. Nothing else in the project spells one.
Does not know: HTTP, Triton's client or stub libraries, torch.

Each tensor is one-dimensional: INT32 token ids, or UINT8 holding one UTF-8 JSON document (TEXT: plain UTF-8).
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Any, Final, Generic, Literal, NamedTuple, TypeAlias, TypeVar

from pydantic import ConfigDict, Discriminator, Field, Tag, TypeAdapter, ValidationError

PREPROCESS: Final = "preprocess"
"""The model that makes prompts, in Triton's repository."""
CHECKPOINT_PARAMETER: Final = "checkpoint"
"""Of a generation model's config in Triton: the checkpoint to load in place of that of the settings."""

# --- tensors --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class TensorSpec:
    """A named one-dimensional tensor of the contract."""

    name: str
    datatype: Literal["UINT8", "INT32"]


CHAT: Final = TensorSpec("CHAT", "UINT8")
PROMPT_IDS: Final = TensorSpec("PROMPT_IDS", "INT32")
SAMPLING: Final = TensorSpec("SAMPLING", "UINT8")
TOKEN_IDS: Final = TensorSpec("TOKEN_IDS", "INT32")
TEXT: Final = TensorSpec("TEXT", "UINT8")
EVENT: Final = TensorSpec("EVENT", "UINT8")

PREPROCESS_INPUTS: Final = (CHAT,)
PREPROCESS_OUTPUTS: Final = (PROMPT_IDS, SAMPLING)
GENERATE_INPUTS: Final = (PROMPT_IDS, SAMPLING)
GENERATE_OUTPUTS: Final = (TOKEN_IDS, TEXT, EVENT)

# --- documents: client → preprocess → generation --------------------------------------------------------------------

_STRICT: Final = ConfigDict(extra="forbid", allow_inf_nan=False)


class Role(StrEnum):
    """Who wrote a message."""

    SYSTEM = "system"
    DEVELOPER = "developer"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"


class ReasoningEffort(StrEnum):
    """How long the model is told to reason."""

    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"


class CallSyntax(StrEnum):
    """How the model writes what a call gives to its tool."""

    JSON = "json"
    """As the arguments of a function."""
    QUOTED = "quoted"
    """As the one string among the arguments of a function, which is the input of a custom tool."""
    PLAIN = "plain"
    """As a text by itself, which is the input of a custom tool."""


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call the assistant made earlier in the conversation."""

    __pydantic_config__ = _STRICT
    id: str
    name: str
    """Of a function; of a built-in tool whom the call is addressed to: `browser.search`, `python`."""
    arguments: str
    """JSON text, or the code for `python`, exactly as the model wrote it; of a custom tool the input."""
    syntax: CallSyntax = CallSyntax.JSON
    is_builtin: bool = False


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One message. `tool_call_id` belongs to role tool; `reasoning` and `tool_calls` to role assistant."""

    __pydantic_config__ = _STRICT
    role: Role
    content: str | None = None
    reasoning: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None


@dataclass(frozen=True, slots=True)
class FunctionTool:
    """A function the model may call. `parameters` is a JSON schema."""

    __pydantic_config__ = _STRICT
    name: Annotated[str, Field(min_length=1)]
    description: str = ""
    parameters: dict[str, Any] | None = None
    strict: bool = False
    """Refuse parameters of which a grammar cannot hold every keyword, rather than leave those out of it."""
    type: Literal["function"] = "function"

    @property
    def syntax(self) -> CallSyntax:
        """How a call is written."""
        return CallSyntax.JSON


class TextFormKind(StrEnum):
    """How a text that need not be JSON is described."""

    REGEX = "regex"
    """By a regular expression, of the whole text, without look-around and word boundaries."""
    CHOICE = "choice"
    """As one of several strings."""
    GRAMMAR = "grammar"
    """By a grammar with a rule `start`, in Lark as llguidance takes it."""


@dataclass(frozen=True, slots=True)
class TextForm:
    """What a text must be, where that is not JSON: the final one, or what a custom tool takes."""

    __pydantic_config__ = _STRICT
    kind: TextFormKind
    texts: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1)]
    """The choices; else one."""
    where: str = "structured_outputs"
    """The request's field, as a sentence about it begins."""


@dataclass(frozen=True, slots=True)
class CustomTool:
    """A tool that takes a text. How the model is told of it: harmony/custom_tools.py."""

    __pydantic_config__ = _STRICT
    name: Annotated[str, Field(min_length=1)]
    description: str = ""
    form: TextForm | None = None
    """What the text must be; None: any."""
    type: Literal["custom"] = "custom"

    @property
    def syntax(self) -> CallSyntax:
        """How a call is written."""
        return CallSyntax.QUOTED if self.form is None else CallSyntax.PLAIN


_TAGS: Final = {"function": "a function", "custom": "a custom tool"}
"""Of the types of tools. They stand in pydantic's path of a fault, which no key of a document is to be mistaken for."""


def _tool_tag(value: object) -> str | None:
    kind = value.get("type", "function") if isinstance(value, dict) else getattr(value, "type", None)
    return _TAGS.get(kind) if isinstance(kind, str) else None


Tool: TypeAlias = Annotated[
    Annotated[FunctionTool, Tag(_TAGS["function"])] | Annotated[CustomTool, Tag(_TAGS["custom"])],
    Discriminator(
        _tool_tag,
        custom_error_type="tool_type",
        custom_error_message="Input should be a tool of type function, which needs not be said, or custom",
    ),
]
"""What the model may call. A document that names no type is a function."""


class BuiltinName(StrEnum):
    """A tool that the model was trained on, by Harmony's name."""

    BROWSER = "browser"
    PYTHON = "python"


@dataclass(frozen=True, slots=True)
class BuiltinTool:
    """A built-in tool the model may call. What it returns stands in a message of role tool, as of a function."""

    __pydantic_config__ = _STRICT
    name: BuiltinName
    description: str | None = None
    """What the model is told of it as a whole; None: Harmony's own words."""


class ToolChoiceMode(StrEnum):
    """Whether the answer may or must call tools."""

    NONE = "none"
    """The model is not told of the tools and cannot call any."""
    AUTO = "auto"
    REQUIRED = "required"


@dataclass(frozen=True, slots=True)
class ToolChoice:
    """Whether to call, and with mode required, possibly which."""

    __pydantic_config__ = _STRICT
    mode: ToolChoiceMode = ToolChoiceMode.AUTO
    name: str | None = None
    """The one tool that must be called; with mode required only."""


@dataclass(frozen=True, slots=True)
class ResponseFormat:
    """What the final text must be: JSON, of a schema where there is one."""

    __pydantic_config__ = _STRICT
    schema: dict[str, Any] | None = None
    """A JSON schema; None: any JSON object."""
    name: str = "response"
    description: str | None = None
    strict: bool = False
    """As of a FunctionTool."""
    where: str = "response_format.json_schema.schema"
    """The request's field, as a sentence about it begins."""


MAX_SCHEMA_BYTES: Final = 128 * 1024
"""The longest JSON schema, or text form, that an answer can be held to."""


@dataclass(frozen=True, slots=True)
class OutputStructure:
    """What a grammar holds the answer to. Made of a ChatRequest by `harmony.structure.output_structure`.

    Reasoning is always free. A part at fault is named as in an OpenAI chat request: `tools[0].function.parameters`.
    """

    __pydantic_config__ = _STRICT
    final: ResponseFormat | None = None
    """Of the text in the final channel."""
    tools: tuple[Tool, ...] = ()
    """Those that may be called, what they are given held to their parameters or form; none: no call may come."""
    tool_choice: ToolChoice = field(default_factory=ToolChoice)
    parallel_tool_calls: bool = True
    builtins: tuple[BuiltinName, ...] = ()
    """Built-in tools that may be called, where `tool_choice` names no function."""
    form: TextForm | None = None
    """Of the text in the final channel, where `final` is None."""
    is_whole: bool = False
    """The answer is that text from its first token on, without Harmony's messages; no tools then."""


TokenId: TypeAlias = Annotated[int, Field(ge=0, lt=2**31)]
LogitBias: TypeAlias = Annotated[float, Field(ge=-100.0, le=100.0)]
_MAX_TOKENS_NAMED: Final = 1024
"""How many tokens one request may name to bias, and how many to stop at."""


@dataclass(frozen=True, slots=True)
class SamplingParams:
    """How tokens are chosen and when generation ends. The defaults are OpenAI's, the bounds OpenAI's and vLLM's.

    The order is vLLM's: logit_bias, repetition_penalty, frequency_penalty and presence_penalty, allowed tokens, barred
    stop tokens and grammar, temperature, min_p, top_k, top_p of what these left. Equal logits stand or fall together.
    """

    __pydantic_config__ = _STRICT
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    """None: until a stop token or the end of the context."""
    temperature: Annotated[float, Field(ge=0.0, le=2.0)] = 1.0
    """0 is greedy, as is all below 1e-5 and a top_k of 1."""
    top_p: Annotated[float, Field(gt=0.0, le=1.0)] = 1.0
    top_k: Annotated[int, Field(ge=0, lt=2**31)] = 0
    """0: no limit."""
    min_p: Annotated[float, Field(ge=0.0, le=1.0)] = 0.0
    seed: Annotated[int, Field(ge=-(2**63), lt=2**63)] | None = None
    """The same seed, prompt and parameters give the same tokens, whatever else the engine computes."""
    ignore_eos: bool = False
    """Do not end at the vocabulary's own stop tokens. Those of `stop_token_ids` count nevertheless."""
    presence_penalty: Annotated[float, Field(ge=-2.0, le=2.0)] = 0.0
    """Taken from the logit of every token that was generated before."""
    frequency_penalty: Annotated[float, Field(ge=-2.0, le=2.0)] = 0.0
    """Taken from a token's logit for each time that it was generated before."""
    repetition_penalty: Annotated[float, Field(gt=0.0)] = 1.0
    """Divides positive and multiplies negative logits of the tokens of prompt and answer. 1: none."""
    logit_bias: Annotated[dict[TokenId, LogitBias], Field(max_length=_MAX_TOKENS_NAMED)] = field(default_factory=dict)
    """Added to the logits of these tokens."""
    allowed_token_ids: Annotated[tuple[TokenId, ...], Field(min_length=1, max_length=_MAX_TOKENS_NAMED)] | None = None
    """No other token can be chosen, not even one to stop at."""
    min_tokens: Annotated[int, Field(ge=0)] = 0
    """Stop tokens cannot be chosen before so many tokens."""
    stop_token_ids: Annotated[tuple[TokenId, ...], Field(max_length=_MAX_TOKENS_NAMED)] = ()
    """Further tokens to end at; the one that did is the last of TOKEN_IDS."""
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    """How many alternatives to tell with each token's log probability; None: tell nothing."""
    prompt_logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    """The same of the prompt's tokens, all of which are computed then, whatever the KV cache holds."""
    priority: Annotated[int, Field(ge=-1000, le=1000)] = 0
    """The lower, the sooner. One step is worth `engine.priority_step_s` of waiting, so nobody waits for ever."""
    timeout_s: Annotated[float, Field(gt=0.0)] | None = None
    """A request that has not ended by then, waiting or running, ends with DEADLINE_EXCEEDED. The server's own limit,
    `engine.request_timeout_s`, holds besides."""
    structure: OutputStructure | None = None
    """What the answer is held to by a grammar."""
    cache_salt: Annotated[str, Field(min_length=1, max_length=256)] | None = None
    """Beginnings of prompts are shared in the KV cache with requests of the same salt only; None: with all without."""


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """CHAT: all that decides the prompt, and the sampling that preprocess hands on.

    The same document gives the same PROMPT_IDS on every machine, so Triton may answer it from its response cache.
    """

    __pydantic_config__ = _STRICT
    messages: Annotated[tuple[ChatMessage, ...], Field(min_length=1)]
    date: Annotated[str, Field(pattern=r"^\d{4}-\d{2}-\d{2}$")] | None = None
    """Conversation start date, YYYY-MM-DD; without one the prompt names no date. The stub never reads a clock."""
    tools: tuple[Tool, ...] = ()
    builtin_tools: tuple[BuiltinTool, ...] = ()
    tool_choice: ToolChoice = field(default_factory=ToolChoice)
    parallel_tool_calls: bool = True
    response_format: ResponseFormat | None = None
    form: TextForm | None = None
    """What the final text must be, where there is no `response_format`. The model is not told."""
    reasoning_effort: ReasoningEffort = ReasoningEffort.MEDIUM
    sampling: SamplingParams = field(default_factory=SamplingParams)


@dataclass(frozen=True, slots=True)
class Refusal:
    """SAMPLING, where preprocess cannot make a prompt of CHAT; PROMPT_IDS then mean nothing.

    A document and not a Triton error: Triton's response cache keeps an error as an answer without outputs, so that the
    second client to send the same CHAT would not be told what is wrong. The generation step of an ensemble makes a
    Triton error of it.
    """

    __pydantic_config__ = _STRICT
    refused: str
    """A sentence."""
    is_internal: bool = False
    """True where the fault is ours: INTERNAL rather than INVALID_ARG."""


# --- documents: generation → client ---------------------------------------------------------------------------------


STOP_TOKENS: Final = frozenset({199_999, 200_002, 200_012})
"""`<|endoftext|>`, `<|return|>` and `<|call|>`: the `eos_token_id` of the published generation_config.json."""
MOST_TOLD_OF_PROMPT: Final = 2**18
"""Log probabilities of prompts that one request is told: some 8 MB of JSON."""


class FinishReason(StrEnum):
    """Why generation ended. An error ends a request with a Triton error instead, and has no finish reason."""

    STOP = "stop"
    """One of STOP_TOKENS, unless `ignore_eos`, or of `stop_token_ids`, which is the last of TOKEN_IDS; or the end of
    what a grammar holds the answer to, whose last token is any of `<|return|>`, `<|call|>` and `<|end|>`."""
    LENGTH = "length"
    """max_tokens, or the end of the context."""
    CANCELLED = "cancelled"


class Alternative(NamedTuple):
    """A token that might have come. On the wire a pair, to keep twenty of them short."""

    token_id: int
    logprob: float


@dataclass(frozen=True, slots=True)
class TokenLogprob:
    """How likely the model thought a token.

    Natural logarithms over the model's own distribution, before bias, penalties, grammar, temperature and filters: what
    OpenAI reports and vLLM's `raw_logprobs`, its default. A token chosen after them may be less likely than every
    alternative.
    """

    token_id: int
    logprob: float
    top: tuple[Alternative, ...] = ()
    """The likeliest tokens, the likeliest first; as many as were asked for. May hold the token itself."""


@dataclass(frozen=True, slots=True)
class Started:
    """The first EVENT of a request: it left the queue and its prompt is being computed."""

    prompt_tokens: int
    cached_tokens: int
    """Prompt tokens whose keys and values were still in the KV cache."""
    event: Literal["started"] = "started"
    logprobs: tuple[TokenLogprob, ...] = ()
    """Where asked for: one entry for each of this response's TOKEN_IDS. So in every event."""
    prompt_logprobs: tuple[TokenLogprob, ...] = ()
    """Where asked for: of the prompt's tokens but the first, in the event with the first of TOKEN_IDS."""


@dataclass(frozen=True, slots=True)
class Continued:
    """An EVENT between the first and the last: there is one only where logprobs were asked for."""

    logprobs: tuple[TokenLogprob, ...]
    event: Literal["continued"] = "continued"
    prompt_logprobs: tuple[TokenLogprob, ...] = ()


@dataclass(frozen=True, slots=True)
class Timings:
    """Where a request's time went inside the engine, in seconds."""

    queue_s: float
    """Submission to the first step that computed it."""
    first_token_s: float
    """Submission to its first token."""
    total_s: float


@dataclass(frozen=True, slots=True)
class Finished:
    """The last EVENT of a request."""

    finish_reason: FinishReason
    prompt_tokens: int
    completion_tokens: int
    """Tokens generated, the stop token included."""
    cached_tokens: int
    timings: Timings
    event: Literal["finished"] = "finished"
    logprobs: tuple[TokenLogprob, ...] = ()
    prompt_logprobs: tuple[TokenLogprob, ...] = ()


GenerationEvent: TypeAlias = Started | Continued | Finished

# --- errors: on a gRPC stream a Triton error is one text without a status, so what it is travels in the text ---------


class GenerationErrorCode(StrEnum):
    """Errors a client must tell apart. On a stream it has nothing but the text to tell them by."""

    CONTEXT_LENGTH_EXCEEDED = "context_length_exceeded"
    """INVALID_ARG: the prompt leaves no room for an answer."""
    QUEUE_FULL = "queue_full"
    """UNAVAILABLE: as many requests wait as may."""
    DEADLINE_EXCEEDED = "deadline_exceeded"
    """UNAVAILABLE: the request's time ran out, in the queue or while it was computed; tokens may have been sent."""
    INVALID_REQUEST = "invalid_request"
    """INVALID_ARG: anything else that is the request's fault."""
    STRUCTURE_FAILED = "structure_failed"
    """INVALID_ARG: the grammar of the request's structure outgrew its limits, or left no token to choose; tokens may
    have been sent."""
    SHUTTING_DOWN = "shutting_down"
    """UNAVAILABLE: the engine takes no more requests, or has ended under this one."""


# an ensemble puts this before the text of a step's error
_ENSEMBLE_PREFIX: Final = re.compile(r"^(?:in ensemble '[^']*', )+")


def encode_error(code: GenerationErrorCode, sentence: str) -> str:
    """Return the text of a Triton error that `decode_error` reads back."""
    return f"[{code}] {sentence}"


def decode_error(text: str) -> tuple[GenerationErrorCode | None, str]:
    """Return the code, None where there is none of ours, and the sentence, free of what an ensemble put before it."""
    sentence = _ENSEMBLE_PREFIX.sub("", text)
    for code in GenerationErrorCode:
        if sentence.startswith(f"[{code}] "):
            return code, sentence.removeprefix(f"[{code}] ")
    return None, sentence


# --- codecs ---------------------------------------------------------------------------------------------------------


class ContractError(ValueError):
    """A document that does not follow the contract. The message is one sentence that names the part at fault."""


T = TypeVar("T")


class Codec(Generic[T]):
    """One document type ⇄ UTF-8 JSON bytes."""

    def __init__(self, name: str, document_type: Any) -> None:  # noqa: ANN401 (typing has no word for a type form)
        self._name = name
        self._adapter: TypeAdapter[T] = TypeAdapter(document_type)

    def encode(self, document: T) -> bytes:
        """Return the document as compact JSON; equal documents give equal bytes."""
        return self._adapter.dump_json(document, exclude_defaults=False)

    def decode(self, raw: bytes | bytearray | memoryview) -> T:
        """Parse and check. Raises ContractError with a sentence that names the faulty part."""
        try:
            return self._adapter.validate_json(bytes(raw))
        except ValidationError as error:
            raise ContractError(self._sentence(error)) from error

    def _sentence(self, error: ValidationError) -> str:
        first = error.errors(include_url=False, include_context=False)[0]
        path = ".".join(str(part) for part in first["loc"] if part not in _TAGS.values())
        where = f"{self._name}.{path}" if path else self._name
        more = f" ({error.error_count() - 1} more)" if error.error_count() > 1 else ""
        return f"{where}: {first['msg']}{more}"


CHAT_CODEC: Final[Codec[ChatRequest]] = Codec("CHAT", ChatRequest)
SAMPLING_CODEC: Final[Codec[SamplingParams]] = Codec("SAMPLING", SamplingParams)
REFUSAL_CODEC: Final[Codec[Refusal]] = Codec("SAMPLING", Refusal)
EVENT_CODEC: Final[Codec[GenerationEvent]] = Codec("EVENT", Annotated[GenerationEvent, Field(discriminator="event")])


def decode_sampling(raw: bytes) -> SamplingParams | Refusal:
    """Read the SAMPLING that preprocess wrote. Raises ContractError."""
    return REFUSAL_CODEC.decode(raw) if raw.startswith(b'{"refused":') else SAMPLING_CODEC.decode(raw)
