"""The `# Tools` section of the developer message: tools as functions' TypeScript types.

Stage: 3 prompt.
Owns: which tools the model is told of; how each is described, and the refusal of one that cannot be.
Does not know: calls, built-in tools (builtin_tools.py).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any, Final

from openai_harmony import DeveloperContent, Message, ToolDescription
from openai_harmony import Role as HarmonyRole

from gptoss_backend.contract import ChatRequest, CustomTool, FunctionTool, Tool, ToolChoiceMode
from gptoss_backend.harmony.custom_tools import told_description, told_parameters
from gptoss_backend.harmony.errors import PromptError
from gptoss_backend.harmony.parameters import shown_parameters
from gptoss_backend.harmony.runs import has_unbreakable_run
from gptoss_backend.harmony.tool_names import checked_name
from gptoss_backend.harmony.vocabulary import MESSAGE, encoding

_SCHEMA_WITHOUT_FIELDS: Final = frozenset(
    {
        *("type", "properties", "required", "additionalProperties", "$defs", "definitions"),
        *("title", "description", "$schema", "$id", "$comment", "default", "examples"),
    }
)


def offered_tools(request: ChatRequest) -> tuple[Tool, ...]:
    """Return the tools the model is told of."""
    return () if request.tool_choice.mode is ToolChoiceMode.NONE else request.tools


def tools_section(tools: Sequence[Tool]) -> list[int]:
    """Return the `# Tools` section: all tools as functions' TypeScript types."""
    described = [_describe_tool(tool, f"tools[{position}]") for position, tool in enumerate(tools)]
    try:
        return _render_tools(described)
    except ValueError:
        for position, description in enumerate(described):
            _check_renders(description, f"tools[{position}]")
        raise


def _render_tools(described: Sequence[ToolDescription]) -> list[int]:
    content = DeveloperContent().with_function_tools(described)
    ids: list[int] = encoding().render(Message.from_role_and_content(HarmonyRole.DEVELOPER, content))
    return ids[ids.index(MESSAGE) + 1 : -1]  # without header and <|end|>


def _check_renders(description: ToolDescription, where: str) -> None:
    try:
        _render_tools([description])
    except ValueError as error:
        raise PromptError(
            f"{where}: the parameters of {description.name!r} cannot be described to the model: "
            "they are nested too deeply or hold a number that JSON does not have."
        ) from error


def _describe_tool(tool: Tool, where: str) -> ToolDescription:
    name, description = checked_name(tool.name, where), _description(tool)
    parameters = tool.parameters if isinstance(tool, FunctionTool) else None
    if has_unbreakable_run(description) or has_unbreakable_run(json.dumps(parameters, ensure_ascii=False)):
        raise PromptError(
            f"{where}: the description of {name!r} holds an overlong run of characters without a word end."
        )
    return ToolDescription.new(name, description, _parameters(tool))


def _description(tool: Tool) -> str:
    return told_description(tool) if isinstance(tool, CustomTool) else tool.description


def _parameters(tool: Tool) -> dict[str, Any] | None:
    """Return the schema as the library wants it; None, rendered `() => any`, for a function that takes nothing."""
    if isinstance(tool, CustomTool):
        return told_parameters(tool)
    return None if takes_nothing(tool) else shown_parameters(tool.parameters or {})


def takes_nothing(tool: FunctionTool) -> bool:
    """Say whether a function has no arguments, to the model as to the grammar: a map has, and what is required."""
    schema = tool.parameters or {}
    is_map = schema.get("additionalProperties") not in (None, False)  # `{}` is of any values
    is_open = is_map or bool(schema.get("properties") or schema.get("required"))
    return not is_open and schema.keys() <= _SCHEMA_WITHOUT_FIELDS
