"""A conversation made shorter: the model sums up what it and its tools have said.

Stage: 2 validate … 6, around one `Turn`.
Owns: what the model is asked to write down, and what of the conversation stays as it is.
Does not know: HTTP; how a summary is carried (schemas/carried_text.py) or told again (conversation.py).
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

from gptoss_adapter.context import current_record
from gptoss_adapter.errors import ApiError, invalid_value
from gptoss_adapter.responses.history import history_of
from gptoss_adapter.responses.ids import new_item_id, new_response_id
from gptoss_adapter.responses.keeping.store import ResponseStore
from gptoss_adapter.responses.naming import naming_fields_of_this_api
from gptoss_adapter.responses.plan import sampling_params
from gptoss_adapter.responses.turns import Asked, offering_of
from gptoss_adapter.sampling_plan import or_default
from gptoss_adapter.schemas.carried_text import carried_summary
from gptoss_adapter.schemas.compaction import CompactionItem
from gptoss_adapter.schemas.response_answers import CompactedResponse, ResponseUsage
from gptoss_adapter.schemas.response_items import Item, MessageItem
from gptoss_adapter.schemas.responses import CompactionRequest, ResponseRequest
from gptoss_adapter.serving import ServedModel, Services
from gptoss_adapter.turn import Turn
from gptoss_backend.harmony.deltas import ContentDelta

_MOST_TOKENS: Final = 8192
"""Of a summary with the reasoning before it, where the profile allows as many."""
_ASK: Final = (
    "Pause here. To save room, all of this conversation but my own messages is about to be replaced by a summary, and "
    "you will go on from that alone. Write it now, for yourself: what I want, and what I have ruled out; what was "
    "found out, decided and done, with names, paths, figures and errors exactly as they stand; where the work is, what "
    "is still open, and the next step. Write nothing else, and call no tools."
)


async def compacted(body: CompactionRequest, services: Services, store: ResponseStore) -> CompactedResponse:
    """Return the shorter conversation. Raises ApiError."""
    served = services.route(body.model, body.profile)
    request = _request(body, served)
    items = (await history_of(request, services, store)).items
    if not items:
        raise invalid_value("'input' holds no items.", "input")
    asked = Asked(request, served, services, sampling_params(request, served.profile), items)
    turn = asked.turn(
        offering_of(request, services), [*items, MessageItem(role="user", content=_ASK)], asked.sampling, served
    )
    compaction_id = new_response_id()
    current_record().notes["response_id"] = compaction_id
    summary = await _written(turn)
    return CompactedResponse(
        id=compaction_id,
        object="response.compaction",
        created_at=int(time.time()),
        output=[*_staying(items), _item(summary)],
        usage=ResponseUsage.of(turn.usage),
    )


def _request(body: CompactionRequest, served: ServedModel) -> ResponseRequest:
    """Return the request for the summary. Of a conversation that is too long for it the oldest is left out."""
    return ResponseRequest(
        model=body.model,
        input=body.input,
        instructions=body.instructions,
        previous_response_id=body.previous_response_id,
        reasoning=body.reasoning,
        profile=body.profile,
        max_output_tokens=min(_MOST_TOKENS, or_default(served.profile.max_tokens_limit, _MOST_TOKENS)),
        truncation="auto",
    )


async def _written(turn: Turn) -> str:
    """Return what the turn says. Raises ApiError, also where it comes to no end: half a summary leaves out the rest."""
    pieces: list[str] = []
    with naming_fields_of_this_api():
        async with turn:
            await turn.start()
            async for deltas in turn:
                pieces += [delta.text for delta in deltas if isinstance(delta, ContentDelta)]
    if turn.finish_reason == "length" or not "".join(pieces).strip():
        raise ApiError("The model has written no whole summary of this conversation. Try again.", code="no_summary")
    return "".join(pieces)


def _staying(items: Sequence[Item]) -> list[MessageItem]:
    """Return what others than the model have said: the user, and who instructs."""
    return [item for item in items if isinstance(item, MessageItem) and item.role != "assistant"]


def _item(summary: str) -> CompactionItem:
    return CompactionItem(id=new_item_id(CompactionItem), type="compaction", encrypted_content=carried_summary(summary))
