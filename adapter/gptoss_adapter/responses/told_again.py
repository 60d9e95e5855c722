"""Items that are kept, told with more than they were answered with.

Stage: 7 SSE.
Owns: what `include` adds to them.
Does not know: where they are kept.
"""

from __future__ import annotations

from collections.abc import Iterable

from gptoss_adapter.responses.conversation import BETWEEN
from gptoss_adapter.schemas.carried_reasoning import carried
from gptoss_adapter.schemas.response_items import Item, ReasoningItem


def telling_reasoning_again(items: Iterable[Item]) -> list[Item]:
    """Return the items, those of reasoning with their text also in the form that a client carries without reading."""
    return [_told_again(item) if isinstance(item, ReasoningItem) else item for item in items]


def _told_again(item: ReasoningItem) -> ReasoningItem:
    if item.encrypted_content or not item.content:
        return item
    text = BETWEEN.join(part.text for part in item.content)
    return item.model_copy(update={"encrypted_content": carried(text)})
