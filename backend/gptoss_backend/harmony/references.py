"""A reference within a JSON schema → the part that it stands for.

Stage: 3 prompt.
Owns: how a reference's steps are read: as the grammar library does, so that what is shown, counted and enforced is one.
Does not know: what becomes of the part.
"""

from __future__ import annotations

import re
from typing import Final
from urllib.parse import unquote

_PLACE_IN_LIST: Final = re.compile(r"\+?0*(?P<number>[0-9]{1,9})")
"""The library takes a plus and zeros. No list is longer, and Python refuses to read thousands of digits."""


def local_reference(document: object, reference: object) -> object:
    """Return what a reference within the document stands for; None for another or a broken one."""
    if not isinstance(reference, str) or (reference != "#" and not reference.startswith("#/")):
        return None
    place = document
    for step in unquote(reference[1:]).split("/")[1:]:
        name = step.replace("~1", "/").replace("~0", "~")
        if isinstance(place, list):
            found = _PLACE_IN_LIST.fullmatch(name)
            at = int(found["number"]) if found else len(place)
            place = place[at] if at < len(place) else None
        else:
            place = place.get(name) if isinstance(place, dict) else None
    return place
