"""Which schemas can be enforced, and what a client is told of the others."""

from __future__ import annotations

import time
from typing import Any

import pytest

from gptoss_backend.contract import (
    ChatMessage,
    ChatRequest,
    FunctionTool,
    OutputStructure,
    ResponseFormat,
    Role,
    ToolCall,
    ToolChoice,
    ToolChoiceMode,
)
from gptoss_backend.harmony.prompt import PromptError
from gptoss_backend.harmony.structure import output_structure
from gptoss_backend.structure.schemas import (
    MAX_PATTERN_REPEATS,
    MAX_PROPERTIES,
    MAX_SCHEMA_BYTES,
    StructureError,
    check_structure,
)

WHERE = "response_format.json_schema.schema: "


def string(**keywords: object) -> dict[str, Any]:
    return {"type": "object", "properties": {"a": {"type": "string", **keywords}}}


def check(schema: dict[str, Any], *, strict: bool = True) -> None:
    check_structure(OutputStructure(ResponseFormat(schema, strict=strict)))


def refused(schema: dict[str, Any], *, strict: bool = True) -> str:
    with pytest.raises(StructureError) as caught:
        check(schema, strict=strict)
    return str(caught.value)


NESTED: dict[str, Any] = {"type": "string"}
for _ in range(40):
    NESTED = {"type": "object", "properties": {"p": NESTED}, "required": ["p"], "additionalProperties": False}


@pytest.mark.parametrize(
    "schema",
    [
        {},
        {"type": "object"},
        {"properties": {"a": {"anyOf": [{"type": "integer"}, {"type": "null"}]}}, "type": "object"},
        {"$defs": {"n": {"type": "object", "properties": {"next": {"$ref": "#/$defs/n"}}}}, "$ref": "#/$defs/n"},
        string(pattern=r"^\d{3}-[a-z]+$"),
        string(pattern="^(a{20}){20}$"),
        string(format="date-time"),
        string(maxLength=100_000),
        string(enum=[f"value {at}" for at in range(1000)]),
        {"type": "object", "properties": {"pattern": {"type": "string"}, "enum": {"type": "integer"}}},
        {"type": "object", "properties": {"<|end|>\n\x00": {"type": "string"}}},
        {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 10_000},
        NESTED,
    ],
)
def test_schema_when_usual_then_it_is_taken(schema: dict[str, Any]) -> None:
    check(schema)


@pytest.mark.parametrize(
    ("schema", "telling"),
    [
        ({"type": "nothing"}, "Invalid type: nothing"),
        ({"type": "object", "properties": []}, "properties must be an object"),
        ({"$ref": "https://example.org/schema"}, "https://example.org/schema"),
        ({"$ref": "#/$defs/missing"}, "/$defs/missing"),
        (string(pattern="(unclosed"), "unclosed"),
        (string(pattern=f"a{{{MAX_PATTERN_REPEATS + 1}}}"), f"counts beyond {MAX_PATTERN_REPEATS}"),
        (string(pattern="^((((a{50}){50}){50}){50})$"), "counts beyond"),
        ({"type": "object", "patternProperties": {"((a{99}){99}){99}": True}}, "counts beyond"),
        ({"allOf": [{"items": [string(pattern="((a{99}){99}){99}")]}]}, "counts beyond"),
        ({"properties": {f"p{at}": {} for at in range(MAX_PROPERTIES + 1)}}, f"more than {MAX_PROPERTIES} properties"),
        (string(enum=["x" * MAX_SCHEMA_BYTES]), "longer than 128 KiB"),
        (string(uniqueItems=True), "uniqueItems"),
        (string(format="no-such-format"), "no-such-format"),
        (string(pattern="^(?=a)b$"), "look-around"),
        ({"not": {"type": "string"}}, "not"),
        ({"type": "integer", "minimum": -(10**30)}, ""),
        ({"type": "number", "minimum": float("nan")}, "NaN, which JSON does not have"),
    ],
)
def test_schema_when_it_cannot_be_held_then_the_sentence_says_why(schema: dict[str, Any], telling: str) -> None:
    sentence = refused(schema)
    assert sentence.startswith(WHERE)
    assert telling in sentence
    assert "\n" not in sentence
    assert sentence.endswith(".")
    assert len(sentence) < 400


@pytest.mark.parametrize(
    "schema",
    [
        string(uniqueItems=True),
        string(format="no-such-format"),
        string(pattern="^(?=a)b$"),
        string(pattern="((a{99}){99}){99}"),
        {"type": "object", "properties": {"pattern": string(pattern="(?<!x)y")}},
        {"not": {"type": "string"}},
        {"oneOf": [string(), {"type": "object", "properties": {"b": {}}}]},
    ],
)
def test_schema_when_it_is_not_strict_then_what_cannot_be_held_is_left_out(schema: dict[str, Any]) -> None:
    refused(schema)
    check(schema, strict=False)


def test_schema_when_not_strict_then_values_that_look_like_patterns_stay() -> None:
    value = {"pattern": "(?=x)"}
    check({"const": value}, strict=False)
    check({"enum": [value], "default": value}, strict=False)


def test_schema_when_it_carries_options_of_the_library_then_they_are_not_followed() -> None:
    check({"type": "object", "x-guidance": {"whitespace_pattern": "(broken"}})


def test_schema_when_not_strict_but_wrong_then_it_is_refused_too() -> None:
    assert refused({"type": "nothing"}, strict=False).startswith(WHERE)


def test_tools_when_one_has_a_faulty_schema_then_it_is_named() -> None:
    tools = (FunctionTool("good"), FunctionTool("bad", "", {"properties": {"a": {"type": "nothing"}}}))
    with pytest.raises(StructureError, match=r"^tools\[1\]\.function\.parameters: .*Invalid type: nothing"):
        check_structure(OutputStructure(None, tools))


@pytest.mark.parametrize("kind", ["array", "nothing", ["object", "null"]])
def test_tool_when_it_takes_no_object_then_it_is_refused(kind: object) -> None:
    with pytest.raises(StructureError, match=r"^tools\[0\]\.function\.parameters: a function takes an object"):
        check_structure(OutputStructure(None, (FunctionTool("f", "", {"type": kind}),)))


def test_tool_when_strict_then_every_keyword_has_to_be_held() -> None:
    parameters = {"properties": {"a": {"type": "array", "uniqueItems": True}}}
    check_structure(OutputStructure(None, (FunctionTool("f", "", parameters),)))
    with pytest.raises(StructureError, match="uniqueItems"):
        check_structure(OutputStructure(None, (FunctionTool("f", "", parameters, strict=True),)))


def test_schema_when_hostile_then_it_is_refused_in_time() -> None:
    def branches(depth: int) -> dict[str, Any]:
        if depth == 0:
            return {"type": "string"}
        return {"anyOf": [{"type": "object", "properties": {f"k{at}": branches(depth - 1)}} for at in range(4)]}

    started = time.perf_counter()
    refused({"allOf": [branches(1) | {"title": str(at)} for at in range(10)]})
    refused(branches(7))
    assert time.perf_counter() - started < 5.0


# --- from a chat ----------------------------------------------------------------------------------------------------

USER = ChatMessage(Role.USER, "Hi")
TOOLS = (FunctionTool("f"), FunctionTool("g"))
NONE = ToolChoice(ToolChoiceMode.NONE)


def test_chat_when_it_demands_nothing_then_there_is_no_structure() -> None:
    assert output_structure(ChatRequest((USER,))) is None


def test_chat_when_it_has_tools_then_they_are_in_the_structure() -> None:
    chat = ChatRequest((USER,), tools=TOOLS, tool_choice=ToolChoice(ToolChoiceMode.REQUIRED, "g"))
    assert output_structure(chat) == OutputStructure(None, TOOLS, ToolChoice(ToolChoiceMode.REQUIRED, "g"))


def test_chat_when_tools_are_hidden_then_the_structure_allows_no_call() -> None:
    assert output_structure(ChatRequest((USER,), tools=TOOLS, tool_choice=NONE)) == OutputStructure(tool_choice=NONE)


def test_chat_when_only_its_past_knows_tools_then_the_structure_allows_no_call() -> None:
    called = ChatMessage(Role.ASSISTANT, tool_calls=(ToolCall("1", "f", "{}"),))
    assert output_structure(ChatRequest((USER, called))) == OutputStructure(tool_choice=NONE)


def test_chat_when_it_wants_json_then_the_structure_does() -> None:
    wanted = ResponseFormat({"type": "object"})
    structure = output_structure(ChatRequest((USER,), response_format=wanted, parallel_tool_calls=False))
    assert structure == OutputStructure(wanted, (), NONE, False)


@pytest.mark.parametrize(
    ("choice", "tools"),
    [
        (ToolChoice(ToolChoiceMode.REQUIRED), ()),
        (ToolChoice(ToolChoiceMode.REQUIRED, "h"), TOOLS),
        (ToolChoice(ToolChoiceMode.AUTO, "f"), TOOLS),
    ],
)
def test_chat_when_its_tool_choice_cannot_be_followed_then_it_is_refused(
    choice: ToolChoice, tools: tuple[FunctionTool, ...]
) -> None:
    with pytest.raises(PromptError, match=r"^tool_choice: "):
        output_structure(ChatRequest((USER,), tools=tools, tool_choice=choice))
