"""Items that are kept, and what of them is told.

Stage: 7 SSE.
Owns: what `include` adds to an item, and what is told only then.
Does not know: where items are kept.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass
from typing import Final, Self, TypeVar

from gptoss_adapter.responses.conversation import BETWEEN
from gptoss_adapter.schemas.carried_text import carried
from gptoss_adapter.schemas.hosted_items import CodeInterpreterCallItem, WebSearchCallItem
from gptoss_adapter.schemas.response_items import Item, ReasoningItem
from gptoss_adapter.schemas.responses import CARRIED_REASONING, CODE_OUTPUTS, SEARCH_RESULTS, SEARCH_SOURCES

AnyItem = TypeVar("AnyItem", bound=Item)

_RESULTS: Final = {"arguments", "results"}
_CHANGED: Final = ('"web_search_call"', '"code_interpreter_call"')


@dataclass(frozen=True, slots=True)
class Telling:
    """How much of the items a client asks to be told."""

    carries_reasoning: bool = False
    """Items of reasoning have their text also in the form that a client carries without reading."""
    search_results: bool = False
    sources: bool = False
    code_outputs: bool = False

    @classmethod
    def of(cls, include: Collection[str] | None) -> Self:
        """Return what a request's `include` asks for."""
        asked = include or ()
        return cls(CARRIED_REASONING in asked, SEARCH_RESULTS in asked, SEARCH_SOURCES in asked, CODE_OUTPUTS in asked)

    def items(self, items: Iterable[AnyItem]) -> list[AnyItem]:
        """Return the items as they are told."""
        return [self.item(item) for item in items]

    def item(self, item: AnyItem) -> AnyItem:
        """Return an item as it is told."""
        if isinstance(item, ReasoningItem) and self.carries_reasoning and not item.encrypted_content and item.content:
            text = BETWEEN.join(part.text for part in item.content)
            return item.model_copy(update={"encrypted_content": carried(text)})
        if isinstance(item, CodeInterpreterCallItem) and not self.code_outputs:
            return item.model_copy(update={"outputs": None})
        if isinstance(item, WebSearchCallItem):
            told = item.model_dump(exclude_unset=True, exclude=None if self.search_results else _RESULTS)
            if not self.sources:
                told["action"].pop("sources", None)
            return item.model_validate(told)
        return item

    def changes(self, items: str) -> bool:
        """Say whether items, as JSON, may be told otherwise than they are kept."""
        return self.carries_reasoning or any(kind in items for kind in _CHANGED)


NOTHING_MORE: Final = Telling()
"""What is told where nobody asks for more."""
