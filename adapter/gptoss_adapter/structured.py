"""What a request holds its text to, in whichever of several words.

Stage: 2 validate → 3 prompt.
Owns: that a request asks for one form only, and which; the forms of custom tools' inputs.
Does not know: whether it can be enforced, grammars.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from pydantic import JsonValue
from pydantic_core import from_json

from gptoss_adapter.errors import invalid_value
from gptoss_adapter.limits import check_schemas
from gptoss_adapter.schemas.chat import JsonObjectFormat, JsonSchemaFormat, PromptFields, ResponseFormatField
from gptoss_adapter.schemas.completions import CompletionRequest
from gptoss_adapter.schemas.input_formats import InputGrammar
from gptoss_adapter.schemas.structured import StructuredFields
from gptoss_backend.contract import OutputStructure, ResponseFormat, TextForm, TextFormKind
from gptoss_backend.settings import AdapterSettings

_MOST_TEXT: Final = "The form '{param}' is {num_bytes} bytes; this server takes {most}."


Form = ResponseFormat | TextForm


def asked_form(body: PromptFields | CompletionRequest) -> Form | None:
    """Return what the text is held to, None where it is free. Raises InvalidRequestError where it is several forms."""
    return one_form(_openais(body.response_format), body, "response_format")


def one_form(openais: ResponseFormat | None, body: StructuredFields, field: str) -> Form | None:
    """Return the one form that a request asks for. openais: what its field of OpenAI's, `field`, asks for.

    Raises InvalidRequestError where there are several.
    """
    forms = [*([] if openais is None else [openais]), *_vllms(body)]
    if len(forms) > 1:
        first, second = (field if form is openais else form.where for form in forms[:2])
        raise invalid_value(f"'{second}' cannot be combined with '{first}': a text is held to one form.", second)
    if not forms and body.structured_outputs is not None:
        raise invalid_value(
            "'structured_outputs' needs one of 'json', 'regex', 'choice', 'grammar' and 'json_object'.",
            "structured_outputs",
        )
    return forms[0] if forms else None


def check_form(form: Form | None, limits: AdapterSettings) -> None:
    """Raise InvalidRequestError where the form is larger than this server takes."""
    if isinstance(form, ResponseFormat):
        check_schemas({form.where: form.schema}, limits)
    elif form is not None:
        check_text_form(form, limits)


def check_text_form(form: TextForm, limits: AdapterSettings) -> None:
    """Raise InvalidRequestError where the form is larger than this server takes."""
    num_bytes = sum(len(text.encode()) for text in form.texts)
    if num_bytes > limits.max_schema_bytes:
        told = _MOST_TEXT.format(param=form.where, num_bytes=num_bytes, most=limits.max_schema_bytes)
        raise invalid_value(told, form.where)


def input_form(grammar: InputGrammar | None, where: str) -> TextForm | None:
    """Return what a custom tool's input is held to, None where it is any text. where: the grammar's field."""
    if grammar is None:
        return None
    kind = TextFormKind.REGEX if grammar.syntax == "regex" else TextFormKind.GRAMMAR
    return TextForm(kind, (grammar.definition,), where)


def whole_text_structure(body: CompletionRequest) -> OutputStructure | None:
    """Return what holds a completion's text. Raises InvalidRequestError."""
    match asked_form(body):
        case ResponseFormat() as wanted:
            return OutputStructure(final=wanted, is_whole=True)
        case TextForm() as form:
            return OutputStructure(form=form, is_whole=True)
    return None


def _openais(field: ResponseFormatField | None) -> ResponseFormat | None:
    match field:
        case JsonObjectFormat(schema_=None):
            return ResponseFormat()
        case JsonObjectFormat(schema_=schema):
            return ResponseFormat(schema, where="response_format.schema")
        case JsonSchemaFormat(json_schema=asked):
            return ResponseFormat(asked.schema_, asked.name, asked.description, bool(asked.strict))
    return None


def _vllms(body: StructuredFields) -> Iterator[Form]:
    if (wanted := body.structured_outputs) is not None:
        yield from _json(wanted.json_, "structured_outputs.json")
        yield from _text(TextFormKind.REGEX, wanted.regex, "structured_outputs.regex")
        yield from _text(TextFormKind.CHOICE, wanted.choice, "structured_outputs.choice")
        yield from _text(TextFormKind.GRAMMAR, wanted.grammar, "structured_outputs.grammar")
        if wanted.json_object:
            yield ResponseFormat(where="structured_outputs.json_object")
    yield from _json(body.guided_json, "guided_json")
    yield from _text(TextFormKind.REGEX, body.guided_regex, "guided_regex")
    yield from _text(TextFormKind.CHOICE, body.guided_choice, "guided_choice")
    yield from _text(TextFormKind.GRAMMAR, body.guided_grammar, "guided_grammar")


def _text(kind: TextFormKind, asked: str | list[str] | None, where: str) -> Iterator[TextForm]:
    if asked is not None:
        yield TextForm(kind, (asked,) if isinstance(asked, str) else tuple(asked), where)


def _json(asked: JsonValue, where: str) -> Iterator[ResponseFormat]:
    if asked is None:
        return
    schema = asked
    if isinstance(asked, str):
        try:
            schema = from_json(asked, allow_inf_nan=False)
        except ValueError as error:
            raise invalid_value(f"'{where}' is not valid JSON: {error}.", where) from None
    if not isinstance(schema, dict):
        raise invalid_value(f"'{where}' should be a JSON schema: an object, or the text of one.", where)
    yield ResponseFormat(schema, where=where)
