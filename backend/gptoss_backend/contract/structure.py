"""What a grammar holds an answer to.

Stage: 3 prompt → 5 step.
Owns: what of a chat the grammar is told.
Does not know: grammars; how a structure is made of a chat (harmony/structure.py).
"""

from __future__ import annotations

from dataclasses import dataclass, field

from gptoss_backend.contract.documents import STRICT
from gptoss_backend.contract.forms import ResponseFormat, TextForm
from gptoss_backend.contract.tools import BuiltinName, Tool, ToolChoice


@dataclass(frozen=True, slots=True)
class OutputStructure:
    """What a grammar holds the answer to. Made of a ChatRequest by `harmony.structure.output_structure`.

    Reasoning is free, where there may be any. A part at fault is named as in an OpenAI chat request:
    `tools[0].function.parameters`.
    """

    __pydantic_config__ = STRICT
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
    may_reason: bool = True
    """Whether reasoning may come before the answer and its calls."""
    is_whole: bool = False
    """The answer is that text from its first token on, without Harmony's messages; no tools then."""
