"""JSON by made-up schemas."""

from __future__ import annotations

from typing import Any, Final

from gptoss_backend.contract import ChatMessage, ResponseFormat
from gptoss_backend.demo.training.dialogue import Dialogue, assistant, json_text, user
from gptoss_backend.demo.training.talk.fields import Field, again, draw_fields, say_fields
from gptoss_backend.demo.training.talk.phrasing import thoughts
from gptoss_backend.demo.training.words import Words

_REQUESTS: Final = (
    "{}.",
    "Write JSON with {}.",
    "Make JSON: {}",
    "Please fill in {}.",
    "Give me JSON: {}",
    "{}",
    "Return an object with {}.",
    "It has {}.",
    "Here are the values: {}.",
    "The {}.",
)


def json_by_schema(words: Words) -> Dialogue:
    """Return values to be put into JSON."""
    fields = draw_fields(words, 1, 4)
    wanted = _format(words, fields)
    turns: list[ChatMessage] = []
    for _ in range(words.num_earlier((0, 0, 1, 2), learned=(0, 1, 1, 2, 3))):
        earlier = again(words, fields)
        turns += [user(_request(words, earlier)), assistant(_object(earlier))]
    turns.append(user(_request(words, fields)))
    thinking = thoughts("JSON", f"The fields are {' and '.join(field.name for field in fields)}.", "I copy each value.")
    return Dialogue(tuple(turns), thinking, _object(fields), response_format=wanted)


def _request(words: Words, fields: list[Field]) -> str:
    text = words.rng.choice(_REQUESTS).format(say_fields(words, fields))
    return text[0].upper() + text[1:] if words.rng.random() < 0.3 else text


def _object(fields: list[Field]) -> str:
    return json_text({field.name: field.value for field in fields})


def _format(words: Words, fields: list[Field]) -> ResponseFormat:
    rng = words.rng
    name = rng.choice(("response", "answer", "result", words.word()))
    if rng.random() < 0.1:
        return ResponseFormat(None, name)
    names = [field.name for field in fields]
    properties: dict[str, Any] = {field.name: field.schema for field in fields}
    if rng.random() < 0.3:  # as pydantic writes it
        titled = {n: {"title": n.replace("_", " ").title(), **schema} for n, schema in properties.items()}
        return ResponseFormat({"properties": titled, "required": names, "title": words.name(), "type": "object"}, name)
    schema: dict[str, Any] = {"type": "object", "properties": properties, "required": names}
    if rng.random() < 0.5:
        schema["additionalProperties"] = False
    return ResponseFormat(schema, name)
