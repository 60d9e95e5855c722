"""What the model is shown of a function's schema, word for word as oss-harmony renders it."""

from __future__ import annotations

import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptoss_backend.contract import ChatMessage, ChatRequest, FunctionTool, Role
from gptoss_backend.harmony.parameters import MAX_NODES, MAX_SAID, shown_parameters
from gptoss_backend.harmony.prompt import render_prompt
from gptoss_backend.harmony.vocabulary import encoding

PLACE = {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}
NODE = {"type": "object", "properties": {"next": {"$ref": "#/$defs/Node"}}}
NULL = {"type": "null"}
DEFINITIONS = {
    "Place": PLACE,
    "Node": NODE,
    "List": {"type": "array", "items": {"$ref": "#/$defs/List"}},
    "Tree": {"anyOf": [{"type": "string"}, {"type": "array", "items": {"$ref": "#/$defs/Tree"}}]},
    "Either": {"anyOf": [{"type": "string"}, {"type": "integer"}]},
}

OPTIONAL_WITH_DEFAULT = "\n | {\n   b?: any, // default: null\n   }\n | null\n"
EITHER_WITH_DEFAULT = "\n | string" + OPTIONAL_WITH_DEFAULT


def shown(parameters: dict[str, Any]) -> str:
    chat = ChatRequest((ChatMessage(Role.USER, "Hi"),), tools=(FunctionTool("f", "", parameters),))
    text: str = encoding().decode(render_prompt(chat))
    return text.partition("type f = ")[2].partition(" => any;")[0]


def shown_field(field: dict[str, Any]) -> str:
    schema = {"type": "object", "properties": {"a": field}, "required": ["a"], "$defs": DEFINITIONS}
    return shown(schema).removeprefix("(_: {\na:").removeprefix(" ").removesuffix(",\n})")


@pytest.mark.parametrize(
    ("field", "type_shown"),
    [
        ({"$ref": "#/$defs/Place"}, "{\n    x: number,\n    }"),
        ({"$ref": "#/$defs/Node"}, "{\n    next?: {\n        },\n    }"),
        ({"$ref": "#/$defs/Missing"}, "any"),
        ({"$ref": "#/$defs/Either/anyOf/1"}, "number"),
        ({"$ref": "#/$defs/List"}, "Array<any>[]"),
        ({"$ref": "#/$defs/Tree"}, "\n | string\n | any[]\n"),
        ({"allOf": [{"$ref": "#/$defs/Place"}]}, "{\n    x: number,\n    }"),
        ({"anyOf": [{"type": "string"}, NULL]}, "string | null"),
        ({"anyOf": [{"$ref": "#/$defs/Place"}, NULL]}, "{\n    x: number,\n    } | null"),
        ({"anyOf": [{"type": "string"}, {"type": "integer"}, NULL]}, "\n | string\n | number | null\n"),
        ({"type": ["object", "null"], "properties": {"b": {"type": "string"}}}, "{\n    b?: string,\n    } | null"),
        ({"type": ["array", "null"], "items": {"type": "string"}}, "string[] | null"),
        ({"type": ["string", "integer"]}, "string | number"),
        ({"const": "x"}, '"x"'),
        ({"enum": ["a", "b", None]}, '"a" | "b" | null'),
        ({"properties": {"b": {"type": "string"}}}, "{\n    b?: string,\n    }"),
        ({"type": "object", "additionalProperties": {"type": "string"}}, "{\n    [key: string]: string,\n    }"),
    ],
)
def test_field_when_the_library_would_show_any_then_its_type_is_shown(field: dict[str, Any], type_shown: str) -> None:
    assert shown_field(field) == type_shown


@pytest.mark.parametrize(
    ("field", "type_shown"),
    [
        ({"const": None}, "null"),
        ({"type": "null"}, "null"),
        ({"anyOf": [NULL]}, "null"),
        ({"anyOf": [], "oneOf": []}, "any"),
        ({"anyOf": [{"type": "string"}, {"const": None}]}, "\n | string\n | null\n"),
        ({"items": {"type": ["string", "null"]}}, "string | null[]"),
        ({"items": {"type": "string", "nullable": True}}, "string | null[]"),
        ({"items": {"type": ["string", "integer"], "nullable": True}}, "string | number | null[]"),
        ({"items": {"anyOf": [{"type": "string"}, NULL]}}, "string | null[]"),
        (
            {"items": {"anyOf": [{"type": "string"}, {"type": "integer"}, NULL]}},
            "\n     | string\n     | number | null[]",
        ),
        ({"items": {"enum": ["a", None]}}, '\n     | "a"\n     | null[]'),
        (
            {"items": {"anyOf": [{"$ref": "#/$defs/Place"}, NULL]}},
            "\n     | {\n       x: number,\n       }\n     | null[]",
        ),
        ({"type": ["array", "null"], "items": {"type": ["string", "null"]}}, "\n | string | null[]\n | null\n"),
        ({"anyOf": [{"properties": {"b": {"default": None}}}, NULL]}, OPTIONAL_WITH_DEFAULT),
        ({"anyOf": [{"type": "string"}, {"properties": {"b": {"default": None}}}, NULL]}, EITHER_WITH_DEFAULT),
    ],
)
def test_field_when_the_library_would_lose_null_then_it_is_shown(field: dict[str, Any], type_shown: str) -> None:
    assert shown_field(field) == type_shown


def test_field_when_its_values_are_no_strings_then_they_are_in_its_description() -> None:
    field = {"enum": [1, 2], "description": "How many."}
    assert shown({"properties": {"a": field}}) == "(_: {\n// How many. One of: 1, 2.\na?: number,\n})"


def test_parameters_when_they_are_a_reference_or_a_map_then_the_fields_are_shown() -> None:
    assert shown({"$ref": "#/$defs/Place", "$defs": {"Place": PLACE}}) == "(_: {\nx: number,\n})"
    assert shown({"additionalProperties": {"type": "string"}}) == "(_: {\n[key: string]: string,\n})"


def test_parameters_when_they_may_be_null_then_only_the_object_is_shown() -> None:
    fields = {"a": {"type": ["string", "null"]}}
    assert shown({"properties": fields, "nullable": True}) == "(_: {\na?: string | null,\n})"
    assert shown({"anyOf": [{"properties": fields}, NULL]}) == "(_: {\na?: string | null,\n})"


def test_parameters_when_references_multiply_then_what_is_shown_stays_small() -> None:
    definitions: dict[str, Any] = {
        f"d{at}": {"type": "object", "properties": {name: {"$ref": f"#/$defs/d{at + 1}"} for name in "abcd"}}
        for at in range(30)
    }
    assert len(str(shown_parameters({"$ref": "#/$defs/d0", "$defs": {}} | {"$defs": definitions}))) < 500_000


def test_parameters_when_there_are_too_many_references_then_the_last_ones_types_and_values_are_shown() -> None:
    definitions = {
        "size": {"type": "string", "enum": ["s", "m"]},
        "code": {"type": "string", "description": "c" * MAX_SAID},
        "whole": {"const": "all"},
    }
    last = {name: {"$ref": f"#/$defs/{name}"} for name in definitions}
    fields = {f"a{at}": {"$ref": "#/$defs/size"} for at in range(MAX_NODES)}
    text = shown({"properties": fields | last, "$defs": definitions})
    assert text.endswith('a999?: "s" | "m",\nsize?: "s" | "m",\ncode?: string,\nwhole?: "all",\n})')


@pytest.mark.parametrize("reference", ["x#/$defs/Place", "#x/$defs/Place", "/$defs/Place"])
def test_parameters_when_a_reference_is_spelled_oddly_then_it_is_not_followed(reference: str) -> None:
    assert shown({"$ref": reference, "$defs": {"Place": PLACE}}) == "(_: {\n})"


def test_parameters_when_many_parts_are_joined_then_it_does_not_take_long() -> None:
    required = [f"a{at:x}" for at in range(2000)]
    members = [{"$ref": "#/$defs/r"}, {"allOf": [{"required": required}] * 3}] * 800
    started_s = time.thread_time()
    shown_parameters({"required": ["b"], "allOf": members, "$defs": {"r": {"required": required}}})
    assert time.thread_time() - started_s < 3.0


KEYWORDS = st.sampled_from(
    [
        "type",
        "properties",
        "required",
        "items",
        "anyOf",
        "oneOf",
        "allOf",
        "$ref",
        "enum",
        "const",
        "nullable",
        "description",
    ]
)
VALUES = st.recursive(
    st.sampled_from([None, True, 1, "#", "#/a", "object", "null", "array"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYWORDS, inner, max_size=4),
    max_leaves=12,
)


@given(st.dictionaries(KEYWORDS, VALUES, max_size=5))
def test_parameters_when_malformed_then_something_is_shown_all_the_same(schema: dict[str, Any]) -> None:
    assert shown_parameters(schema) == shown_parameters(schema)
