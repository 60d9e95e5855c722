"""How much there is to look at in a body: whoever reads it does so in one go, and all others wait meanwhile.

Stage: 2 validate.
Owns: the limits on what a body is made of, and the words of their refusals.
Does not know: what any of it is for; how long texts are (edge.py bounds the whole).
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final

from gptoss_adapter.errors import InvalidRequestError, invalid_value

_MAX_SIGNS: Final = 500_000
"""Brackets, braces and ends of names, which take up to 0.2 s to parse. Those within texts count, too, for nobody knows
of them before: JSON or code as long as the context has a seventh of that, 8 MiB of `[[]],` have 3.3 million."""
_MAX_PARTS: Final = 150_000
"""What takes 0.15 s to look at. 2,048 messages of five texts each have a fourth of that, so do 128 large tools."""
_PLAIN_ENTRIES: Final = 8
"""Numbers or texts of a list, which take as long as one object, list or field. A million tokens have to pass."""


def check_text(body: bytes) -> None:
    """Raise InvalidRequestError where the text would take too long to parse."""
    num = body.count(b"{") + body.count(b"[") + body.count(b'":')
    if num > _MAX_SIGNS:
        message = f"The request body has {num} opening brackets, braces and names; this server reads {_MAX_SIGNS}."
        raise InvalidRequestError(message, code="invalid_value")


def check_document(document: object) -> None:
    """Raise InvalidRequestError where what was parsed would take too long to look at. Names the largest field."""
    sizes: dict[str, int] = {}
    num_left = _MAX_PARTS
    for param, value in document.items() if isinstance(document, dict) else ():
        sizes[param] = 1 + _num_parts(value, num_left)
        num_left -= sizes[param]
        if num_left < 0:
            message = (
                f"The request body has more than {_MAX_PARTS} objects, lists and fields, of which each "
                f"{_PLAIN_ENTRIES} numbers or texts in a list are one; this server reads so many."
            )
            raise invalid_value(message, max(sizes, key=sizes.__getitem__))


def _num_parts(value: object, most: int) -> int:
    """Return how many objects, lists and fields there are. Where they are more than `most`, it need not be all."""
    num, unseen = 0, [value]
    entries: Collection[object]
    while unseen and num <= most:
        one = unseen.pop()
        if isinstance(one, dict):
            num += 1 + len(one)
            entries = one.values()
        elif isinstance(one, list):
            num += 1 + len(one) // _PLAIN_ENTRIES
            entries = one
        else:
            continue
        if num <= most:
            unseen += [entry for entry in entries if type(entry) in (dict, list)]
    return num
