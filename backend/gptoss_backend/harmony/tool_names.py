"""The names of tools, which land in headers, where white space would be structure.

Stage: 2 validate → 3 prompt.
Owns: what a name may hold: OpenAI's alphabet.
Does not know: tools.
"""

from __future__ import annotations

import re
from typing import Final

from gptoss_backend.harmony.errors import PromptError

TOOL_NAME: Final = re.compile(r"[a-zA-Z0-9_.-]{1,128}")


def checked_name(name: str, where: str) -> str:
    """Return the name. Raises PromptError, naming the part of the request where it stands."""
    if not TOOL_NAME.fullmatch(name):
        raise PromptError(
            f"{where}: {name!r} is no tool name: use 1 to 128 of the characters a-z, A-Z, 0-9, '_', '-' and '.'."
        )
    return name
