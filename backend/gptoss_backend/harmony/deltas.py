"""Pieces of an answer, by what they are to the client.

Stage: 6 split channels.
Owns: their kinds; which two are one.
Does not know: how the model marks them (channels.py).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from gptoss_backend.contract import CallSyntax, Phase


@dataclass(frozen=True, slots=True)
class ReasoningDelta:
    """More of the model's reasoning."""

    text: str
    num_inserted: int = field(default=0, kw_only=True, compare=False)
    """Its first characters that the model has not written: what keeps two messages apart."""


@dataclass(frozen=True, slots=True)
class ContentDelta:
    """More of what the user is told."""

    text: str
    num_inserted: int = field(default=0, kw_only=True, compare=False)
    """As of reasoning."""
    phase: Phase = field(default="final_answer", kw_only=True)
    """Of the message that the text is of."""


@dataclass(frozen=True, slots=True)
class ToolCallDelta:
    """More of a call to a tool, be it the request's or built in."""

    index: int
    """Calls of one answer count from 0."""
    name: str | None
    """On the first delta of an index only; of a built-in tool the recipient."""
    arguments: str
    """JSON text as the model writes it, of a custom tool its input, for `python` the code: whole only once the call has
    ended."""
    is_builtin: bool = False
    """On the first delta of an index: whether the name is a built-in tool's."""
    syntax: CallSyntax = field(default=CallSyntax.JSON, kw_only=True)
    """The same on all deltas of an index."""


Delta = ReasoningDelta | ContentDelta | ToolCallDelta


def joined(first: Delta, second: Delta) -> Delta | None:
    """Return one delta for two of a kind, None for two that differ: texts of two phases are no one text."""
    match first, second:
        case ReasoningDelta(text, num_inserted=count), ReasoningDelta(more):
            return ReasoningDelta(text + more, num_inserted=count)
        case ContentDelta(text, num_inserted=count, phase=phase), ContentDelta(more, phase=same) if phase == same:
            return ContentDelta(text + more, num_inserted=count, phase=phase)
        case ToolCallDelta(index, name, text, is_builtin), ToolCallDelta(same, None, more) if index == same:
            return ToolCallDelta(index, name, text + more, is_builtin, syntax=first.syntax)
    return None
