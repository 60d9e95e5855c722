"""Which schemas can be enforced, and what a client is told of the others."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from typing import Any

import pytest

from gptoss_backend.contract import (
    MAX_SCHEMA_BYTES,
    ChatMessage,
    ChatRequest,
    FunctionTool,
    OutputStructure,
    ReasoningEffort,
    ResponseFormat,
    Role,
    ToolCall,
    ToolChoice,
    ToolChoiceMode,
)
from gptoss_backend.harmony.errors import PromptError
from gptoss_backend.harmony.structure import output_structure
from gptoss_backend.structure import checking
from gptoss_backend.structure.checking import check_structure
from gptoss_backend.structure.costs import MAX_DEPTH, MAX_PROPERTIES
from gptoss_backend.structure.reduction import MAX_PATTERN_REPEATS, plain
from gptoss_backend.structure.schemas import StructureError, arguments_schema

IN_TIME_S = 3.0  # of the processor; what is refused or bounded would take minutes
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
        ({"$ref": f"#/anyOf/{'9' * 5000}", "anyOf": [{}]}, "array index '999"),
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
    tools = (FunctionTool("good"), FunctionTool("bad", "", {"properties": {"a": {"type": "nothing"}}}, strict=True))
    with pytest.raises(StructureError, match=r"^tools\[1\]\.function\.parameters: .*Invalid type: nothing"):
        check_structure(OutputStructure(None, tools))


@pytest.mark.parametrize("kind", ["array", "nothing", ["array", "null"]])
def test_tool_when_it_takes_no_object_then_it_is_refused(kind: object) -> None:
    with pytest.raises(StructureError, match=r"^tools\[0\]\.function\.parameters: a function takes an object"):
        check_structure(OutputStructure(None, (FunctionTool("f", "", {"type": kind}),)))


ODD = [
    string(pattern=r"\bfoo\b"),
    string(pattern=r"(['\"]).*\1"),
    string(pattern=r"[\ud800-\udfff]"),
    string(pattern=r"^[A-Z].*\.$", minLength=50, maxLength=300),
    {"type": "object", "patternProperties": {"(?=a)": {}}, "additionalProperties": False},
    {"type": "object", "patternProperties": {"^a": {"type": "string"}, "b": {"type": "integer"}}},
    {"properties": {"a": {"type": "integer", "minimum": -9223372036854775808}}},
    {"properties": {"a": {"type": "number", "maximum": 3.4e38}}},
    {"properties": {"a": {"type": "any"}}},
    {"$ref": "#"},
    {"properties": {"a": {"$ref": "#/$defs/a"}}, "$defs": {"a": {"$ref": "#/$defs/a"}}, "required": ["a"]},
]


@pytest.mark.parametrize("schema", ODD)
def test_tool_when_no_grammar_holds_all_of_it_then_it_is_taken_unless_it_is_strict(schema: dict[str, Any]) -> None:
    check_structure(OutputStructure(None, (FunctionTool("f", "", schema),)))
    with pytest.raises(StructureError, match=r"^tools\[0\]\.function\.parameters: "):
        check_structure(OutputStructure(None, (FunctionTool("f", "", schema, strict=True),)))


def test_tool_when_a_pattern_cannot_be_held_then_the_rest_of_its_schema_is(caplog: pytest.LogCaptureFixture) -> None:
    fields = {"a": {"type": "string", "pattern": r"\bonly here\b"}, "b": {"type": "integer", "minimum": 3}}
    with caplog.at_level("INFO"):
        held = json.loads(arguments_schema(FunctionTool("f", "", {"type": "object", "properties": fields})))
    assert held["properties"] == {"a": {"type": "string"}, "b": {"type": "integer", "minimum": 3}}
    assert "held without its patterns and counts of properties: " in caplog.text


@pytest.mark.parametrize(
    "parameters",
    [
        {"properties": {"a": {"type": "string", "pattern": "^x"}, "b": {}}, "minProperties": 1},
        {"properties": {"a": {"type": "string", "pattern": "^x"}, "b": {}}, "maxProperties": 1},
        {"properties": {"a": {"type": "string", "pattern": "^x"}, "b": {}}, "allOf": [{"minProperties": 1}]},
        {
            "$ref": "#/$defs/fields",
            "minProperties": 1,
            "$defs": {"fields": {"properties": {"a": {"type": "string", "pattern": "^x"}, "b": {}}}},
        },
    ],
)
def test_tool_when_its_properties_cannot_be_counted_then_the_rest_of_its_schema_is_held(
    parameters: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    tool = FunctionTool("f", "", {"type": "object", **parameters})
    with caplog.at_level("INFO"):
        held = arguments_schema(tool)
    assert '"pattern":"^x"' in held
    assert "Properties" not in held
    assert "held without its counts of properties: " in caplog.text
    with pytest.raises(StructureError, match="min/maxProperties"):
        arguments_schema(replace(tool, strict=True))


@pytest.mark.parametrize(
    "parameters",
    [
        {"additionalProperties": {"type": "string"}},
        {"properties": {"a": {}, "b": {}}, "additionalProperties": False},
        {"properties": {"a": {}}, "required": ["a"]},
    ],
)
def test_tool_when_its_properties_can_be_counted_then_they_are(parameters: dict[str, Any]) -> None:
    held = json.loads(arguments_schema(FunctionTool("f", "", {"type": "object", **parameters, "minProperties": 1})))
    assert held["minProperties"] == 1


@pytest.mark.parametrize("strict", [True, False])
def test_schema_when_it_is_said_to_be_itself_then_it_is_refused(strict: bool) -> None:
    refused({"$ref": "#"}, strict=strict)
    refused({"properties": {"a": {"$ref": "#/$defs/a"}}, "$defs": {"a": {"allOf": [{"$ref": "#/$defs/a"}]}}})


@pytest.mark.parametrize("kind", [["object"], ["object", "null"]])
def test_tool_when_its_type_is_a_list_with_object_then_it_takes_an_object(kind: list[str]) -> None:
    held = json.loads(arguments_schema(FunctionTool("f", "", {"type": kind, "properties": {"a": {}}}, strict=True)))
    assert held["type"] == "object"


def test_tool_when_its_parameters_may_be_null_then_it_takes_an_object_all_the_same() -> None:
    parameters = {"type": "object", "nullable": True, "properties": {"a": {}}}
    held = json.loads(arguments_schema(FunctionTool("f", "", parameters, strict=True)))
    assert held["type"] == "object"


def test_tool_when_it_is_a_map_of_any_values_then_it_takes_them() -> None:
    held = json.loads(arguments_schema(FunctionTool("f", "", {"type": "object", "additionalProperties": {}})))
    assert held["additionalProperties"] == {}


def test_tools_when_two_have_one_name_then_the_second_is_refused_by_name() -> None:
    with pytest.raises(StructureError, match=r"^tools\[2\]\.function\.name: .*'f'"):
        check_structure(OutputStructure(None, (FunctionTool("f"), FunctionTool("g"), FunctionTool("f"))))


@pytest.mark.parametrize(
    ("schema", "demand"),
    [
        ({"title": "T", "properties": {"title": {"description": "D"}}}, {"properties": {"title": {}}}),
        ({"const": {"title": "T"}, "default": {"a": 1}, "x-order": 3}, {"const": {"title": "T"}}),
        ({"$id": "x", "properties": {"$id": {"$anchor": "y"}}}, {"properties": {"$id": {}}}),
        ({"type": "string", "nullable": True}, {"type": ["string", "null"]}),
        ({"type": "string", "enum": ["a"], "nullable": True}, {"type": ["string", "null"], "enum": ["a", None]}),
        ({"$ref": "#/$defs/a", "nullable": True}, {"anyOf": [{"$ref": "#/$defs/a"}, {"type": "null"}]}),
        ({"type": "string", "nullable": False}, {"type": "string"}),
        ({"type": "array", "minItems": 1.0, "uniqueItems": False}, {"type": "array", "minItems": 1}),
    ],
)
def test_schema_when_plain_then_it_demands_the_same_in_fewer_words(
    schema: dict[str, Any], demand: dict[str, Any]
) -> None:
    assert plain(schema) == demand


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


def chain(num: int, depth: int = 1) -> dict[str, Any]:
    """Return a schema of so many definitions, each of which refers to the next from so deep within it."""

    def nested(inner: dict[str, Any], depth: int) -> dict[str, Any]:
        return within(nested(inner, depth - 1)) if depth else inner

    parts = {f"{at}": nested({"$ref": f"#/$defs/{at + 1}"}, depth) for at in range(num)}
    return {"$defs": parts | {f"{num}": {}}, "$ref": "#/$defs/0"}


def either(at: int, num: int = 2) -> dict[str, Any]:
    kinds = [{"type": "object", "properties": {f"p{at}_{n}": {}}, "required": [f"p{at}_{n}"]} for n in range(num)]
    return {"anyOf": kinds}


def within(schema: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "properties": {"a": schema}}


def tree(num_fields: int, depth: int, *, nullable: bool = False) -> dict[str, Any]:
    """Return a schema of objects, half of whose fields hold the next; nullable: or nothing."""

    def field(at: int, level: int) -> dict[str, Any]:
        if level + 1 == depth or at >= num_fields // 2:
            return {"type": "string"}
        inner = {"$ref": f"#/$defs/{level + 1}"}
        return {"anyOf": [inner, {"type": "null"}]} if nullable else inner

    def level(number: int) -> dict[str, Any]:
        return {"type": "object", "properties": {f"{at}": field(at, number) for at in range(num_fields)}}

    return {"$defs": {f"{number}": level(number) for number in range(depth)}, "$ref": "#/$defs/0"}


def twice(schema: dict[str, Any]) -> dict[str, Any]:
    """Return a schema that demands another's twice: the library joins them, field by field."""
    same = {key: value for key, value in schema.items() if key != "$defs"}
    return {"$defs": schema["$defs"], "allOf": [same, dict(same)]}


COMMON = "too much in common"
MULTIPLES = "common multiple beyond 10000"
ALTERNATIVES = "joins too many alternatives"


@pytest.mark.parametrize(
    ("schema", "telling"),
    [
        (within({"type": "integer", "multipleOf": 9999991}), MULTIPLES),
        (within({"type": "number", "multipleOf": 40.0009}), MULTIPLES),
        (within({"type": "number", "multipleOf": 1e300}), MULTIPLES),
        (within({"type": "integer", "allOf": [{"multipleOf": 997}, {"multipleOf": 401}]}), MULTIPLES),
        (within({"anyOf": [{"type": "integer", "multipleOf": at} for at in (997, 991)]}), MULTIPLES),
        (within({"anyOf": [within({"multipleOf": at}) for at in (997, 991)]}), MULTIPLES),
        ({"type": "object", "properties": {f"a{at}": {"multipleOf": 1200 + at} for at in range(9)}}, "a sum"),
        (
            {
                "$defs": {
                    f"{end}_{at}": {"$ref": f"#/$defs/{end}_{at + 1}"} if at < 200 else {"multipleOf": end}
                    for end in (997, 991)
                    for at in range(201)
                },
                "anyOf": [{"$ref": "#/$defs/997_0"}, {"$ref": "#/$defs/991_0"}],
            },
            MULTIPLES,
        ),
        ({"patternProperties": {f"^x{at}[a-z]*{at}$": {} for at in range(490)}}, "more than 32 patternProperties"),
        ({"properties": {f"a{at}": {"patternProperties": {f"^{at}": {}}} for at in range(33)}}, "patternProperties"),
        (within({"allOf": [either(at) for at in range(11)]}), ALTERNATIVES),
        (within({"allOf": [{"items": either(at)} for at in range(11)]}), ALTERNATIVES),
        ({"allOf": [within(within(either(at))) for at in range(11)]}, ALTERNATIVES),
        ({"allOf": [within(either(0)), *({"additionalProperties": either(at)} for at in range(11))]}, ALTERNATIVES),
        ({"allOf": [{"anyOf": [within(either(at)), within(either(at + 1))]} for at in range(7)]}, ALTERNATIVES),
        ({"properties": {f"a{at}": {"allOf": [either(n) for n in range(8)]} for at in range(5)}}, ALTERNATIVES),
        ({"properties": {f"a{at}": {} for at in range(400)}, **either(0, 100)}, ALTERNATIVES),
        (
            {"$ref": "#/$defs/0", "$defs": {f"{at}": {**either(at), "$ref": f"#/$defs/{at + 1}"} for at in range(12)}},
            ALTERNATIVES,
        ),
        (
            {
                "$defs": {f"{at}": {"$ref": f"#/$defs/{at + 1}"} for at in range(2000)} | {"2000": either(0)},
                "allOf": [{"$ref": "#/$defs/0"}, {"$ref": "#/$defs/1"}],
            },
            ALTERNATIVES,
        ),
        ({"allOf": [within({"type": "string", "pattern": f"^{at}"}) for at in range(9)]}, "more than 8 patterns"),
        (string(allOf=[{"pattern": f"^(a|b)*a(a|b){{{at}}}$"} for at in range(10, 30)]), "more than 8 patterns"),
        (
            {
                "allOf": [{"$ref": f"https://example.org/{at}"} for at in range(11)],
                "$defs": {f"{at}": {"$id": f"https://example.org/{at}", **either(at)} for at in range(11)},
            },
            "https://example.org/",
        ),
        (
            {
                "allOf": [{"$ref": f"#a{at}"} for at in range(11)],
                "$defs": {f"{at}": {"$anchor": f"a{at}", **either(at)} for at in range(11)},
            },
            "a0",
        ),
        (
            {"properties": {"a": {"$ref": "#/properties/b/const"}, "b": {"const": {"multipleOf": 9999991}}}},
            "leads to a value",
        ),
        (
            {"properties": {"a": {"$ref": "#/properties/b/enum/+00"}, "b": {"enum": [{"multipleOf": 10_007}]}}},
            "leads to a value",
        ),
        (twice(tree(10, 6)), COMMON),
        (twice(tree(6, 12, nullable=True)), COMMON),
        (tree(10, 6) | {"properties": {"0": {"$ref": "#/$defs/1"}, "1": {"$ref": "#/$defs/1"}}}, COMMON),
        (twice({"$defs": {"0": within({"$ref": "#/$defs/0"})}, "$ref": "#/$defs/0"}), COMMON),
        (twice(chain(2, 40)), COMMON),
        (chain(400), f"more than {MAX_DEPTH} deep"),
        (chain(20, 60), f"more than {MAX_DEPTH} deep"),
        ({"type": "object", "required": [f"a{at}" for at in range(10_000)]}, f"more than {MAX_PROPERTIES} properties"),
    ],
)
def test_schema_when_its_grammar_would_be_too_dear_then_it_is_refused_at_once(
    schema: dict[str, Any], telling: str
) -> None:
    started_s = time.thread_time()
    assert telling in refused(schema)
    assert time.thread_time() - started_s < IN_TIME_S
    check_structure(OutputStructure(None, (FunctionTool("f", "", {**schema, "type": "object"}),)))  # held with less


@pytest.mark.parametrize(
    "schema",
    [
        within({"type": "integer", "multipleOf": 10_000}),
        {"properties": {f"a{at}": {"type": "number", "multipleOf": [0.01, 0.5, 5, 100][at % 4]} for at in range(100)}},
        {"type": "object", "patternProperties": {f"^x{at:02}.*(a|b)*a(a|b){{8}}$": {} for at in range(32)}},
        twice(tree(10, 5)),
        {**tree(10, 6), "$ref": "#/$defs/0", "properties": {"more": {"$ref": "#/$defs/0"}}},
        {"$defs": {"0": within({"$ref": "#/$defs/0"})}, "allOf": [{"$ref": "#/$defs/0"}, {"required": ["a"]}]},
        within({"allOf": [either(at) for at in range(8)]}),
        within({"anyOf": [within({"const": at}) for at in range(1000)]}),
        {"properties": {f"a{at}": {"multipleOf": 1000 + at} for at in range(9)}},
        {"allOf": [{"properties": {f"a{at}": {"type": "string", "pattern": f"^{at}"}}} for at in range(30)]},
        {
            "properties": {f"a{at}": {"anyOf": [within({"const": n}) for n in range(30)]} for at in range(9)},
            "anyOf": [{"required": [f"a{at}"]} for at in range(9)],
        },
        {"properties": {f"a{at}": {"anyOf": [{"type": "string"}, {"type": "null"}]} for at in range(MAX_PROPERTIES)}},
        {
            "$defs": {"base": {"properties": {f"b{at}": {"anyOf": [{}, {"type": "null"}]} for at in range(30)}}},
            "allOf": [{"$ref": "#/$defs/base"}, {"properties": {f"c{at}": {"type": "string"} for at in range(30)}}],
        },
        string(allOf=[{"pattern": f"{at}"} for at in range(8)]),
        chain(300),
        chain(10, 30),
        twice(chain(40, 0)),
        {"$defs": {f"{at}": {"$ref": f"#/$defs/{at + 1}"} for at in range(500)} | {"500": {}}, "$ref": "#/$defs/0"},
    ],
)
def test_schema_when_it_is_as_dear_as_may_be_then_it_is_taken_in_time(schema: dict[str, Any]) -> None:
    started_s = time.thread_time()
    check(schema)
    assert time.thread_time() - started_s < IN_TIME_S


def test_union_when_openapi_tells_how_its_parts_differ_then_it_is_held_in_full() -> None:
    def union(name: str, of: dict[str, Any]) -> dict[str, Any]:
        kinds = [{"properties": {"kind": {"const": f"{name}{at}"}, "of": of}, "required": ["kind"]} for at in range(10)]
        return {"oneOf": [{"type": "object", **kind} for kind in kinds], "discriminator": {"propertyName": "kind"}}

    schema = within(union("top", {"type": "array", "items": union("leaf", {"type": "string"})}))
    tool = FunctionTool("f", "", schema)
    assert '"top9"' in arguments_schema(tool)
    assert "discriminator" not in arguments_schema(tool)


def test_tools_when_together_they_would_take_too_long_then_they_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checking, "_MAX_CHECK_S", 0.0)
    with pytest.raises(StructureError, match=r"^tools\[0\]\..*took too long"):
        check_structure(OutputStructure(None, (FunctionTool("f"), FunctionTool("g"))))


def test_tools_when_each_is_as_dear_as_may_be_then_they_are_refused_before_others_have_waited_long() -> None:
    def tool(at: int) -> FunctionTool:
        patterns = {f"^[a-z]{{1,{100 + n}}}{at}x{n}$": {} for n in range(32)}
        return FunctionTool(f"f{at}", "", {"type": "object", "patternProperties": patterns})

    started_s = time.thread_time()
    with pytest.raises(StructureError, match=r"^tools\[\d+\]\.function: what comes before it took too long"):
        check_structure(OutputStructure(None, tuple(map(tool, range(64)))))
    assert time.thread_time() - started_s < 3.0


# --- from a chat ----------------------------------------------------------------------------------------------------

USER = ChatMessage(Role.USER, "Hi")
TOOLS = (FunctionTool("f"), FunctionTool("g"))
NONE = ToolChoice(ToolChoiceMode.NONE)


def test_chat_when_it_demands_nothing_then_there_is_no_structure() -> None:
    assert output_structure(ChatRequest((USER,))) is None


def test_chat_when_it_is_not_to_reason_then_the_structure_says_so() -> None:
    chat = ChatRequest((USER,), reasoning_effort=ReasoningEffort.NONE)
    assert output_structure(chat) == OutputStructure(tool_choice=NONE, may_reason=False)
    assert output_structure(replace(chat, tools=TOOLS)) == OutputStructure(None, TOOLS, may_reason=False)


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
