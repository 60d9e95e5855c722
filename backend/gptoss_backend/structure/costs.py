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
from functools import reduce
from typing import Any, Final

from gptoss_backend.harmony.references import local_reference
from gptoss_backend.structure.joined_fields import JoinedFields, TooManyJoined
from gptoss_backend.structure.reduction import (
    ANY_ITEM,
    ANY_NAME,
    HINTS,
    MAX_PATTERN_REPEATS,
    children,
    listed,
    num_repeats,
    parts,
    patterns,
)

MAX_PROPERTIES: Final = 500
"""Of one object: while the next key is open, every optional one is a path to follow, 14 ms at 500."""
MAX_MULTIPLE: Final = 10_000
"""Of all `multipleOf` added up, and multiplied of one number: an automaton has a state for each remainder. 0.1 s at
10,000."""
MAX_PATTERN_NAMES: Final = 32
"""Of all `patternProperties`: each is compared with each. 0.03 s at 32; at 64 some took more than 12 s."""
MAX_JOINED_PATTERNS: Final = 8
"""That one string is to match. 6 s at 20."""
MAX_JOINED_WORK: Final = 8192
"""Alternatives that are multiplied out where parts are joined, times the fields of each: 256 of 16 take 0.3 s."""
MAX_DEPTH: Final = 1000
"""Objects within each other, of the schema and of each part that it refers to, added up. The library goes down them by
recursion: at 2,200 its stack overflowed, which ends the process."""

_BRANCHES: Final = ("anyOf", "oneOf")
_JOINED: Final = frozenset({"allOf", "$ref", *_BRANCHES})
_DEMANDS_NOTHING: Final = frozenset({"$defs", "definitions", "title", "description", "x-guidance", *HINTS})
_MAX_STEPS: Final = 100
_UNBOUNDED: Final = 1_000_000_000


def too_dear(document: dict[str, Any]) -> str | None:
    """Return what of a schema would take too long, or too much of a stack, None where nothing does."""
    num_names = 0
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
        num_names += len(part["patternProperties"]) if isinstance(part.get("patternProperties"), dict) else 0
        if num_names > MAX_PATTERN_NAMES:
            return f"the schema has more than {MAX_PATTERN_NAMES} patternProperties"
        joins.add(part)
    return joins.fault() or _fault_of_depth(document) or _fault_of_joined_objects(document)


def _fault_of_depth(document: dict[str, Any]) -> str | None:
    if _depth_with_references(document) > MAX_DEPTH:
        return f"the schema and what it refers to are nested more than {MAX_DEPTH} deep"
    return None


def _fault_of_joined_objects(document: dict[str, Any]) -> str | None:
    joined = JoinedFields(document)
    try:
        for part in filter(_is_joined, parts(document)):
            joined.add(part)
    except TooManyJoined:
        return "the schema joins objects by allOf, or beside a reference, that have too much in common"
    return None


def _depth_with_references(document: dict[str, Any]) -> int:
    """Return how deep a way through the schema may be at most: it goes through no part twice."""
    depths: dict[int, int] = {}
    _measure_depth(document, depths)
    targets = (local_reference(document, part.get("$ref")) for part in parts(document))
    referred = {id(target) for target in targets if isinstance(target, dict)} - {id(document)}
    return depths[id(document)] + sum(depths[target] for target in referred)


def _measure_depth(value: object, depths: dict[int, int]) -> int:
    """Return how many objects are within each other. depths: of each object by its id; they are added."""
    if isinstance(value, list):
        return max((_measure_depth(inner, depths) for inner in value), default=0)
    if not isinstance(value, dict):
        return 0
    depths[id(value)] = depth = 1 + max((_measure_depth(inner, depths) for inner in value.values()), default=0)
    return depth


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
    """Of a part and all that it is joined with: what is demanded of one value, not of what is within it."""

    num_ways: int = 1
    num_patterns: int = 0
    num_fields: int = 0
    multiple: int = 1

    def largest(self, other: _Extent) -> _Extent:
        return _Extent(
            max(self.num_ways, other.num_ways),
            max(self.num_patterns, other.num_patterns),
            max(self.num_fields, other.num_fields),
            max(self.multiple, other.multiple),
        )

    def joined(self, other: _Extent) -> _Extent:
        return _Extent(
            min(self.num_ways * other.num_ways, _UNBOUNDED),
            min(self.num_patterns + other.num_patterns, _UNBOUNDED),
            min(self.num_fields + other.num_fields, _UNBOUNDED),
            self._common(other),
        )

    def or_else(self, other: _Extent) -> _Extent:
        most = self.largest(other)
        num_ways = min(self.num_ways + other.num_ways, _UNBOUNDED)
        # while a number is written, it may still be any of the alternatives
        return _Extent(num_ways, most.num_patterns, most.num_fields, self._common(other))

    def _common(self, other: _Extent) -> int:
        return min(math.lcm(self.multiple, other.multiple), _UNBOUNDED)


@dataclass(frozen=True, slots=True)
class _Place:
    """What is demanded of a value, and by name of what is within it: names that meet are joined, too."""

    own: _Extent
    within: dict[str, _Extent]
    """By a property's name, `ANY_NAME` or `ANY_ITEM`: the most at any depth there."""
    met: frozenset[str] = frozenset()
    """Of these names, those that several joined parts speak of."""

    @property
    def most(self) -> _Extent:
        """At any depth."""
        return reduce(_Extent.largest, self.within.values(), self.own)

    def joined(self, other: _Place) -> _Place:
        within, met = dict[str, _Extent](), self.met | other.met
        for name in self.within.keys() | other.within.keys():
            here, there = self._at(name), other._at(name)
            within[name] = here.joined(there) if here and there else here or there or _Extent()
            if here and there:
                met |= {name}
        return _Place(self.own.joined(other.own), within, met)

    def or_else(self, other: _Place) -> _Place:
        within = dict(self.within)
        for name, there in other.within.items():
            here = within.get(name)
            within[name] = there if here is None else here.or_else(there)
        return _Place(self.own.or_else(other.own), within, self.met | other.met)

    def _at(self, name: str) -> _Extent | None:
        found = self.within.get(name)
        return self.within.get(ANY_NAME) if found is None and name != ANY_ITEM else found

    def joined_extents(self) -> list[_Extent]:
        """Return what is multiplied out here and within."""
        return [self.own, *(self.within[name] for name in self.met)]


class _Joins:
    """Parts that hold together: the library multiplies their alternatives out."""

    def __init__(self, document: dict[str, Any]) -> None:
        self._document = document
        self._known: dict[int, _Place] = {}
        common = reduce(_Extent.joined, (_multiple_of(part) for part in parts(document)), _Extent()).multiple
        self._beyond = _Place(_Extent(_UNBOUNDED, _UNBOUNDED, _UNBOUNDED, common), {})  # what is not looked at any more
        self._work = 0
        self._num_patterns = 0
        self._multiples: set[int] = set()

    def add(self, part: dict[str, Any]) -> None:
        """Take note of a part, and of what it joins."""
        place = self._place(part, 0)
        self._multiples |= {place.own.multiple, *(one.multiple for one in place.within.values())}
        if _is_joined(part):
            for extent in place.joined_extents():
                self._work += extent.num_ways * (1 + extent.num_fields) if extent.num_ways > 1 else 0
                self._num_patterns = max(self._num_patterns, extent.num_patterns)

    def fault(self) -> str | None:
        """Return what is too much."""
        if sum(self._multiples - {1}) > MAX_MULTIPLE:
            return f"the numbers of multipleOf have a sum or a common multiple beyond {MAX_MULTIPLE}"
        if self._work > MAX_JOINED_WORK:
            return "the schema joins too many alternatives by allOf, or beside anyOf"
        if self._num_patterns > MAX_JOINED_PATTERNS:
            return f"the schema demands more than {MAX_JOINED_PATTERNS} patterns of one string"
        return None

    def _place(self, part: object, num_steps: int) -> _Place:
        if not isinstance(part, dict):
            return _NOTHING
        if num_steps > _MAX_STEPS:
            return self._beyond
        if id(part) not in self._known:
            self._known[id(part)] = _NOTHING  # for what comes back to it
            self._known[id(part)] = self._measured(part, num_steps + 1)
        return self._known[id(part)]

    def _measured(self, part: dict[str, Any], num_steps: int) -> _Place:
        fields = part.get("properties")
        num_fields = len(fields) if isinstance(fields, dict) else 0
        own = _Extent(1, int("pattern" in part), num_fields, _digits(part.get("multipleOf")))
        here = _Place(own, self._within(part, num_steps))
        if "$ref" in part:
            here = here.joined(self._place(local_reference(self._document, part["$ref"]), num_steps))
        for member in listed(part, "allOf"):
            here = here.joined(self._place(member, num_steps))
        for key in _BRANCHES:
            if branches := [self._place(branch, num_steps) for branch in listed(part, key)]:
                here = here.joined(reduce(_Place.or_else, branches))
        return here

    def _within(self, part: dict[str, Any], num_steps: int) -> dict[str, _Extent]:
        """Return what is demanded of what is within a value of the part, by name."""
        within: dict[str, _Extent] = {}
        for name, child in children(part):
            most = self._place(child, num_steps).most
            within[name] = within[name].largest(most) if name in within else most
        return within


def _is_joined(part: dict[str, Any]) -> bool:
    """Say whether several parts hold together where this one does."""
    joining = part.keys() & _JOINED
    beside = part.keys() - _JOINED - _DEMANDS_NOTHING
    return bool(joining) and (bool(beside) or len(joining) > 1 or len(listed(part, "allOf")) > 1)


_NOTHING: Final = _Place(_Extent(), {})


def _multiple_of(part: dict[str, Any]) -> _Extent:
    return _Extent(multiple=_digits(part.get("multipleOf")))
