"""One streamed answer, as its reader sees it, whichever way it came.

Stage: the client's end of a request's way.
Owns: the parts of an answer and what they make together.
Does not know: HTTP, gRPC, how the parts were written on the wire.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import TypeAlias

from gptoss_backend.contract import CallSyntax, Timings, ToolCall


@dataclass(frozen=True, slots=True)
class Reasoning:
    """More of the model's reasoning."""

    text: str


@dataclass(frozen=True, slots=True)
class Content:
    """More of the answer itself."""

    text: str


@dataclass(frozen=True, slots=True)
class CallPart:
    """More of a call to a tool."""

    index: int
    """Calls of one answer count from 0."""
    id: str
    """Empty but on the first part of an index, as is `name`."""
    name: str
    arguments: str
    """JSON text, of a custom tool its input: whole only once the answer has ended."""
    syntax: CallSyntax = CallSyntax.JSON
    is_builtin: bool = False
    """On the first part of an index: whether the tool is one of `ChatRequest.builtin_tools`."""


@dataclass(frozen=True, slots=True)
class Usage:
    """What the answer cost, in tokens."""

    prompt_tokens: int
    completion_tokens: int
    """Reasoning included."""
    cached_tokens: int = 0
    """Of the prompt's tokens, those that were in the KV cache."""


@dataclass(frozen=True, slots=True)
class Ended:
    """The last part."""

    finish_reason: str
    """stop, length, tool_calls or cancelled."""
    usage: Usage | None = None
    timings: Timings | None = None
    """Where the time went inside the engine; told on the way straight to Triton only."""


AnswerPart: TypeAlias = Reasoning | Content | CallPart | Ended


@dataclass(slots=True)
class Answer:
    """What has come of an answer."""

    reasoning: str = ""
    content: str = ""
    tool_calls: list[ToolCall] = field(default_factory=list)
    ended: Ended | None = None
    """None until the last part came."""

    @classmethod
    def of(cls, parts: Iterable[AnswerPart]) -> Answer:
        """Put the parts of one answer together."""
        answer = cls()
        for part in parts:
            answer.add(part)
        return answer

    def add(self, part: AnswerPart) -> None:
        """Take the next part."""
        match part:
            case Reasoning(text):
                self.reasoning += text
            case Content(text):
                self.content += text
            case CallPart():
                self._add_call(part)
            case Ended():
                self.ended = part

    def _add_call(self, part: CallPart) -> None:
        if part.index == len(self.tool_calls):
            self.tool_calls.append(ToolCall(part.id, part.name, part.arguments, part.syntax, part.is_builtin))
        else:
            call = self.tool_calls[part.index]
            self.tool_calls[part.index] = replace(call, arguments=call.arguments + part.arguments)
