"""What a response goes on from: the responses before it, and what their conversation held before those.

Stage: 2 validate (what came before), in the thread of the store.
Owns: how a chain of responses is followed back and kept.
Does not know: what a text says; transactions, which its callers make.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Final

from gptoss_adapter.responses.keeping.conversation_tables import Conversations
from gptoss_adapter.responses.keeping.holds import Holds
from gptoss_adapter.responses.keeping.owners import IS_OWN

_CHAIN: Final = f"""
WITH RECURSIVE chain (id, previous_id, input, output, depth) AS (
    SELECT id, previous_id, input, output, 0 FROM responses
    WHERE id = :id AND expires_at > :now AND {IS_OWN.format(id="id", owner=":owner")}
    UNION ALL
    SELECT r.id, r.previous_id, r.input, r.output, depth + 1
    FROM responses r JOIN chain ON r.id = chain.previous_id WHERE r.expires_at > :now
)
"""
_BEFORE_CHAIN: Final = """
SELECT COALESCE(SUM(LENGTH(item)), 0) FROM conversation_items i JOIN conversation_places p
ON i.conversation_id = p.conversation_id AND i.position < p.position WHERE p.response_id IN (SELECT id FROM chain)
"""


@dataclass(frozen=True, slots=True)
class StoredLink:
    """What one response added to those it continues. Or, first of all, what a conversation held before them."""

    id: str
    previous_id: str | None
    input: str
    output: str


class Links:
    """The way back. Every method blocks and raises sqlite3.Error."""

    def __init__(
        self,
        connection: sqlite3.Connection,
        clock: Callable[[], float],
        owner: Callable[[], str],
        conversations: Conversations,
        holds: Holds,
    ) -> None:
        """owner: says who asks."""
        self._connection = connection
        self._clock = clock
        self._owner = owner
        self._conversations = conversations
        self._holds = holds

    def chain(self, response_id: str) -> list[StoredLink]:
        """Return what the response was made from and gave, the oldest link first; nothing where it is not kept.

        Where the first link continues another response, or a conversation, that one is not kept any more.
        """
        rows = self._connection.execute(
            f"{_CHAIN} SELECT id, previous_id, input, output FROM chain ORDER BY depth DESC", self._asking(response_id)
        )
        links = [StoredLink(*row) for row in rows]
        place = self._holds.place(links[0].id) if links else None
        if place is None:
            return links
        first = replace(links[0], previous_id=place.conversation_id)
        if self._conversations.load(place.conversation_id) is None:
            return [first, *links[1:]]
        before = ",".join(self._conversations.items(place.conversation_id, place.position))
        return [StoredLink(place.conversation_id, None, f"[{before}]", "[]"), first, *links[1:]]

    def chain_bytes(self, response_id: str) -> int:
        """Return how long the texts are that `chain` returns."""
        (num_bytes,) = self._connection.execute(
            f"{_CHAIN} SELECT SUM(LENGTH(input) + LENGTH(output)) + ({_BEFORE_CHAIN}) FROM chain",
            self._asking(response_id),
        ).fetchone()
        return num_bytes or 0

    def renew(self, response_id: str, expires_at: float) -> None:
        """Keep a response, and all that it was made from, at least until then."""
        asking = self._asking(response_id)
        self._connection.execute(
            f"{_CHAIN} UPDATE responses SET expires_at = :then WHERE id IN (SELECT id FROM chain)",
            {**asking, "then": expires_at},
        )
        self._connection.execute(
            f"{_CHAIN} UPDATE conversations SET used_at = :now WHERE id IN "
            "(SELECT conversation_id FROM conversation_places WHERE response_id IN (SELECT id FROM chain))",
            asking,
        )

    def _asking(self, response_id: str) -> dict[str, str | float]:
        return {"id": response_id, "now": self._clock(), "owner": self._owner()}
