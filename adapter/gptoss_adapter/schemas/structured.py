"""The fields of chats, completions and responses that hold the text to a form: vLLM's, in its newer and older words.

Stage: 2 validate.
Owns: these fields, their types and bounds.
Does not know: what they become (structured.py), whether it can be enforced.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, JsonValue

from gptoss_adapter.schemas.fields import ListOf, NotHonoured, RequestModel

_Schema = Annotated[Any, Field(json_schema_extra={"anyOf": [{"type": "object"}, {"type": "string"}, {"type": "null"}]})]
"""A JSON schema, or its text; structured.py looks which."""
_Text = Annotated[str, Field(min_length=1)]
_Choices = Annotated[ListOf[_Text], Field(min_length=1, max_length=2000)]


class StructuredOutputs(RequestModel):
    """What the text is: exactly one of these."""

    json_: Annotated[_Schema, Field(alias="json")] = None
    regex: _Text | None = None
    choice: _Choices | None = None
    grammar: _Text | None = None
    """In Lark as llguidance takes it, with a rule `start`."""
    json_object: bool | None = None

    structural_tag: Annotated[object, NotHonoured()] = None
    whitespace_pattern: Annotated[object, NotHonoured()] = None
    disable_any_whitespace: Annotated[object, NotHonoured(False)] = None
    disable_additional_properties: Annotated[object, NotHonoured(False)] = None
    disable_fallback: JsonValue = None
    """Harmless: there is one library that makes grammars, and nothing behind it."""


class StructuredFields(RequestModel):
    """What a text is held to, beside `response_format` or `text.format`, of which there may be one in all."""

    structured_outputs: StructuredOutputs | None = None
    guided_json: _Schema = None
    guided_regex: _Text | None = None
    guided_choice: _Choices | None = None
    guided_grammar: _Text | None = None
    guided_decoding_backend: str | None = None
    """Harmless, as `disable_fallback`."""
    guided_whitespace_pattern: Annotated[object, NotHonoured()] = None
