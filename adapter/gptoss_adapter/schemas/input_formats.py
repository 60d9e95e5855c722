"""What the input of a custom tool is, as chats and `/v1/responses` spell it.

Stage: 2 validate.
Owns: the shapes of a format.
Does not know: tools; what a format becomes (structured.py), whether it can be enforced.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from gptoss_adapter.schemas.fields import RequestModel


class FreeInput(RequestModel):
    """Any text."""

    type: Literal["text"]


class InputGrammar(RequestModel):
    """What a text is to follow."""

    syntax: Literal["lark", "regex"]
    """Lark as llguidance takes it, with a rule `start`."""
    definition: Annotated[str, Field(min_length=1)]


class NestedGrammar(RequestModel):
    """A text of a grammar, as chats say it."""

    type: Literal["grammar"]
    grammar: InputGrammar


class FlatGrammar(InputGrammar):
    """A text of a grammar, as `/v1/responses` says it."""

    type: Literal["grammar"]
