"""Structures for answers to be held to, and turns that fit them."""

from __future__ import annotations

from typing import Any

from gptoss_backend.contract import (
    BuiltinName,
    FunctionTool,
    OutputStructure,
    ResponseFormat,
    ToolChoice,
    ToolChoiceMode,
)

PERSON: dict[str, Any] = {
    "type": "object",
    "properties": {
        "name": {"type": "string", "maxLength": 12},
        "age": {"type": "integer", "minimum": 0, "maximum": 150},
        "kind": {"enum": ["a", "b"]},
    },
    "required": ["name", "age", "kind"],
    "additionalProperties": False,
}
WEATHER = FunctionTool(
    "get_weather",
    "",
    {
        "properties": {"city": {"type": "string", "maxLength": 12}, "unit": {"enum": ["c", "f"]}},
        "required": ["city"],
        "additionalProperties": False,
    },
)
NOW = FunctionTool("now")
REQUIRED = ToolChoice(ToolChoiceMode.REQUIRED)
AUTO = ToolChoice()

JSON_ANSWER = OutputStructure(ResponseFormat(PERSON))
MUST_CALL = OutputStructure(None, (WEATHER, NOW), REQUIRED)
MAY_CALL = OutputStructure(None, (WEATHER, NOW))
MAY_BROWSE = OutputStructure(None, (WEATHER,), builtins=(BuiltinName.BROWSER, BuiltinName.PYTHON))
NO_CALLS = OutputStructure(tool_choice=ToolChoice(ToolChoiceMode.NONE))

CALL_NOW = "<|channel|>commentary to=functions.now <|constrain|>json<|message|>{}"
REASONING = "<|channel|>analysis<|message|>Hm.<|end|>"
