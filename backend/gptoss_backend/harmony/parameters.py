"""A function's JSON schema → the part of JSON schema that oss-harmony writes as TypeScript.

Stage: 3 prompt.
Owns: what becomes of `$ref`, `anyOf`, `allOf`, `const`, null, lists of types, maps and values that are no strings.
Does not know: tokens, what a grammar holds the arguments to.

oss-harmony renders nested objects, `oneOf`, enums of strings and `nullable`; the rest it shows as `any`. Equal schemas
give equal results. A reference is followed until it comes back to itself, or MAX_DEPTH or MAX_NODES is reached: there
only its own type, values and description are shown.
"""

from __future__ import annotations

import json
from typing import Any, Final

from gptoss_backend.harmony.references import local_reference

MAX_DEPTH: Final = 16
"""Beyond it no reference is followed, and no null added beside others: the library reads 128 levels of JSON."""
MAX_NODES: Final = 1000
MAX_SAID: Final = 500
"""Characters of a keyword that is kept of a reference which is not followed: there may be thousands of them."""
_SAID: Final = ("type", "enum", "const", "nullable", "description")
_ANY_KEY: Final = "[key: string]"
"""As a field's name it is TypeScript's own word for a map."""
_NULL: Final = {"type": "null"}
_NULL_SHOWN: Final = {"type": ["null"]}
"""Of a lone `"null"` the library makes `any`."""


def shown_parameters(schema: dict[str, Any]) -> dict[str, Any]:
    """Return the schema to render, an object's."""
    return {"type": "object", **_Reader(schema).read({**schema, "type": "object"}), "nullable": False}


class _Reader:
    def __init__(self, root: dict[str, Any]) -> None:
        self._root = root
        self._num_nodes = 0
        self._said: dict[str, dict[str, Any]] = {}

    def read(self, node: Any, followed: tuple[str, ...] = (), depth: int = 0) -> dict[str, Any]:  # noqa: ANN401 (JSON)
        """Return one node as the library shows it best."""
        if not isinstance(node, dict):
            return {}
        part, followed = self._merged(node, followed, depth)
        part = _without_null(part)
        part = self._with_branches(part, followed, depth)
        part = _with_values(part)
        part = self._with_children(part, followed, depth)
        # arguments themselves, at depth 0, are never null
        is_lost = 0 < depth <= MAX_DEPTH and part.get("nullable") is True and _hides_null(part)
        return _beside_null(part) if is_lost else part

    def _merged(
        self, node: dict[str, Any], followed: tuple[str, ...], depth: int
    ) -> tuple[dict[str, Any], tuple[str, ...]]:
        """Follow `$ref` and join `allOf`; what stands beside them counts first."""
        part = dict(node)
        self._num_nodes += 1
        while isinstance(reference := part.pop("$ref", None), str):
            target = local_reference(self._root, reference)
            if not isinstance(target, dict):
                return part, followed
            # one way to write each: a name is followed once, not once for each spelling of what comes before it
            if reference in followed or depth > MAX_DEPTH or self._num_nodes > MAX_NODES:
                return {**self._said_of(reference, target), **part}, followed
            followed = (*followed, reference)
            self._num_nodes += 1
            part = _joined(part, target)
        members = part.pop("allOf", None)
        for member in members if isinstance(members, list) else ():
            if isinstance(member, dict) and self._num_nodes <= MAX_NODES:
                more, followed = self._merged(member, followed, depth + 1)
                part = _joined(part, more)
        return part, followed

    def _said_of(self, reference: str, target: dict[str, Any]) -> dict[str, Any]:
        """Return what a reference's target says of itself in few words, for where it is not followed."""
        if reference not in self._said:
            self._said[reference] = {
                key: target[key] for key in _SAID if key in target and len(json.dumps(target[key])) <= MAX_SAID
            }
        return self._said[reference]

    def _with_branches(self, part: dict[str, Any], followed: tuple[str, ...], depth: int) -> dict[str, Any]:
        """Make one `oneOf` of all alternatives; null among them is said of the last, or of the only one."""
        given = part.pop("anyOf", None) or part.pop("oneOf", None)
        part.pop("oneOf", None)
        if not isinstance(given, list) or part.get("properties"):
            return part  # the library would show the alternatives in place of the fields
        branches = [self.read(branch, followed, depth + 1) for branch in given if branch != _NULL]
        nullable = part.pop("nullable", False) is True or len(branches) < len(given)
        if len(branches) > 1:
            if nullable and _hides_null(branches[-1]):
                branches.append(_NULL_SHOWN)
            else:
                branches[-1] = {**branches[-1], "nullable": nullable or branches[-1].get("nullable") is True}
            return {**{key: value for key, value in part.items() if key != "type"}, "oneOf": branches}
        if given and not branches:
            return {**part, **_NULL_SHOWN}
        joined = _joined({key: value for key, value in part.items() if key != "type"}, *branches)
        return {**joined, "nullable": True} if nullable else joined

    def _with_children(self, part: dict[str, Any], followed: tuple[str, ...], depth: int) -> dict[str, Any]:
        fields = part.get("properties")
        if isinstance(fields, dict) and _ANY_KEY not in fields:
            part["properties"] = {name: self.read(field, followed, depth + 1) for name, field in fields.items()}
        values = part.get("additionalProperties")
        if part.get("type") == "object" and (values is True or isinstance(values, dict)):
            value = self.read(values, followed, depth + 1)
            required = part.get("required")
            part["properties"] = {**(part["properties"] if isinstance(fields, dict) else {}), _ANY_KEY: value}
            part["required"] = [*(required if isinstance(required, list) else ()), _ANY_KEY]
            del part["additionalProperties"]
        if isinstance(part.get("items"), dict):
            part["items"] = _as_item(self.read(part["items"], followed, depth + 1))
        return part


def _joined(first: dict[str, Any], *others: dict[str, Any]) -> dict[str, Any]:
    joined = dict(first)
    for other in others:
        fields, required = joined.get("properties"), joined.get("required")
        joined = {**other, **joined}
        if isinstance(fields, dict) and isinstance(other.get("properties"), dict):
            joined["properties"] = {**other["properties"], **fields}
        if isinstance(required, list) and isinstance(other.get("required"), list):
            joined["required"] = _distinct([*required, *other["required"]])
    return joined


def _distinct(names: list[Any]) -> list[Any]:
    """Return the names once each. What is none stays out: the library shows only names."""
    return list(dict.fromkeys(name for name in names if isinstance(name, str)))


def _without_null(part: dict[str, Any]) -> dict[str, Any]:
    """Return the part with `nullable` in place of the type null; several types with fields become alternatives."""
    kinds = part.get("type")
    if kinds == "null":
        return {**part, **_NULL_SHOWN}
    if not isinstance(kinds, list) or kinds == ["null"]:
        return part
    others = [kind for kind in kinds if isinstance(kind, str) and kind != "null"]
    if len(others) > 1 and not {"object", "array"} & set(others):
        return part  # shown as it is
    rest = {key: value for key, value in part.items() if key != "type"}
    if len(others) > 1:
        shape = {
            key: rest.pop(key) for key in ("properties", "required", "additionalProperties", "items") if key in rest
        }
        rest["oneOf"] = [{"type": kind, **(shape if kind in ("object", "array") else {})} for kind in others]
    else:
        rest["type"] = others[0] if others else "null"
    return {**rest, "nullable": True} if len(others) < len(kinds) else rest


def _as_item(item: dict[str, Any]) -> dict[str, Any]:
    """Return what a list holds with null among its types or alternatives: the library shows no `nullable` there."""
    kinds = item.get("type")
    if item.get("nullable") is not True or kinds is None:
        return item
    if kinds in ("object", "array") or "enum" in item:
        return _beside_null(item)
    return {**item, "type": _distinct([*(kinds if isinstance(kinds, list) else [kinds]), "null"])}


def _hides_null(part: dict[str, Any]) -> bool:
    """Say whether the library would not show the part's `nullable`: it does so only where no "null" is in its type."""
    of_object = ("properties", "description") if part.get("type") == "object" else ()
    shown = json.dumps({key: part.get(key, "") for key in ("items", "enum", *of_object)})
    return "null" in shown.replace('"nullable": false', "")


def _beside_null(part: dict[str, Any]) -> dict[str, Any]:
    """Return the part as one of two alternatives, the other being null."""
    of_field: dict[str, Any] = {key: part[key] for key in ("title", "examples") if key in part}
    rest = {key: value for key, value in part.items() if key != "nullable" and key not in of_field}
    return {**of_field, "oneOf": [rest, _NULL_SHOWN]}


def _with_values(part: dict[str, Any]) -> dict[str, Any]:
    """Return the part with the type its values have; those that are no strings are told in the description."""
    if "const" in part:
        part = {**part, "enum": [part["const"]]}
    values = part.get("enum")
    if not isinstance(values, list) or not values:
        if "type" not in part and "oneOf" not in part:
            kind = "object" if "properties" in part else "array" if "items" in part else None
            return {**part, "type": kind} if kind else part
        return part
    told = [value for value in values if value is not None]
    if not told:
        return {**{key: value for key, value in part.items() if key != "enum"}, **_NULL_SHOWN}
    nullable = {"nullable": True} if len(told) < len(values) else {}
    if all(isinstance(value, str) for value in told):
        return {**part, "type": "string", "enum": told, **nullable}
    kinds = {"boolean" if isinstance(value, bool) else type(value).__name__ for value in told}
    kind = "boolean" if kinds == {"boolean"} else "number" if kinds <= {"int", "float"} else None
    note = f"One of: {', '.join(json.dumps(value, ensure_ascii=False) for value in told)}."
    rest = {key: value for key, value in part.items() if key != "enum"}
    said = f"{rest['description']} {note}" if rest.get("description") else note
    return {**({"type": kind} if kind else {}), **rest, "description": said, **nullable}
