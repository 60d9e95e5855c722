"""A message as token ids: header, text, end.

Stage: 3 prompt.
Owns: which texts are tokenised with the markers in them as markers.
Does not know: what a header says, what a text is.

All text of a request is tokenised as ordinary text, so `<|end|>` typed by a user stays seven characters.
"""

from __future__ import annotations

from functools import lru_cache
from typing import Final

from gptoss_backend.harmony.runs import cut_long_runs
from gptoss_backend.harmony.vocabulary import END, MESSAGE, START, encoding

_HEADER_MARKERS: Final = frozenset({"<|channel|>", "<|constrain|>"})


def message_ids(header: str, text: str, *, end: int = END) -> list[int]:
    """Return a whole message. header: our own words and checked names; end: the special token behind the text."""
    return [START, *header_ids(header), MESSAGE, *text_ids(text), end]


@lru_cache(maxsize=1024)
def header_ids(text: str) -> tuple[int, ...]:
    """Tokenise our own words and checked names, the markers among them as markers."""
    return tuple(encoding().encode(text, allowed_special=_HEADER_MARKERS, disallowed_special=()))


def text_ids(text: str) -> list[int]:
    """Tokenise text that is not ours: nothing in it becomes a special token."""
    ids: list[int] = []
    for part in cut_long_runs(text):
        ids += encoding().encode(part, disallowed_special=())
    return ids
