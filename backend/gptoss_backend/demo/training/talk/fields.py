"""Made-up fields with values: parameters of tools, properties of JSON, results."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Final

from gptoss_backend.demo.training.words import Words

_STRINGS: Final = (
    "city",
    "name",
    "title",
    "country",
    "color",
    "subject",
    "language",
    "author",
    "street",
    "product",
    "category",
    "topic",
    "user",
    "place",
    "location",
)
_NUMBERS: Final = (
    "count",
    "age",
    "amount",
    "price",
    "year",
    "size",
    "quantity",
    "limit",
    "days",
    "hours",
    "level",
    "number",
    "pages",
    "seats",
    "distance",
)
_FLAGS: Final = ("urgent", "active", "open", "public", "ready", "enabled", "dark", "loud", "new", "free")
_CHOICES: Final[tuple[tuple[str, tuple[str, ...]], ...]] = (
    ("unit", ("celsius", "fahrenheit")),
    ("size", ("small", "medium", "large")),
    ("mode", ("fast", "slow")),
    ("priority", ("low", "high")),
    ("format", ("short", "long")),
)


@dataclass(frozen=True, slots=True)
class Field:
    """A named value, its JSON schema, and how a person says it."""

    name: str
    schema: dict[str, Any]
    value: Any

    @property
    def spoken_name(self) -> str:
        """The name as words."""
        return self.name.replace("_", " ")

    @property
    def spoken_value(self) -> str:
        """The value as somebody writes it."""
        if isinstance(self.value, bool):
            return "true" if self.value else "false"
        return str(self.value)


def draw_fields(words: Words, least: int, most: int) -> list[Field]:
    """Return so many fields with different names."""
    fields: dict[str, Field] = {}
    count = words.rng.randint(least, most)
    while len(fields) < count:
        field = _draw(words)
        fields.setdefault(field.name, field)
    return list(fields.values())


def again(words: Words, fields: list[Field]) -> list[Field]:
    """Return the same fields with other values."""
    return [replace(field, value=_value(words, field.schema)) for field in fields]


def _draw(words: Words) -> Field:
    rng = words.rng
    kind = rng.choice(("string",) * 5 + ("integer",) * 3 + ("boolean", "enum"))
    schema: dict[str, Any] = {"type": kind}
    if kind == "string":
        name = _name(words, _STRINGS)
    elif kind == "integer":
        name, schema["type"] = _name(words, _NUMBERS), rng.choice(("integer", "integer", "number"))
    elif kind == "boolean":
        name = _name(words, _FLAGS)
    else:
        name, choices = rng.choice(_CHOICES)
        if rng.random() < 0.5:
            name, choices = words.word(), tuple({words.word(): None, words.word(): None, words.word(): None})
        schema = {"type": "string", "enum": list(choices)}
    return Field(name, schema, _value(words, schema))


def _value(words: Words, schema: dict[str, Any]) -> object:
    rng = words.rng
    if "enum" in schema:
        return rng.choice(schema["enum"])
    if schema["type"] == "boolean":
        return rng.random() < 0.5
    if schema["type"] != "string":
        return words.number()
    value = words.name() if rng.random() < 0.7 else words.word()
    return f"{value} {words.name()}" if rng.random() < 0.2 else value


def _name(words: Words, usual: tuple[str, ...]) -> str:
    rng = words.rng
    name = rng.choice(usual) if rng.random() < 0.5 else words.word()
    return f"{words.word()}_{name}" if rng.random() < 0.1 else name


def say_fields(words: Words, fields: list[Field]) -> str:
    """Return a list of names and values, as in "city Paris and days 3"."""
    link = words.rng.choice((" {}", " {}", ": {}", " = {}", " is {}", " {}"))
    said = [f"{field.spoken_name}{link.format(field.spoken_value)}" for field in fields]
    if len(said) == 1:
        return said[0]
    return ", ".join(said[:-1]) + words.rng.choice((" and ", ", ", " and ")) + said[-1]
