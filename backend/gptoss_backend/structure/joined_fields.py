"""How many fields a schema's joined objects come to, once what they have in common is joined, too.

Stage: 3 prompt, before a schema is compiled.
Owns: the count, which is without end for parts that hold themselves.
Does not know: the library; which count is too much (costs.py).

Two parts that hold together, by `allOf` or beside a `$ref`, are one to the library: it joins the schemas of a name that
both have, and so on down, each time anew. Two trees of 31 objects, five branches to each of five levels, come to 8,000
fields, which take it 0.2 s; of a further level 4.5 s.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import product
from typing import Any, Final, TypeAlias

from gptoss_backend.harmony.references import local_reference
from gptoss_backend.structure.reduction import ANY_ITEM, ANY_NAME, children, listed

MOST: Final = 8192
"""What is counted to: 0.25 s of the library's time."""
_MOST_STEPS: Final = 8 * MOST
_MOST_DEPTH: Final = 64
"""Of joined fields within each other, and of parts that join others: below what Python's stack holds."""

_Parts: TypeAlias = tuple[dict[str, Any], ...]


class TooManyJoined(Exception):  # noqa: N818 (an answer, not a fault)
    """The count went beyond MOST, or would take too long."""


class JoinedFields:
    """Counts those of one document."""

    def __init__(self, document: dict[str, Any]) -> None:
        self._document = document
        self._known: dict[tuple[int, ...], int] = {}
        self._num_fields = 0
        self._num_steps = 0

    def add(self, part: dict[str, Any]) -> None:
        """Count a joined part's. Raises TooManyJoined."""
        self._num_fields += self._count((part,), 0)
        self._check(self._num_fields)

    def _count(self, together: _Parts, depth: int) -> int:
        key = tuple(map(id, together))
        if key not in self._known:
            self._known[key] = MOST + 1  # for what comes back to it: the library gives up on that
            self._known[key] = self._counted(together, depth)
        return self._known[key]

    def _counted(self, together: _Parts, depth: int) -> int:
        num_fields = 0
        for reading in product(*(self._readings(part, frozenset()) for part in together)):
            objects = [one for parts in reading for one in parts]
            for same in _by_name(objects) if len(objects) > 1 else ():
                num_fields += 1 + (self._count(same, depth + 1) if len(same) > 1 else 0)
            self._check(num_fields, depth)
        return num_fields

    def _readings(self, part: object, above: frozenset[int]) -> list[_Parts]:
        """Return what holds together where the part does, for each choice among its alternatives."""
        part = self._referred(part)
        if not isinstance(part, dict) or id(part) in above:
            return [()]
        above |= {id(part)}
        held = [self._readings(member, above) for member in listed(part, "allOf")]
        if "$ref" in part:
            held.append(self._readings(local_reference(self._document, part["$ref"]), above))
        for key in ("anyOf", "oneOf"):
            if branches := listed(part, key):
                held.append([reading for branch in branches for reading in self._readings(branch, above)])
        own: _Parts = (part,) if any(children(part)) else ()
        readings = list[_Parts]()
        for chosen in product(*held):
            readings.append(own + tuple(one for parts in chosen for one in parts))
            self._check(len(readings), len(above))
        return readings

    def _referred(self, part: object) -> object:
        """Return what a part stands for that only refers to another, which may refer on."""
        while isinstance(part, dict) and part.keys() == {"$ref"}:
            self._check(0)
            part = local_reference(self._document, part["$ref"])
        return part

    def _check(self, num: int, depth: int = 0) -> None:
        self._num_steps += 1
        if num > MOST or depth > _MOST_DEPTH or self._num_steps > _MOST_STEPS:
            raise TooManyJoined


def _by_name(objects: Sequence[dict[str, Any]]) -> Iterator[_Parts]:
    """Yield what is demanded together of each thing that the objects speak of."""
    spoken = [dict(children(one)) for one in objects]
    for name in dict.fromkeys(name for named in spoken for name in named):
        found = (named.get(name, named.get(ANY_NAME) if name != ANY_ITEM else None) for named in spoken)
        yield tuple(child for child in found if isinstance(child, dict))
