"""One conversation, several APIs: what each calls the fields of a chat.

Stage: 2 validate and 3 prompt, around what refuses a chat.
Owns: how a refusal comes to name a field as its sender wrote it.
Does not know: any API.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Final

from gptoss_adapter.errors import InvalidRequestError

_CHAT_TOOL: Final = re.compile(r"^tools\[(\d+)\](?:\.function\b|\.custom\b)?(\.format)?(?:\.grammar\b)?")
"""A tool's place in a chat, whose fields lie one deeper than in other APIs, as those of a grammar do."""


@contextmanager
def naming_fields(ours: Mapping[str, str], tools: Sequence[str] = ()) -> Iterator[None]:
    """Make a refusal that names a chat's field name ours.

    ours: by a chat's field, whose index says nothing there. tools: where its tools lie, unless in the same places.
    """
    try:
        yield
    except InvalidRequestError as error:
        named = error.param or ""
        as_tool = _CHAT_TOOL.sub(lambda found: _place(int(found[1]), tools) + (found[2] or ""), named)
        name = next((field for chats, field in ours.items() if named.startswith(chats)), as_tool)
        if name != named:
            error.param = name
            error.message = error.message.replace(f"{named}:", f"{name}:", 1)
        raise


def _place(position: int, tools: Sequence[str]) -> str:
    return tools[position] if position < len(tools) else f"tools[{position}]"
