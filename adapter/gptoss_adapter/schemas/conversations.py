"""What the endpoints under /v1/conversations take and answer.

Stage: 2 validate, and the whole answers.
Owns: their shapes.
Does not know: items (response_items.py), where conversations are kept.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from gptoss_adapter.schemas.fields import AnswerModel, Labels, ListOf, RequestModel
from gptoss_adapter.schemas.response_items import InputItem

AddedItems = Annotated[ListOf[InputItem], Field(max_length=20)]
"""As many at a time as OpenAI takes."""


class CreateConversation(RequestModel):
    """A conversation to be kept, and the items that it begins with."""

    items: AddedItems | None = None
    metadata: Labels | None = None


class UpdateConversation(RequestModel):
    """Other metadata of a conversation, in place of all that there was."""

    metadata: Labels | None


class CreateItems(RequestModel):
    """Items that are to stand behind the others of a conversation."""

    items: AddedItems


class ConversationObject(AnswerModel):
    """A conversation, without its items."""

    id: str
    object: Literal["conversation"]
    created_at: int
    """Unix seconds."""
    metadata: dict[str, str]


class DeletedConversation(AnswerModel):
    """A conversation that is not kept any more."""

    id: str
    object: Literal["conversation.deleted"]
    deleted: Literal[True]
