"""Building blocks of the request schemas.

Stage: 2 validate.
Owns: how strictly a body is read, and how a field that is known but not honoured is refused.
Does not know: any particular field.
"""

from __future__ import annotations

from typing import Annotated, Any, Final, TypeAlias, TypeVar

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    GetCoreSchemaHandler,
    GetJsonSchemaHandler,
    model_validator,
)
from pydantic_core import CoreSchema, PydanticCustomError, core_schema, to_json

from gptoss_backend.settings import MAX_ENTRIES

UNSUPPORTED: Final = "unsupported_parameter"
"""The pydantic error type of a field that is known but not honoured."""
TOO_MANY_FIELDS: Final = "too_many_fields"
"""The pydantic error type of an object that has more fields than any here."""

_MOST_FIELDS: Final = 256
_Entry = TypeVar("_Entry")

ItemId = Annotated[str, Field(min_length=1, max_length=256)]
"""What an item of a conversation is known by."""
Harmless: TypeAlias = Annotated[object, BeforeValidator(lambda value: None)]
"""A field that changes no answer: what it holds is dropped unread, for megabytes of JSON cost seconds to look at."""


def at_most(count: int) -> BeforeValidator:
    """Refuse an object or a list with more entries before any is looked at: `max_length` counts once all have been."""
    return BeforeValidator(lambda value: _counted(value, count, "too_long"))


def _counted(value: object, count: int, error: str) -> object:
    if isinstance(value, dict | list) and len(value) > count:
        kind = "object" if isinstance(value, dict) else "list"
        raise PydanticCustomError(error, "{kind} should have at most {count} entries", {"kind": kind, "count": count})
    return value


# pydantic makes a report of half a kilobyte and more of each fault: of a long list the first one is enough
ListOf: TypeAlias = Annotated[list[_Entry], Field(fail_fast=True), at_most(MAX_ENTRIES)]
"""A list that is read up to its first fault."""


Labels = Annotated[
    dict[Annotated[str, Field(max_length=64)], Annotated[str, Field(max_length=512)]],
    Field(max_length=16),
    at_most(16),
]
"""A client's own notes on a request, as many as OpenAI takes."""


class RequestModel(BaseModel):
    """A JSON object a client sends: types are not coerced, unknown fields are refused."""

    # an item is told again under the names it came under
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True, allow_inf_nan=False, serialize_by_alias=True)

    @model_validator(mode="before")
    @classmethod
    def _check_size(cls, value: object) -> object:
        return _counted(value, _MOST_FIELDS, TOO_MANY_FIELDS)


class AnswerModel(BaseModel):
    """A JSON object this server sends. Fields never set are left out of the JSON."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def json_bytes(self) -> bytes:
        """Return the object as compact JSON."""
        return self.model_dump_json(exclude_unset=True).encode()


class NotHonoured:
    """Marks a field of OpenAI's API that is not honoured: null and `neutral` values, which ask for nothing, pass.

    Anything else is refused by name, so that nothing a client asks for is silently ignored.
    """

    def __init__(self, *neutral: object, instead: str | None = None) -> None:
        """instead: what to do about it."""
        self._neutral = neutral
        self._instead = f"; {instead}" if instead else ""

    def __get_pydantic_core_schema__(self, source: object, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Return a schema that takes the neutral values only."""
        return core_schema.no_info_plain_validator_function(self._check)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        """Return the neutral values as a JSON schema."""
        return {"enum": [None, *self._neutral], "description": "Not honoured: only these values are taken."}

    def _check(self, value: object) -> object:
        # True == 1 in Python, not in JSON
        if value is None or any(
            value == one and isinstance(value, bool) is isinstance(one, bool) for one in self._neutral
        ):
            return value
        choices = "".join(f" or send {to_json(one).decode()}" for one in self._neutral)
        raise PydanticCustomError(
            UNSUPPORTED,
            "this server does not honour it{instead}; leave it out{choices}",
            {"instead": self._instead, "choices": choices},
        )


AllowedCallers = Annotated[object, NotHonoured(["direct"])]
"""Who may call a tool. Here it is always the model itself, never a program that it wrote."""


def of_types(*taken: str, unseen: tuple[str, ...] = ()) -> BeforeValidator:
    """Refuse a part of content of another type in one sentence: what else it holds is no fault of its own.

    unseen: types that are taken, too, and of which the model sees nothing.
    """
    return BeforeValidator(lambda part: _of_types(part, taken, unseen))


def _of_types(part: object, taken: tuple[str, ...], unseen: tuple[str, ...]) -> object:
    kind = part.get("type") if isinstance(part, dict) else None
    if isinstance(kind, str) and kind not in (*taken, *unseen):
        other = {"text": "input_text", "input_text": "text", "output_text": "text"}.get(kind)
        if other in taken:  # as the other of OpenAI's APIs calls it
            raise PydanticCustomError(
                "only_text", "a part of text is called '{taken}' here, not '{kind}'", {"kind": kind, "taken": other}
            )
        raise PydanticCustomError(
            "only_text",
            "this model takes text only, but this part is of type '{kind}'; send parts of type {taken}",
            {"kind": kind, "taken": " or ".join(f"'{one}'" for one in taken)},
        )
    return part


def type_of(value: object, missing: str | None = None) -> str | None:
    """Return what an object says of its type, be it JSON or read already. missing: where JSON says nothing."""
    kind = value.get("type", missing) if isinstance(value, dict) else getattr(value, "type", None)
    return kind if isinstance(kind, str) else None


def content_kind(value: object) -> str | None:
    """Return the tag of a message's content: text or parts. None: neither."""
    if isinstance(value, str):
        return "text"
    return "parts" if isinstance(value, list) else None


def choice_kind(value: object) -> str | None:
    """Return the tag of a tool choice: a mode in one word, or the type of an object. None: neither."""
    if isinstance(value, str):
        return "mode"
    kind = type_of(value)
    return kind if kind in ("function", "custom", "allowed_tools") else None
