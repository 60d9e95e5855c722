"""A conversation made shorter: the item that stands for what was left out, the request and the answer.

Stage: 2 validate, and 7 SSE.
Owns: their fields, their types and bounds. Every field is honoured, harmless (read by nobody) or NotHonoured.
Does not know: how a conversation is summed up (responses/compaction.py).
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator
from pydantic_core import PydanticCustomError

from gptoss_adapter.schemas.carried_text import summary_of
from gptoss_adapter.schemas.fields import UNSUPPORTED, ItemId, RequestModel


def _readable(blob: str) -> str:
    try:
        summary_of(blob)
    except ValueError:
        raise PydanticCustomError(
            UNSUPPORTED,
            "no server but the one that made it can read it, and it is not as this one makes them; "
            "send the conversation that it stands for",
        ) from None
    return blob


class CompactionItem(RequestModel):
    """Stands for the earlier part of a conversation, of which it holds a summary."""

    id: ItemId | None = None
    type: Literal["compaction"]
    encrypted_content: Annotated[str, AfterValidator(_readable)]
    created_by: str | None = None
    """Harmless: who made the item, as OpenAI lists it."""

    @property
    def summary(self) -> str:
        """What it tells of the conversation."""
        return summary_of(self.encrypted_content)
