"""How dear a JSON schema's grammar would be, before the library begins to make one.

Stage: 3 prompt, before a schema is compiled.
Owns: bounds on what makes the library's work a product: multiples, patterns, alternatives that hold together.
Does not know: the library, which of a schema's readings is taken (schemas.py).

The library's own limits do not bound the making of a grammar: `{"multipleOf": 9999991}` took it 318 s and 5.6 GB. What
passes here takes less than a second.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from gptoss_backend.structure.reduction import MAX_PATTERN_REPEATS, local_reference, num_repeats, parts, patterns

MAX_PROPERTIES: Final = 500
"""Of one object: while the next key is open, every optional one is a path to follow, 14 ms at 500."""
MAX_MULTIPLE: Final = 10_000
"""Of all `multipleOf` together: an automaton has a state for each remainder. 0.1 s at 10,000."""
MAX_PATTERN_NAMES: Final = 32
"""Of all `patternProperties`: each is compared with each. 0.03 s at 32; at 64 some took more than 12 s."""
MAX_JOINED_PATTERNS: Final = 8
"""That one string is to match. 6 s at 20."""
MAX_JOINED_WORK: Final = 8192
"""Alternatives that are multiplied out where parts are joined, times the fields of each: 256 of 16 take 0.3 s."""

_BRANCHES: Final = ("anyOf", "oneOf")
_JOINED: Final = frozenset({"allOf", "$ref", *_BRANCHES})
_DEMANDS_NOTHING: Final = frozenset({"$defs", "definitions", "title", "description", "x-guidance"})
_MAX_STEPS: Final = 100
_UNBOUNDED: Final = 1_000_000_000


def too_dear(document: dict[str, Any]) -> str | None:
    """Return what of a schema would take too long, None where nothing does."""
    multiple, num_names = 1, 0
    joins, known = _Joins(document), {id(part) for part in parts(document)}
    for part in parts(document):
        target = local_reference(document, part.get("$ref"))
        if isinstance(target, dict) and id(target) not in known:
            return f"the reference {part['$ref'][:80]!r} leads to a value, not to a schema"
        for key in ("properties", "required"):
            if isinstance(part.get(key), (dict, list)) and len(part[key]) > MAX_PROPERTIES:
                return f"an object of the schema has more than {MAX_PROPERTIES} properties"
        for pattern in patterns(part):
            if num_repeats(pattern) > MAX_PATTERN_REPEATS:
                return f"the pattern {pattern[:80]!r} counts beyond {MAX_PATTERN_REPEATS}"
        multiple = min(math.lcm(multiple, _digits(part.get("multipleOf"))), _UNBOUNDED)
        if multiple > MAX_MULTIPLE:
            return f"the numbers of multipleOf have a common multiple beyond {MAX_MULTIPLE}"
        num_names += len(part["patternProperties"]) if isinstance(part.get("patternProperties"), dict) else 0
        if num_names > MAX_PATTERN_NAMES:
            return f"the schema has more than {MAX_PATTERN_NAMES} patternProperties"
        joins.add(part)
    return joins.fault()


def _digits(number: object) -> int:
    """Return a number without its point: 0.25 gives 25."""
    if isinstance(number, bool) or not isinstance(number, (int, float)) or number <= 0:
        return 1  # the library says what is wrong with it
    _, digits, exponent = Decimal(repr(number)).normalize().as_tuple()
    zeros = min(max(int(exponent), 0), 9)
    number_of_them = int("".join(map(str, digits[:10])))
    return max(1, min(number_of_them * int(10**zeros), _UNBOUNDED))


@dataclass(frozen=True, slots=True)
class _Extent:
    """Of a part and all that it is joined with, at the place within it where that is the most."""

    num_ways: int = 1
    num_patterns: int = 0
    num_fields: int = 0

    def largest(self, other: _Extent) -> _Extent:
        return _Extent(
            max(self.num_ways, other.num_ways),
            max(self.num_patterns, other.num_patterns),
            max(self.num_fields, other.num_fields),
        )

    def joined(self, other: _Extent) -> _Extent:
        return _Extent(
            min(self.num_ways * other.num_ways, _UNBOUNDED),
            min(self.num_patterns + other.num_patterns, _UNBOUNDED),
            min(self.num_fields + other.num_fields, _UNBOUNDED),
        )

    def or_else(self, other: _Extent) -> _Extent:
        most = self.largest(other)
        return _Extent(min(self.num_ways + other.num_ways, _UNBOUNDED), most.num_patterns, most.num_fields)


class _Joins:
    """Parts that hold together: the library multiplies their alternatives out."""

    def __init__(self, document: dict[str, Any]) -> None:
        self._document = document
        self._known: dict[int, _Extent] = {}
        self._work = 0
        self._num_patterns = 0

    def add(self, part: dict[str, Any]) -> None:
        """Take note of a part that joins others."""
        joining = part.keys() & _JOINED
        beside = part.keys() - _JOINED - _DEMANDS_NOTHING
        members = part.get("allOf")
        if joining and (beside or len(joining) > 1 or (isinstance(members, list) and len(members) > 1)):
            extent = self._extent(part, 0)
            self._work += extent.num_ways * (1 + extent.num_fields) if extent.num_ways > 1 else 0
            self._num_patterns = max(self._num_patterns, extent.num_patterns)

    def fault(self) -> str | None:
        """Return what is too much."""
        if self._work > MAX_JOINED_WORK:
            return "the schema joins too many alternatives by allOf, or beside anyOf"
        if self._num_patterns > MAX_JOINED_PATTERNS:
            return f"the schema demands more than {MAX_JOINED_PATTERNS} patterns of one string"
        return None

    def _extent(self, part: object, num_steps: int) -> _Extent:
        if not isinstance(part, dict):
            return _Extent()
        if num_steps > _MAX_STEPS:
            return _Extent(_UNBOUNDED, _UNBOUNDED, _UNBOUNDED)
        if id(part) not in self._known:
            self._known[id(part)] = _Extent()  # for what comes back to it
            self._known[id(part)] = self._measured(part, num_steps + 1)
        return self._known[id(part)]

    def _measured(self, part: dict[str, Any], num_steps: int) -> _Extent:
        fields = part.get("properties")
        here = _Extent(1, int("pattern" in part), len(fields) if isinstance(fields, dict) else 0)
        here = here.joined(self._extent(local_reference(self._document, part.get("$ref")), num_steps))
        for member in _listed(part, "allOf"):
            here = here.joined(self._extent(member, num_steps))
        for key in _BRANCHES:
            if branches := _listed(part, key):
                alternatives = _Extent(0)
                for branch in branches:
                    alternatives = alternatives.or_else(self._extent(branch, num_steps))
                here = here.joined(alternatives)
        for child in _children(part):
            here = here.largest(self._extent(child, num_steps))
        return here


def _listed(part: dict[str, Any], key: str) -> list[Any]:
    value = part.get(key)
    return value if isinstance(value, list) else []


def _children(part: dict[str, Any]) -> list[Any]:
    """Return the schemas of what is within a value of the part."""
    named = [part.get(key) for key in ("properties", "patternProperties")]
    children = [child for group in named if isinstance(group, dict) for child in group.values()]
    return [*children, part.get("additionalProperties"), part.get("items"), *_listed(part, "prefixItems")]
