"""Responses as texts in the file, and back.

Stage: 2 validate (what came before) and 7 SSE (what is to be kept).
Owns: how a response is written; what is told of one whose maker is gone.
Does not know: tables (database.py), how an item is written (item_texts.py).
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from pydantic import JsonValue

from gptoss_adapter.errors import ApiError
from gptoss_adapter.responses.keeping.database import StoredResponse
from gptoss_adapter.responses.keeping.holds import Place
from gptoss_adapter.responses.keeping.item_texts import bare, items_of, text_of_all
from gptoss_adapter.responses.told_again import NOTHING_MORE, Telling
from gptoss_adapter.schemas.response_answers import ResponseObject
from gptoss_adapter.schemas.response_items import Item

_GIVEN_UP: Final = ApiError("The server ended before this response did.", code="server_error")


class KeptResponse:
    """A response as it is now, as far as the file tells."""

    def __init__(self, stored: StoredResponse) -> None:
        self._stored = stored

    @property
    def is_under_way(self) -> bool:
        """Whether somebody, here or in another process, is making it."""
        return self._stored.is_under_way

    @property
    def given_up_by(self) -> ApiError | None:
        """Why it failed, where its maker did not live to tell."""
        return _GIVEN_UP if self._stored.is_given_up else None

    @property
    def is_background(self) -> bool:
        """Whether it was asked for in the background. Does not read its output."""
        return bool(self._head()["background"])

    def json(self, telling: Telling = NOTHING_MORE) -> str:
        """Return it as it is answered."""
        if self._stored.is_given_up:
            return json.dumps(self.document(telling))
        head, conversation = self._stored.response[:-1], json.dumps(self._conversation())
        return f'{head},"conversation":{conversation},"output":{self._output(telling)}}}'

    def document(self, telling: Telling = NOTHING_MORE) -> dict[str, JsonValue]:
        """Return it parsed. One whose maker is gone has failed."""
        document = self._head() | {
            "conversation": self._conversation(),
            "output": json.loads(self._output(telling)),
        }
        if self._stored.is_given_up:
            document |= {"status": "failed", "error": {"code": _GIVEN_UP.code, "message": _GIVEN_UP.message}}
        return document

    def cancelled(self) -> StoredResponse:
        """Return it as it is kept once it is cancelled."""
        return replace(self._stored, response=json.dumps(self._head() | {"status": "cancelled"}))

    def _conversation(self) -> dict[str, JsonValue] | None:
        place = self._stored.place
        return None if place is None else {"id": place.conversation_id}

    def _output(self, telling: Telling) -> str:
        kept = self._stored.output
        return text_of_all(telling.items(items_of([kept]))) if telling.changes(kept) else kept

    def _head(self) -> dict[str, JsonValue]:
        head: dict[str, JsonValue] = json.loads(self._stored.response)
        return head


def stored_response(response: ResponseObject, own_input: Sequence[Item], place: Place | None = None) -> StoredResponse:
    """Return a response as it is kept. own_input: what of its input is not kept elsewhere."""
    document = response.model_dump(mode="json", exclude_unset=True, exclude={"conversation"})
    return StoredResponse(
        id=response.id,
        previous_id=response.previous_response_id,
        output=json.dumps(document.pop("output")),
        response=json.dumps(document),
        input=text_of_all(map(bare, own_input)),
        place=place,
    )
