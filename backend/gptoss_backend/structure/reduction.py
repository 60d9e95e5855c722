"""A JSON schema → the same, in words the grammar library knows; or with less, where it has to be.

Stage: 3 prompt, before a schema is checked.
Owns: rewrites that keep what a schema means, and those that give a part of it up.
Does not know: the library, which of a schema's readings is taken (schemas.py).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from graphlib import CycleError, TopologicalSorter
from typing import Any, Final

from gptoss_backend.harmony.references import local_reference

MAX_PATTERN_REPEATS: Final = 1000
"""Length of a pattern with its least counts written out. The library's time grows with its square: 0.3 ms a token at
1,000, 3 s at 100,000 (`((a{50}){50}){40}`)."""
HINTS: Final = frozenset({"discriminator"})
"""OpenAPI's: by which name to tell alternatives apart, each of which demands it anyway. The library takes it for one
demand more, and what refers to itself must have none beside the reference."""
PATTERNS: Final = frozenset({"pattern", "patternProperties"})
PROPERTY_COUNTS: Final = frozenset({"minProperties", "maxProperties"})
_COUNTS: Final = PROPERTY_COUNTS | {"minLength", "maxLength", "minItems", "maxItems"}
BOUNDS: Final = _COUNTS | {"format", "minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"}

ANY_NAME: Final = "\0*"
"""Of a property that another part names, too; no property is called so."""
ANY_ITEM: Final = "\0[]"
"""Of what a list holds, wherever."""

_NAMED_SCHEMAS: Final = frozenset(
    {"properties", "patternProperties", "$defs", "definitions", "dependentSchemas", "dependencies"}
)
_VALUES: Final = frozenset({"enum", "const", "default", "examples", "required", "dependentRequired"})
_NOTES: Final = frozenset(
    {
        *("title", "description", "$comment", "$schema", "deprecated", "readOnly", "writeOnly"),
        *("$id", "$anchor"),  # names by which a part could be referred to, past what local_reference() finds
    }
)
_EXAMPLES: Final = frozenset({"default", "example", "examples"})
_ELSEWHERE: Final = frozenset({"$ref", "anyOf", "oneOf", "allOf"})
_DEFINITIONS: Final[tuple[str, ...]] = ("$defs", "definitions")
_LOOKAROUND: Final = re.compile(r"\(\?(?:[=!]|<[=!])")
_PATTERN_PARTS: Final = re.compile(
    r"\\.|\[(?:\\.|[^\]\\])*\]|(?P<open>\()|(?P<close>\))|\{(?P<count>\d+)(?:,\d*)?\}|(?P<mark>[*+?|^$])|.", re.DOTALL
)


def plain(schema: Any) -> Any:  # noqa: ANN401 (JSON)
    """Return what a schema demands, without what it only says: equal demands then share a grammar.

    OpenAPI's `nullable` becomes the type null, a count of 1.0 becomes 1, `uniqueItems: false` asks for nothing.
    """
    return _rewritten(schema, _plain_part)


def without_unusable_patterns(schema: Any) -> Any:  # noqa: ANN401
    """Return the schema without the patterns that its grammar could not hold."""

    def drop(part: dict[str, Any]) -> dict[str, Any]:
        pattern = part.get("pattern")
        is_fine = not isinstance(pattern, str) or is_usable(pattern)
        return part if is_fine else {key: value for key, value in part.items() if key != "pattern"}

    return _rewritten(schema, drop)


def without(schema: Any, keywords: frozenset[str]) -> Any:  # noqa: ANN401
    """Return the schema without some of its keywords. It then allows all that it did, and more."""

    def drop(part: dict[str, Any]) -> dict[str, Any]:
        kept = {key: value for key, value in part.items() if key not in keywords}
        if "patternProperties" in part and "patternProperties" in keywords:
            kept.pop("additionalProperties", None)  # it speaks of the names that no pattern had
        return kept

    return _rewritten(schema, drop)


def parts(schema: object) -> Iterator[dict[str, Any]]:
    """Yield every object of a schema that is a schema itself, and not a value or a name's."""
    if isinstance(schema, list):
        for item in schema:
            yield from parts(item)
    if not isinstance(schema, dict):
        return
    yield schema
    for key, value in schema.items():
        if key in _NAMED_SCHEMAS and isinstance(value, dict):
            yield from parts(list(value.values()))
        elif key not in _VALUES:
            yield from parts(value)


def children(part: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Yield the schemas of what is within a value of the part, by name."""
    if isinstance(named := part.get("properties"), dict):
        yield from named.items()
    if isinstance(matched := part.get("patternProperties"), dict):
        yield from ((ANY_NAME, child) for child in matched.values())
    for key, name in (("additionalProperties", ANY_NAME), ("items", ANY_ITEM)):
        if isinstance(part.get(key), dict):
            yield name, part[key]
    yield from ((ANY_ITEM, child) for child in listed(part, "prefixItems"))


def listed(part: dict[str, Any], key: str) -> list[Any]:
    """Return the list that stands there, an empty one for anything else."""
    value = part.get(key)
    return value if isinstance(value, list) else []


def patterns(part: dict[str, Any]) -> Iterator[str]:
    """Yield the regular expressions of one part."""
    if isinstance(pattern := part.get("pattern"), str):
        yield pattern
    if isinstance(named := part.get("patternProperties"), dict):
        yield from named


def refers_to_itself(document: dict[str, Any]) -> bool:
    """Say whether a part is said to be itself, by `$ref` and `allOf` alone: no value is ever reached."""
    same: dict[int, list[int]] = {}
    for part in parts(document):
        alike = listed(part, "allOf")
        target = local_reference(document, part.get("$ref"))
        same[id(part)] = [id(other) for other in (*alike, target) if isinstance(other, dict)]
    try:
        TopologicalSorter(same).prepare()
    except CycleError:
        return True
    return False


def is_usable(pattern: str) -> bool:
    """Say whether a grammar can hold a regular expression, as far as that can be seen."""
    return not _LOOKAROUND.search(pattern) and num_repeats(pattern) <= MAX_PATTERN_REPEATS


def num_repeats(pattern: str) -> int:
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


def _rewritten(schema: Any, rewrite: Callable[[dict[str, Any]], dict[str, Any]]) -> Any:  # noqa: ANN401
    """Return the schema with each of its parts rewritten, the outer before what it holds."""
    if isinstance(schema, list):
        return [_rewritten(item, rewrite) for item in schema]
    if not isinstance(schema, dict):
        return schema
    kept: dict[str, Any] = {}
    for key, value in rewrite(schema).items():
        if key in _VALUES:
            kept[key] = value
        elif key in _NAMED_SCHEMAS and isinstance(value, dict):
            kept[key] = {name: _rewritten(inner, rewrite) for name, inner in value.items()}
        else:
            kept[key] = _rewritten(value, rewrite)
    return kept


def _plain_part(part: dict[str, Any]) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for key, value in part.items():
        is_note = (key in _NOTES and not isinstance(value, dict)) or key in _EXAMPLES or key.startswith("x-")
        if is_note or key == "nullable" or (key == "uniqueItems" and value is False):
            continue
        is_count = key in _COUNTS and isinstance(value, float) and value.is_integer()
        kept[key] = int(value) if is_count else value
    return _or_null(kept) if part.get("nullable") is True else kept


def _or_null(part: dict[str, Any]) -> dict[str, Any]:
    """Return the part with null allowed, too."""
    if part.keys() & _ELSEWHERE:
        outside = {key: part[key] for key in _DEFINITIONS if key in part}
        inside = {key: value for key, value in part.items() if key not in outside}
        return {"anyOf": [inside, {"type": "null"}], **outside}
    widened = dict(part)
    if "const" in widened:
        widened["enum"] = [widened.pop("const")]
    if isinstance(widened.get("enum"), list) and None not in widened["enum"]:
        widened["enum"] = [*widened["enum"], None]
    if isinstance(kind := widened.get("type"), (str, list)):
        kinds = [kind] if isinstance(kind, str) else kind
        widened["type"] = kinds if "null" in kinds else [*kinds, "null"]
    return widened
