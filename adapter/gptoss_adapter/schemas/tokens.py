"""The requests of POST /tokenize and POST /detokenize, in vLLM's shape.

Stage: 2 validate.
Owns: their fields, their types and bounds.
Does not know: the vocabulary.
"""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import Discriminator, Field, Tag

from gptoss_adapter.schemas.chat import PromptFields
from gptoss_adapter.schemas.fields import RequestModel
from gptoss_adapter.schemas.sampling import TokenIds

_MOST_TOKENS: Final = 2**20
"""Eight times the longest context."""


class _TokenizeFields(RequestModel):
    model: str | None = None
    return_token_strs: bool | None = None
    """Tell each token's text, too."""


class TokenizeTextRequest(_TokenizeFields):
    """Text to be tokenised as `/v1/completions` would."""

    prompt: str
    add_special_tokens: bool | None = None
    """Harmless: this tokenizer adds none."""


class TokenizeChatRequest(_TokenizeFields, PromptFields):
    """A chat to be rendered as `/v1/chat/completions` would."""


def _kind(value: object) -> str:
    return "chat" if isinstance(value, dict) and "messages" in value else "text"


TokenizeRequest = Annotated[
    Annotated[TokenizeTextRequest, Tag("text")] | Annotated[TokenizeChatRequest, Tag("chat")], Discriminator(_kind)
]


class DetokenizeRequest(RequestModel):
    """Token ids to be read as text."""

    model: str | None = None
    tokens: Annotated[TokenIds, Field(max_length=_MOST_TOKENS)]
