"""Chat request → what a grammar holds the answer to.

Stage: 3 prompt.
Owns: which parts of a request bind the answer.
Does not know: grammars, tokens.
"""

from __future__ import annotations

from collections.abc import Sized

from gptoss_backend.contract import ChatRequest, OutputStructure, ReasoningEffort, Tool, ToolChoice, ToolChoiceMode
from gptoss_backend.harmony.begun import is_text_begun
from gptoss_backend.harmony.builtin_tools import offered_builtins
from gptoss_backend.harmony.errors import PromptError
from gptoss_backend.harmony.tools_section import offered_tools


def output_structure(request: ChatRequest) -> OutputStructure | None:
    """Return what binds the answer, None where nothing does. Raises PromptError, naming the part at fault.

    Where a conversation knows of tools but offers none, the answer is bound not to call any.
    """
    tools, builtins = offered_tools(request), offered_builtins(request)
    _check_choice(request.tool_choice, tools, builtins)
    _check_begun(request)
    has_called = any(message.tool_calls for message in request.messages)
    may_reason = request.reasoning_effort is not ReasoningEffort.NONE
    is_free = request.response_format is None and request.form is None and may_reason
    if is_free and not (request.tools or request.builtin_tools or has_called):
        return None
    return OutputStructure(
        request.response_format,
        tools,
        request.tool_choice if tools or builtins else ToolChoice(ToolChoiceMode.NONE),
        request.parallel_tool_calls,
        tuple(tool.name for tool in builtins),
        request.form,
        may_reason,
    )


def _check_choice(choice: ToolChoice, tools: tuple[Tool, ...], builtins: Sized) -> None:
    if choice.name is not None and choice.mode is not ToolChoiceMode.REQUIRED:
        raise PromptError(f"tool_choice: a tool is named, {choice.name!r}, but the mode is {choice.mode}.")
    if choice.mode is ToolChoiceMode.REQUIRED and not (tools or builtins):
        raise PromptError("tool_choice: a call is required, but there are no tools.")
    if choice.name is not None and all(tool.name != choice.name for tool in tools):
        raise PromptError(f"tool_choice: there is no tool of the name {choice.name!r}.")


def _check_begun(request: ChatRequest) -> None:
    if not request.continues_last:
        return
    is_text = is_text_begun(request.messages[-1])
    if not is_text and request.reasoning_effort is ReasoningEffort.NONE:
        last = len(request.messages) - 1
        raise PromptError(f"messages[{last}]: reasoning cannot be continued where there is to be none.")
    if is_text and request.tool_choice.mode is ToolChoiceMode.REQUIRED:
        raise PromptError("tool_choice: a call is required, but the answer that is continued has begun as a text.")
