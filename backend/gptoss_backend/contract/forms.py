"""What a text must be: JSON of a schema, or a text of another form.

Stage: 2 validate → 5 step, where a grammar holds to it.
Owns: what a schema and a form say, and how long they may be.
Does not know: whose text it is (structure.py, tools.py), grammars.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Annotated, Any, Final

from pydantic import Field

from gptoss_backend.contract.documents import STRICT

MAX_SCHEMA_BYTES: Final = 128 * 1024
"""The longest JSON schema, or text form, that an answer can be held to."""


class TextFormKind(StrEnum):
    """How a text that need not be JSON is described."""

    REGEX = "regex"
    """By a regular expression, of the whole text, without look-around and word boundaries."""
    CHOICE = "choice"
    """As one of several strings."""
    GRAMMAR = "grammar"
    """By a grammar with a rule `start`, in Lark as llguidance takes it."""


@dataclass(frozen=True, slots=True)
class TextForm:
    """What a text must be, where that is not JSON: the final one, or what a custom tool takes."""

    __pydantic_config__ = STRICT
    kind: TextFormKind
    texts: Annotated[tuple[Annotated[str, Field(min_length=1)], ...], Field(min_length=1)]
    """The choices; else one."""
    where: str = "structured_outputs"
    """The request's field, as a sentence about it begins."""


@dataclass(frozen=True, slots=True)
class ResponseFormat:
    """What the final text must be: JSON, of a schema where there is one."""

    __pydantic_config__ = STRICT
    schema: dict[str, Any] | None = None
    """A JSON schema; None: any JSON object."""
    name: str = "response"
    description: str | None = None
    strict: bool = False
    """As of a FunctionTool."""
    where: str = "response_format.json_schema.schema"
    """The request's field, as a sentence about it begins."""
