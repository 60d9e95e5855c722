"""JSON schema → grammar text, if the grammar library can take it.

Stage: 3 prompt, and again before 4 schedule, where a grammar is made of the text.
Owns: what of a schema is enforced, what is refused and in which words, how large a schema may be.
Does not know: tokens, Harmony's headers, torch.

A strict schema is enforced to the last keyword or refused. One that is not strict loses what no grammar can hold:
keywords the library does not know; where that is not enough, its counts of properties; then all patterns; then formats
and bounds; a function's at last everything but that it is an object. The model has been told of it all the same. A
malformed schema of a response format stays refused: there is no answer that it asks for. Properties come in the
schema's order.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from functools import cache, lru_cache
from typing import Any, Final

from llguidance import LLMatcher, LLParserLimits, LLTokenizer

from gptoss_backend.contract import MAX_SCHEMA_BYTES, FunctionTool, ResponseFormat
from gptoss_backend.harmony.tools_section import takes_nothing
from gptoss_backend.structure.costs import MAX_PROPERTIES, too_dear
from gptoss_backend.structure.reduction import (
    BOUNDS,
    HINTS,
    PATTERNS,
    PROPERTY_COUNTS,
    plain,
    refers_to_itself,
    without,
    without_unusable_patterns,
)

logger = logging.getLogger(__name__)

LIMITS: Final = LLParserLimits(
    max_items_in_row=4 * MAX_PROPERTIES + 64,  # 4 for each property that may be next, and what it is in
    step_lexer_fuel=200_000,  # 4 to 6 ms of one token's time; long texts under a pattern do not begin with 50,000
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
_MISCOUNTED: Final = "min/maxProperties only supported when"
"""The library's warning where only names that the schema does not have are counted: the model would have to invent one,
so it is a fault where a schema is not strict, too. Where it is strict, the library refuses it."""
_MAX_KEPT: Final = 256


class StructureError(ValueError):
    """A structure that cannot be enforced. The message is one sentence that begins with the part at fault."""


def final_schema(wanted: ResponseFormat) -> str:
    """Return the schema of the final text, as JSON the library reads. Raises StructureError."""
    schema = _ANY_OBJECT if wanted.schema is None else wanted.schema
    return _enforceable(schema, wanted.where, is_strict=wanted.strict, or_any_object=False)


def arguments_schema(tool: FunctionTool, position: int = 0) -> str:
    """Return the schema of a call's arguments: an object, an empty one where the function takes nothing.

    position: among the tools, for the sentence of the StructureError that this raises.
    """
    where = f"tools[{position}].function.parameters"
    parameters = tool.parameters or {}
    kind = parameters.get("type", "object")
    if kind != "object" and not (isinstance(kind, list) and "object" in kind):
        raise StructureError(f"{where}: a function takes an object, not the type {kind!r}.")
    schema = _NO_ARGUMENTS if takes_nothing(tool) else {**parameters, "type": "object", "nullable": False}
    return _enforceable(schema, where, is_strict=tool.strict, or_any_object=not tool.strict)


def _enforceable(schema: dict[str, Any], where: str, *, is_strict: bool, or_any_object: bool) -> str:
    text = json.dumps(schema, ensure_ascii=False, separators=(",", ":"))
    if len(text.encode(errors="surrogatepass")) > MAX_SCHEMA_BYTES:
        raise StructureError(f"{where}: the schema is longer than {MAX_SCHEMA_BYTES // 1024} KiB of JSON.")
    prepared, fault = _first_enforceable(text, is_strict=is_strict, or_any_object=or_any_object)
    if prepared is None:
        raise StructureError(f"{where}: {fault}.")
    return prepared


@lru_cache(maxsize=_MAX_KEPT)
def _first_enforceable(text: str, *, is_strict: bool, or_any_object: bool) -> tuple[str | None, str | None]:
    """Return the fullest reading of a schema that can be enforced, as JSON for the library; None and why not."""
    constants: list[str] = []
    schema = json.loads(text, parse_constant=constants.append)
    if constants:
        return None, f"the schema holds {constants[0]}, which JSON does not have"
    first_fault: str | None = None
    for lost, reading in _readings(plain(schema), is_strict=is_strict, or_any_object=or_any_object):
        prepared = _prepared(reading, is_strict=is_strict)
        fault = _fault(prepared)
        if fault is None:
            if first_fault is not None:
                # %r: it quotes the client, whose text could look like another line, or steer a terminal
                logger.info("a schema that is not strict is held without %s: %r", lost, first_fault[:100])
            return prepared, None
        first_fault = first_fault or fault
    return None, first_fault


def _readings(schema: dict[str, Any], *, is_strict: bool, or_any_object: bool) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield what may be held of a schema, the most first, and in words what the reading leaves out."""
    if is_strict:
        yield "nothing", schema
        return
    schema = without(schema, HINTS)
    yield "unusable patterns", without_unusable_patterns(schema)
    yield "its counts of properties", without_unusable_patterns(without(schema, PROPERTY_COUNTS))
    yield "its patterns and counts of properties", without(schema, PATTERNS | PROPERTY_COUNTS)
    yield "its patterns, formats and bounds", without(schema, PATTERNS | BOUNDS)
    if or_any_object:
        yield "all but that it is an object", _ANY_OBJECT


def _prepared(schema: dict[str, Any], *, is_strict: bool) -> str:
    options = {"whitespace_pattern": _WHITESPACE, "lenient": not is_strict}
    return json.dumps({**schema, _OPTIONS: options}, ensure_ascii=False, separators=(",", ":"))


def _fault(schema: str) -> str | None:
    """Return why a prepared schema cannot be enforced, None where it can."""
    document = json.loads(schema)
    if (fault := too_dear(document)) is not None:
        return fault
    if refers_to_itself(document):
        return "the schema cannot be enforced: a part of it is said to be itself"
    grammar = LLMatcher.grammar_from_json_schema(schema)
    is_error, messages = LLMatcher.validate_grammar_with_warnings(grammar, limits=LIMITS)
    told = messages if is_error else [message for message in messages if message.startswith(_MISCOUNTED)]
    return f"the schema cannot be enforced: {first_line(told)}" if told else _fault_of_its_beginning(grammar)


def _fault_of_its_beginning(grammar: str) -> str | None:
    """Some grammars that compile fail before the first byte."""
    matcher = LLMatcher(_bytes(), grammar, log_level=0, limits=LIMITS)
    matcher.compute_bitmask()
    return "the schema cannot be enforced: no value begins as it says" if matcher.is_error() else None


@cache
def _bytes() -> LLTokenizer:
    """Return a vocabulary of bytes, made in a millisecond."""
    return LLTokenizer("byte")


def first_line(messages: list[str]) -> str:
    """Return what the library's messages say first."""
    lines = [line.strip() for line in "\n".join(messages).splitlines()]
    telling = [line.removeprefix("error: ") for line in lines if line.startswith("error: ")] or lines
    return telling[0].rstrip(".")[:200]
