"""What a request goes on from, and what it adds to that.

Stage: 2 validate.
Owns: which of the ways to go on a request has taken; how many items there may be in all.
Does not know: what items mean, where they are kept.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from gptoss_adapter.errors import InvalidRequestError, invalid_value
from gptoss_adapter.responses.items import own_items
from gptoss_adapter.responses.keeping.conversation_store import check_no_duplicates
from gptoss_adapter.responses.keeping.holds import Place
from gptoss_adapter.responses.keeping.store import ResponseStore
from gptoss_adapter.schemas.response_items import Item
from gptoss_adapter.schemas.responses import ResponseFields
from gptoss_adapter.serving import Services

_ONE_OF: Final = "'input', 'previous_response_id' and 'conversation'"


@dataclass(frozen=True, slots=True)
class History:
    """All that a response is made from."""

    earlier: list[Item]
    """What came before the request."""
    own_input: list[Item]
    """What the request adds."""
    place: Place | None = None
    """Where it goes on from a conversation."""

    @property
    def items(self) -> list[Item]:
        """All of them, in order."""
        return [*self.earlier, *self.own_input]


async def history_of(body: ResponseFields, services: Services, store: ResponseStore) -> History:
    """Return what a response is to be made from. Raises ApiError."""
    _check_ways(body)
    max_items = services.settings.adapter.max_messages
    if isinstance(body.input, list):  # before any is looked up
        _check_length(len(body.input), max_items)
    own_input = await own_items(body.input, store)
    history = await _going_on(body, own_input, store)
    _check_length(len(history.items), max_items)
    return history


async def _going_on(body: ResponseFields, own_input: list[Item], store: ResponseStore) -> History:
    if body.conversation_id is not None:
        earlier, place = await store.conversations.read(body.conversation_id)
        check_no_duplicates(own_input, earlier, "input")
        return History(earlier, own_input, place)
    if body.previous_response_id is not None:
        return History(await store.conversation(body.previous_response_id), own_input)
    return History([], own_input)


def _check_ways(body: ResponseFields) -> None:
    if body.conversation_id is not None and body.previous_response_id is not None:
        message = (
            "Mutually exclusive parameters: 'previous_response_id' and 'conversation'. "
            "Ensure you are only providing one of: 'previous_response_id' or 'conversation'."
        )
        raise InvalidRequestError(message, param="conversation", code="mutually_exclusive_parameters")
    if body.input is None and body.previous_response_id is None and body.conversation_id is None:
        message = f"Missing required parameter: one of {_ONE_OF} must be there."
        raise InvalidRequestError(message, param="input", code="missing_required_parameter")


def _check_length(num_items: int, max_items: int) -> None:
    if num_items > max_items:
        message = f"The conversation has {num_items} items; this server takes {max_items}."
        raise invalid_value(message, "input")
