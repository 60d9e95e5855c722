"""What the server tells of its models: which there are, and what their tokenizer makes of a text.

Stage: the whole answers of routes that generate nothing.
Owns: the shapes of answers.
Does not know: where the values come from.
"""

from __future__ import annotations

from datetime import datetime
from typing import Literal

from gptoss_adapter.schemas.fields import AnswerModel


class Tokens(AnswerModel):
    """A text's or a chat's tokens."""

    count: int
    max_model_len: int | None
    """The longest prompt plus answer that the model takes now; null while its engine is not there to tell."""
    tokens: list[int]
    token_strs: list[str] | None = None


class DetokenizedText(AnswerModel):
    """The text of tokens."""

    prompt: str


class TokenizerInfo(AnswerModel):
    """The tokenizer, in the words of `tokenizer_config.json`. Without `chat_template`: what renders Harmony is code."""

    tokenizer_class: Literal["PreTrainedTokenizerFast"]
    bos_token: str
    eos_token: str
    pad_token: str
    model_max_length: int | None
    """As `max_model_len` of Tokens."""


class ModelCard(AnswerModel):
    """A model served here."""

    id: str
    object: Literal["model"]
    created: int
    owned_by: str
    root: str
    """The model behind the name."""
    profiles: list[str]
    """Those by which `gpt-oss` leads to this model, its own first."""
    max_model_len: int | None
    """The longest prompt plus answer that the model takes now; null while its engine is not there to tell."""


class ListedModel(ModelCard):
    """The same with Anthropic's words for it, whose clients ask at the same address."""

    type: Literal["model"]
    display_name: str
    created_at: datetime
    lifecycle: Literal["active"]
    max_input_tokens: int | None


class ModelList(AnswerModel):
    """The models served here."""

    object: Literal["list"]
    data: list[ListedModel]

    # Anthropic's
    has_more: Literal[False]
    first_id: str
    last_id: str
