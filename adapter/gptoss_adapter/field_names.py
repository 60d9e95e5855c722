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
_TOOL: Final = re.compile(r"^tools\[(\d+)\]")


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
        _rename(error, next((field for chats, field in ours.items() if named.startswith(chats)), as_tool))
        raise


@contextmanager
def naming_tools(places: Sequence[str]) -> Iterator[None]:
    """Make a refusal that names a tool by its place among those that the model is told of name it by one of `places`.

    What it names of the tool's fields stays.
    """
    try:
        yield
    except InvalidRequestError as error:
        _rename(error, _TOOL.sub(lambda found: _place(int(found[1]), places), error.param or ""))
        raise


def _rename(error: InvalidRequestError, name: str) -> None:
    named = error.param or ""
    if name != named:
        error.param = name
        error.message = error.message.replace(f"{named}:", f"{name}:", 1)


def _place(position: int, tools: Sequence[str]) -> str:
    return tools[position] if position < len(tools) else f"tools[{position}]"
