"""Which responses go on from which conversation, and which of them is the one that may add to it.

Stage: 2 validate (where a response begins) and 7 SSE (what it adds).
Owns: the tables of places and of holds; leases on a conversation.
Does not know: items (conversation_tables.py), responses (database.py), transactions, which its callers make.

A response that goes on from a conversation holds it until its end: nobody else adds to it, so what the response was
made from, what was asked and what was answered stand one behind the other. A hold is a lease, as one on a response is
(progress.py): one that has run out belonged to a process that is gone.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Final

from gptoss_adapter.responses.keeping.progress import LEASE_S

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS conversation_places (
    response_id TEXT PRIMARY KEY REFERENCES responses (id) ON DELETE CASCADE,
    conversation_id TEXT NOT NULL,
    position INTEGER NOT NULL,
    is_told INTEGER NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS conversation_holds (
    conversation_id TEXT PRIMARY KEY REFERENCES conversations (id) ON DELETE CASCADE,
    response_id TEXT NOT NULL,
    leased_until REAL NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS conversation_holds_by_response ON conversation_holds (response_id)
"""


@dataclass(frozen=True, slots=True)
class Place:
    """Where a response goes on from a conversation."""

    conversation_id: str
    position: int
    """Of the first item that the response has not seen: its own input's, once it is added."""


class Holds:
    """The two tables. Every method blocks and raises sqlite3.Error."""

    def __init__(self, connection: sqlite3.Connection, clock: Callable[[], float]) -> None:
        self._connection = connection
        self._clock = clock

    def take(self, conversation_id: str, response_id: str) -> None:
        """Take the hold on a conversation that nobody holds."""
        self._connection.execute(
            "INSERT OR REPLACE INTO conversation_holds VALUES (?, ?, ?)",
            (conversation_id, response_id, self._clock() + LEASE_S),
        )

    def is_held(self, conversation_id: str) -> bool:
        """Return whether a response that is under way holds the conversation."""
        found = self._connection.execute(
            "SELECT 1 FROM conversation_holds WHERE conversation_id = ? AND leased_until > ?",
            (conversation_id, self._clock()),
        )
        return found.fetchone() is not None

    def let_go(self, response_id: str) -> bool:
        """Take away what hold a response has; returns whether it had one."""
        gone = self._connection.execute("DELETE FROM conversation_holds WHERE response_id = ?", (response_id,))
        return gone.rowcount > 0

    def renew(self, response_ids: Collection[str]) -> set[str]:
        """Renew the holds of those responses, also where one has run out and nobody took it; returns who has none."""
        until = self._clock() + LEASE_S
        lost = set()
        for response_id in response_ids:
            renewed = self._connection.execute(
                "UPDATE conversation_holds SET leased_until = ? WHERE response_id = ?", (until, response_id)
            )
            if not renewed.rowcount:
                lost.add(response_id)
        return lost

    # --- places -----------------------------------------------------------------------------------------------------

    def note(self, response_id: str, place: Place) -> None:
        """Keep where a response that was just put into the file goes on."""
        self._connection.execute(
            "INSERT INTO conversation_places VALUES (?, ?, ?, 1)",
            (response_id, place.conversation_id, place.position),
        )

    def tell_not(self, response_id: str) -> None:
        """Keep that a response is none of the conversation that it goes on from: it could not add to it."""
        self._connection.execute("UPDATE conversation_places SET is_told = 0 WHERE response_id = ?", (response_id,))

    def place(self, response_id: str) -> Place | None:
        """Return where a response goes on; None where it is from no conversation."""
        row = self._connection.execute(
            "SELECT conversation_id, position FROM conversation_places WHERE response_id = ?", (response_id,)
        ).fetchone()
        return Place(*row) if row else None

    def told_place(self, response_id: str) -> Place | None:
        """Return where a response goes on, unless it could not add to it."""
        row = self._connection.execute(
            "SELECT conversation_id, position FROM conversation_places WHERE response_id = ? AND is_told",
            (response_id,),
        ).fetchone()
        return Place(*row) if row else None
