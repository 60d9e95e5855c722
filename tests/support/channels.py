"""Turns as a model writes them, and what becomes of them on the way to a client."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

from gptoss_backend.contract import FunctionTool
from gptoss_backend.harmony.channels import ChannelSplitter
from gptoss_backend.harmony.deltas import ContentDelta, Delta, ReasoningDelta, ToolCallDelta, joined
from gptoss_backend.harmony.vocabulary import encoding


def tokens(text: str) -> list[int]:
    """Tokenise a turn as a model writes it: markers become special tokens."""
    ids: list[int] = encoding().encode(text, allowed_special="all")
    return ids


@dataclass
class Answer:
    """Deltas put together, as a client does."""

    reasoning: str = ""
    content: str = ""
    calls: list[tuple[str, str]] = field(default_factory=list)

    def add(self, deltas: list[Delta]) -> None:
        """Check each delta and take it in."""
        for delta in deltas:
            match delta:
                case ReasoningDelta(text):
                    assert text
                    self.reasoning += text
                case ContentDelta(text):
                    assert text
                    self.content += text
                case ToolCallDelta(index, str(name), arguments):
                    assert index == len(self.calls)
                    self.calls.append((name, arguments))
                case ToolCallDelta(index, None, arguments):
                    assert arguments
                    assert index == len(self.calls) - 1
                    self.calls[-1] = (self.calls[-1][0], self.calls[-1][1] + arguments)
        for first, second in pairwise(deltas):
            assert joined(first, second) is None, "adjacent deltas are joined"


@dataclass
class Split:
    """A whole answer and its counts."""

    answer: Answer
    reasoning_tokens: int


def split(
    ids: list[int],
    *,
    size: int | None = None,
    tools: tuple[str, ...] = (),
    builtins: tuple[str, ...] = (),
    allows_calls: bool = True,
) -> Split:
    """Split ids, `size` at a time; None: all at once."""
    splitter, answer = ChannelSplitter(map(FunctionTool, tools), builtins, allows_calls=allows_calls), Answer()
    for at in range(0, len(ids), size or max(1, len(ids))):
        answer.add(splitter.push(ids[at : at + size] if size else ids))
    answer.add(splitter.finish())
    assert splitter.num_tool_calls == len(answer.calls)
    assert 0 <= splitter.reasoning_tokens <= len(ids)
    return Split(answer, splitter.reasoning_tokens)


def parse(text: str, tools: tuple[str, ...] = (), builtins: tuple[str, ...] = ()) -> Answer:
    """Split a turn whole and token by token."""
    whole = split(tokens(text), tools=tools, builtins=builtins)
    assert split(tokens(text), size=1, tools=tools, builtins=builtins) == whole
    return whole.answer
