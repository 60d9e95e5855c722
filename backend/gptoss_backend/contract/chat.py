"""CHAT: what a prompt is made of.

Stage: 2 validate → 3 prompt.
Owns: the request and its messages, with the calls made in them.
Does not know: Harmony's format, the APIs that a chat comes from.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import Annotated, Literal, TypeAlias

from pydantic import Field

from gptoss_backend.contract.documents import STRICT
from gptoss_backend.contract.forms import ResponseFormat, TextForm
from gptoss_backend.contract.sampling import SamplingParams
from gptoss_backend.contract.tools import BuiltinTool, CallSyntax, Tool, ToolChoice


class Role(StrEnum):
    """Who wrote a message."""

    SYSTEM = "system"
    DEVELOPER = "developer"
    USER = "user"
    ASSISTANT = "assistant"
    TOOL = "tool"

    @property
    def instructs(self) -> bool:
        """Whether what it says are instructions."""
        return self in (Role.SYSTEM, Role.DEVELOPER)


Phase: TypeAlias = Literal["commentary", "final_answer"]
"""What a text of the assistant's is: said on the way to the answer, or the answer. In the words of OpenAI's API."""


class ReasoningEffort(StrEnum):
    """How long the model is told to reason, and whether it does at all."""

    NONE = "none"
    """It answers at once. It was trained on no such word, so it is told the least it knows, and held to it."""
    LOW = "low"
    MEDIUM = "medium"
    HIGH = "high"


@dataclass(frozen=True, slots=True)
class ToolCall:
    """A call the assistant made earlier in the conversation."""

    __pydantic_config__ = STRICT
    id: str
    name: str
    """Of a function; of a built-in tool whom the call is addressed to: `browser.search`, `python`."""
    arguments: str
    """JSON text, or the code for `python`, exactly as the model wrote it; of a custom tool the input."""
    syntax: CallSyntax = CallSyntax.JSON
    is_builtin: bool = False


@dataclass(frozen=True, slots=True)
class ChatMessage:
    """One message. `tool_call_id` belongs to role tool; `reasoning`, `tool_calls` and `phase` to role assistant."""

    __pydantic_config__ = STRICT
    role: Role
    content: str | None = None
    reasoning: str | None = None
    tool_calls: tuple[ToolCall, ...] = ()
    tool_call_id: str | None = None
    phase: Phase | None = None
    """Of the content; None: commentary where calls follow in the same message, else the answer."""


@dataclass(frozen=True, slots=True)
class ChatRequest:
    """CHAT: all that decides the prompt, and the sampling that preprocess hands on.

    The same document gives the same PROMPT_IDS on every machine, so Triton may answer it from its response cache.
    """

    __pydantic_config__ = STRICT
    messages: Annotated[tuple[ChatMessage, ...], Field(min_length=1)]
    """Instructions that lead them hold for the whole conversation, later ones from their place on."""
    continues_last: bool = False
    """The last message is the assistant's and has not ended: the answer is what comes behind its text."""
    notes: tuple[str, ...] = ()
    """What the model is told behind the leading instructions, and nobody has said in a message."""
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
