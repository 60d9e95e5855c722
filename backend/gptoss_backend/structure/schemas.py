"""JSON schema → grammar text, if the grammar library can take it.

Stage: 3 prompt, and again before 4 schedule, where a grammar is made of the text.
Owns: what of a schema is enforced, what is refused and in which words, how large a schema may be.
Does not know: tokens, Harmony's headers, torch.

A strict schema is enforced to the last keyword or refused. Of one that is not strict, keywords the library has no
grammar for are left out: the model has been told of them all the same. Properties come in the schema's order.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, Final

from llguidance import LLMatcher, LLParserLimits

from gptoss_backend.contract import FunctionTool, OutputStructure, ResponseFormat
from gptoss_backend.harmony.prompt import takes_nothing

MAX_SCHEMA_BYTES: Final = 128 * 1024
MAX_PROPERTIES: Final = 500
"""Of one object: while the next key is open, every optional one is a path to follow, 14 ms at 500."""
MAX_PATTERN_REPEATS: Final = 1000
"""Length of a pattern with its least counts written out. The library's time grows with its square: 0.3 ms a token at
1,000, 3 s at 100,000 (`((a{50}){50}){40}`)."""

LIMITS: Final = LLParserLimits(
    max_items_in_row=4 * MAX_PROPERTIES,
    step_lexer_fuel=50_000,  # 4 ms of one token's time; every format of the library stays below a tenth of it
    max_lexer_states=200_000,  # 1 KB each; a string of a greatest length takes 16 a token: room for 12,000 tokens
    verbose_errors=False,
)

MAX_WHITESPACE: Final = 64
"""Characters between two tokens of JSON: models indent, but one may also fall into blank lines for ever."""
_WHITESPACE: Final = f"[ \\t\\r\\n]{{1,{MAX_WHITESPACE}}}"
_ANY_OBJECT: Final[dict[str, Any]] = {"type": "object"}
_NO_ARGUMENTS: Final[dict[str, Any]] = {"type": "object", "properties": {}, "additionalProperties": False}
_OPTIONS: Final = "x-guidance"
"""The library's own keyword. A client's is dropped: it could change what JSON is."""

_NAMED_SCHEMAS: Final = frozenset({"properties", "patternProperties", "$defs", "definitions", "dependentSchemas"})
_VALUES: Final = frozenset({"enum", "const", "default", "examples"})
_LOOKAROUND: Final = re.compile(r"\(\?(?:[=!]|<[=!])")
_PATTERN_PARTS: Final = re.compile(
    r"\\.|\[(?:\\.|[^\]\\])*\]|(?P<open>\()|(?P<close>\))|\{(?P<count>\d+)(?:,\d*)?\}|(?P<mark>[*+?|^$])|.", re.DOTALL
)


class StructureError(ValueError):
    """A structure that cannot be enforced. The message is one sentence that begins with the part at fault."""


def check_structure(structure: OutputStructure) -> None:
    """Raise StructureError where a schema cannot be enforced. Takes a millisecond for a usual schema."""
    if structure.final is not None:
        _checked(final_schema(structure.final), "response_format.json_schema.schema")
    for position, tool in enumerate(structure.tools):
        where = f"tools[{position}].function.parameters"
        kind = (tool.parameters or {}).get("type", "object")
        if kind != "object":
            raise StructureError(f"{where}: a function takes an object, not the type {kind!r}.")
        _checked(arguments_schema(tool), where)


def final_schema(wanted: ResponseFormat) -> str:
    """Return the schema of the final text, as JSON the library reads."""
    return _prepared(_ANY_OBJECT if wanted.schema is None else wanted.schema, is_strict=wanted.strict)


def arguments_schema(tool: FunctionTool) -> str:
    """Return the schema of a call's arguments: an object, an empty one where the function takes nothing."""
    parameters = tool.parameters or {}
    is_map = parameters.get("additionalProperties") not in (None, False)
    schema = _NO_ARGUMENTS if takes_nothing(tool) and not is_map else {"type": "object", **parameters}
    return _prepared(schema, is_strict=tool.strict)


def _prepared(schema: dict[str, Any], *, is_strict: bool) -> str:
    options = {"whitespace_pattern": _WHITESPACE, "lenient": not is_strict}
    kept = schema if is_strict else _without_unusable_patterns(schema)
    return json.dumps({**kept, _OPTIONS: options}, ensure_ascii=False, separators=(",", ":"))


def _checked(schema: str, where: str) -> None:
    fault = _fault(schema)
    if fault is not None:
        raise StructureError(f"{where}: {fault}.")


@lru_cache(maxsize=512)
def _fault(schema: str) -> str | None:
    """Return why a prepared schema cannot be enforced, None where it can."""
    if len(schema.encode()) > MAX_SCHEMA_BYTES:
        return f"the schema is longer than {MAX_SCHEMA_BYTES // 1024} KiB of JSON"
    constants: list[str] = []
    document = json.loads(schema, parse_constant=constants.append)
    if constants:
        return f"the schema holds {constants[0]}, which JSON does not have"
    for part in _parts(document):
        if isinstance(properties := part.get("properties"), dict) and len(properties) > MAX_PROPERTIES:
            return f"an object of the schema has more than {MAX_PROPERTIES} properties"
        for pattern in _patterns(part):
            if _num_repeats(pattern) > MAX_PATTERN_REPEATS:
                return f"the pattern {pattern[:80]!r} counts beyond {MAX_PATTERN_REPEATS}"
    grammar = LLMatcher.grammar_from_json_schema(schema)
    is_error, messages = LLMatcher.validate_grammar_with_warnings(grammar, limits=LIMITS)
    return f"the schema cannot be enforced: {_first_line(messages)}" if is_error else None


def _first_line(messages: list[str]) -> str:
    lines = [line.strip() for line in "\n".join(messages).splitlines()]
    telling = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")] or lines
    return telling[0].rstrip(".")[:200]


# --- looking into a schema ------------------------------------------------------------------------------------------


def _parts(schema: object) -> Iterator[dict[str, Any]]:
    """Yield every object of a schema that is a schema itself, and not a value or a name's."""
    if isinstance(schema, list):
        for item in schema:
            yield from _parts(item)
    if not isinstance(schema, dict):
        return
    yield schema
    for key, value in schema.items():
        if key in _NAMED_SCHEMAS and isinstance(value, dict):
            yield from _parts(list(value.values()))
        elif key not in _VALUES:
            yield from _parts(value)


def _patterns(part: dict[str, Any]) -> Iterator[str]:
    if isinstance(pattern := part.get("pattern"), str):
        yield pattern
    if isinstance(named := part.get("patternProperties"), dict):
        yield from named


def _without_unusable_patterns(schema: Any) -> Any:  # noqa: ANN401 (JSON)
    """Return the schema without the patterns that its grammar could not hold."""
    if isinstance(schema, list):
        return [_without_unusable_patterns(item) for item in schema]
    if not isinstance(schema, dict):
        return schema
    kept: dict[str, Any] = {}
    for key, value in schema.items():
        if key in _VALUES or (key == "pattern" and isinstance(value, str) and not _is_usable(value)):
            if key != "pattern":
                kept[key] = value
        elif key in _NAMED_SCHEMAS and isinstance(value, dict):
            kept[key] = {name: _without_unusable_patterns(inner) for name, inner in value.items()}
        else:
            kept[key] = _without_unusable_patterns(value)
    return kept


def _is_usable(pattern: str) -> bool:
    return not _LOOKAROUND.search(pattern) and _num_repeats(pattern) <= MAX_PATTERN_REPEATS


def _num_repeats(pattern: str) -> int:
    """Return how long a regular expression is with its counts written out: `(a{3}){5}b` gives 16."""
    sums, last = [0], 0  # of the open groups; of the last atom
    for part in _PATTERN_PARTS.finditer(pattern):
        if part["open"]:
            sums.append(0)
            last = 0
        elif part["close"]:
            last = sums.pop() if len(sums) > 1 else 0
            sums[-1] += last
        elif part["count"]:
            more = last * (max(1, int(part["count"][:9])) - 1)
            last += more
            sums[-1] += more
        elif not part["mark"]:
            last = 1
            sums[-1] += last
    return sum(sums)
