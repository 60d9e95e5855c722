"""Tools for trying out tool calls: harmless, and run on this machine.

Stage: `gptoss chat --tools`, between two answers of a turn.
Owns: their schemas and what they do.
Does not know: conversations. Nothing here reads files, runs programs or uses the network.
"""

from __future__ import annotations

import ast
import json
import math
import operator
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Final
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

_MAX_EXPRESSION: Final = 200
_MAX_BITS: Final = 512
_MAX_EXPONENT: Final = 1000

_BINARY: Final[Mapping[type[ast.operator], Callable[[Any, Any], Any]]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.FloorDiv: operator.floordiv,
    ast.Mod: operator.mod,
    ast.Pow: operator.pow,
}
_UNARY: Final[Mapping[type[ast.unaryop], Callable[[Any], Any]]] = {ast.USub: operator.neg, ast.UAdd: operator.pos}
_FUNCTIONS: Final[Mapping[str, Callable[..., Any]]] = {
    "sqrt": math.sqrt, "abs": abs, "round": round, "min": min, "max": max, "log": math.log, "exp": math.exp,
    "sin": math.sin, "cos": math.cos, "tan": math.tan,
}  # fmt: skip
_CONSTANTS: Final = {"pi": math.pi, "e": math.e}


class ToolError(Exception):
    """A tool cannot do what it was called for. The message is a sentence for the model."""


def current_time(timezone: str = "") -> str:
    """Return the date and time, of this machine where no IANA time zone is named."""
    try:
        now = datetime.now(ZoneInfo(timezone)) if timezone else datetime.now(UTC).astimezone()
    except (ZoneInfoNotFoundError, ValueError, OSError) as error:
        raise ToolError(f"there is no time zone {timezone!r}") from error
    return now.isoformat(sep=" ", timespec="seconds")


def calculate(expression: str) -> str:
    """Return the value of an arithmetic expression."""
    if len(expression) > _MAX_EXPRESSION:
        raise ToolError(f"the expression is longer than {_MAX_EXPRESSION} characters")
    try:
        return str(_value(ast.parse(expression.strip(), mode="eval").body))
    except SyntaxError as error:
        raise ToolError("that is no arithmetic expression") from error
    except (ArithmeticError, ValueError, TypeError, RecursionError, MemoryError) as error:
        raise ToolError(str(error)) from error


def _value(node: ast.expr) -> Any:  # noqa: ANN401 (int or float)
    match node:
        case ast.Constant(value) if type(value) in (int, float):
            return value
        case ast.Name(name) if name in _CONSTANTS:
            return _CONSTANTS[name]
        case ast.UnaryOp(sign, operand) if type(sign) in _UNARY:
            return _UNARY[type(sign)](_value(operand))
        case ast.BinOp(left, sign, right) if type(sign) in _BINARY:
            return _binary(type(sign), _value(left), _value(right))
        case ast.Call(ast.Name(name), arguments, []) if name in _FUNCTIONS:
            return _FUNCTIONS[name](*map(_value, arguments))
    raise ToolError(f"only numbers, + - * / // % **, {', '.join(_FUNCTIONS)}, pi and e are known")


def _binary(sign: type[ast.operator], left: Any, right: Any) -> Any:  # noqa: ANN401 (int or float)
    # a few characters can ask for more digits than there is memory
    if any(isinstance(side, int) and side.bit_length() > _MAX_BITS for side in (left, right)):
        raise ToolError("the numbers become too large")
    if sign is ast.Pow and abs(right) > _MAX_EXPONENT:
        raise ToolError(f"the exponent is beyond {_MAX_EXPONENT}")
    return _BINARY[sign](left, right)


_TOOLS: Final[Mapping[str, Callable[..., str]]] = {"current_time": current_time, "calculate": calculate}

SCHEMAS: Final = (
    {
        "type": "function",
        "function": {
            "name": "current_time",
            "description": "Tells the current date and time.",
            "parameters": {
                "type": "object",
                "properties": {"timezone": {"type": "string", "description": "IANA name, such as Europe/Oslo"}},
            },
        },
    },
    {
        "type": "function",
        "function": {
            "name": "calculate",
            "description": "Computes an arithmetic expression.",
            "parameters": {
                "type": "object",
                "properties": {"expression": {"type": "string", "description": "such as (3 + 4) * sqrt(2)"}},
                "required": ["expression"],
            },
        },
    },
)


def run_tool(name: str, arguments: str) -> str:
    """Return a call's result, or what was wrong with the call: the model reads either. Never raises."""
    try:
        if name not in _TOOLS:
            raise ToolError(f"there is no tool {name!r}")
        named = json.loads(arguments or "{}")
        if not isinstance(named, dict) or not all(isinstance(value, str) for value in named.values()):
            raise ToolError("the arguments are a JSON object of strings")
        return _TOOLS[name](**named)
    except ToolError as error:
        return f"error: {error}"
    except (ValueError, TypeError) as error:
        return f"error: wrong arguments: {error}"
