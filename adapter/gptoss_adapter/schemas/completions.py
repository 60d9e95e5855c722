"""The request of POST /v1/completions.

Stage: 2 validate.
Owns: its fields, their types and bounds.
Does not know: the contract with Triton (prompting.py maps to it).
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Discriminator, Field, Tag

from gptoss_adapter.schemas.chat import ResponseFormatField
from gptoss_adapter.schemas.fields import ListOf, NotHonoured
from gptoss_adapter.schemas.raw_output import RawOutputFields
from gptoss_adapter.schemas.sampling import GenerationFields, ModelField, TokenIds
from gptoss_adapter.schemas.structured import StructuredFields

_Text = Annotated[str, Field(min_length=1)]
_Tokens = Annotated[TokenIds, Field(min_length=1)]


def _prompt_kind(value: object) -> str | None:
    if isinstance(value, str):
        return "text"
    if not isinstance(value, list):
        return None
    first = value[0] if value else ""
    if isinstance(first, list):
        return "several_tokens"
    return "texts" if isinstance(first, str) else "tokens"


Prompt = Annotated[
    Annotated[_Text, Tag("text")]
    | Annotated[ListOf[_Text], Field(min_length=1), Tag("texts")]
    | Annotated[_Tokens, Tag("tokens")]
    | Annotated[ListOf[_Tokens], Field(min_length=1), Tag("several_tokens")],
    Discriminator(
        _prompt_kind,
        custom_error_type="prompt_type",
        custom_error_message="Input should be a string, a list of strings, a list of token ids or a list of such lists",
    ),
]


class CompletionRequest(RawOutputFields, StructuredFields, GenerationFields, ModelField):
    """Raw text or token ids to continue. Text is taken as text: `<|end|>` in it is no special token."""

    prompt: Prompt
    max_tokens: Annotated[int, Field(ge=0, lt=2**31)] | None = None
    """0: only with `echo`, for the prompt alone."""
    response_format: ResponseFormatField | None = None
    """Of the whole text. The model is not told."""
    echo: bool | None = None
    skip_special_tokens: bool | None = None
    """false: special tokens stand in the text by name; else they leave none."""
    logprobs: Annotated[int, Field(ge=0, le=20)] | None = None
    best_of: Annotated[int, Field(ge=1)] | None = None
    """Taken only where it equals n, and so asks for nothing."""

    add_special_tokens: bool | None = None
    """Harmless: this tokenizer adds none."""
    cache_prompt: bool | None = None
    """Harmless, as in chats."""
    suffix: Annotated[object, NotHonoured("")] = None

    @property
    def prompts(self) -> list[str] | list[list[int]]:
        """`prompt` as a list: texts, or token ids."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        # which of the three lists it is shows in its first element
        return [self.prompt] if isinstance(self.prompt[0], int) else self.prompt
