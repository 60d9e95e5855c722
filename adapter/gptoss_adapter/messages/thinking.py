"""What of a model's reasoning is told, and how it comes back.

Stage: 2 validate, and 7 SSE.
Owns: signatures: Anthropic's sign the thinking, ours sign nothing.
Does not know: blocks, effort.
"""

from __future__ import annotations

import base64
import binascii
from enum import Enum
from typing import Final

from gptoss_adapter.errors import InvalidRequestError

UNSIGNED: Final = "unsigned"
"""Of thinking that is told. Not empty, since some clients drop a block without a signature."""
_OMITTED: Final = "omitted:"


class Telling(Enum):
    """How much of the reasoning is told."""

    WHOLE = "whole"
    OMITTED = "omitted"
    """Blocks without text: their signature brings it back to the next call."""


def signature_of(thinking: str, telling: Telling) -> str:
    """Return what the block of this thinking ends with."""
    if telling is not Telling.OMITTED:
        return UNSIGNED
    return _OMITTED + base64.b64encode(thinking.encode()).decode()


def thinking_behind(text: str, signature: str | None, where: str) -> str:
    """Return the thinking of a block that came back. where: the block's place. Raises InvalidRequestError."""
    if text or not (signature or "").startswith(_OMITTED):
        return text
    try:
        return base64.b64decode((signature or "").removeprefix(_OMITTED), validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        param = f"{where}.signature"
        raise InvalidRequestError(f"'{param}' is not as this server gave it.", param=param) from None
