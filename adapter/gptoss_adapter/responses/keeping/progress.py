"""What of the responses in the file is not over yet, and the events of those whose stream can be taken up again.

Stage: 7 SSE.
Owns: the two tables beside that of the responses; leases.
Does not know: what a document or an event says; transactions (database.py).

Who makes a response holds a lease on it and renews that. Whoever takes the lease away writes how the response ended:
its maker, or another process that cancels it. A lease that has run out belonged to a process that is gone.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Final

LEASE_S: Final = 10.0
RENEWAL_PERIOD_S: Final = 1.0
"""How often leases are renewed, which is also how soon a maker learns that its response was taken away."""
SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS under_way (
    response_id TEXT PRIMARY KEY REFERENCES responses (id) ON DELETE CASCADE,
    leased_until REAL NOT NULL
) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS events (
    response_id TEXT NOT NULL REFERENCES responses (id) ON DELETE CASCADE,
    first_number INTEGER NOT NULL,
    packed BLOB NOT NULL,
    PRIMARY KEY (response_id, first_number)
) WITHOUT ROWID
"""


@dataclass(frozen=True, slots=True)
class EventChunk:
    """Some events of a response, in their order."""

    first_number: int
    """The sequence number of the first one."""
    packed: bytes
    """As event_log.py packs them."""


class Progress:
    """The two tables. Every method blocks and raises sqlite3.Error."""

    def __init__(self, connection: sqlite3.Connection, clock: Callable[[], float]) -> None:
        self._connection = connection
        self._clock = clock

    def begin(self, response_id: str) -> None:
        """Take a lease on a response that was just put into the file."""
        self._connection.execute("INSERT INTO under_way VALUES (?, ?)", (response_id, self._clock() + LEASE_S))

    def end(self, response_id: str) -> bool:
        """Take the lease on a response away; returns whether there was one."""
        ended = self._connection.execute("DELETE FROM under_way WHERE response_id = ?", (response_id,))
        return ended.rowcount > 0

    def is_under_way(self, response_id: str) -> bool:
        """Return whether somebody is making the response."""
        found = self._connection.execute(
            "SELECT 1 FROM under_way WHERE response_id = ? AND leased_until > ?", (response_id, self._clock())
        )
        return found.fetchone() is not None

    def renew(self, response_ids: Collection[str]) -> set[str]:
        """Renew the leases on those responses and return the ones on which there is none any more."""
        until = self._clock() + LEASE_S
        lost = set()
        for response_id in response_ids:
            renewed = self._connection.execute(
                "UPDATE under_way SET leased_until = ? WHERE response_id = ?", (until, response_id)
            )
            if not renewed.rowcount:
                lost.add(response_id)
        return lost

    def keep_events(self, response_id: str, chunks: Sequence[EventChunk]) -> None:
        """Keep events of a response, as far as that is kept itself; a chunk replaces the one that began with it."""
        self._connection.executemany(
            "INSERT OR REPLACE INTO events SELECT id, ?, ? FROM responses WHERE id = ?",
            [(chunk.first_number, chunk.packed, response_id) for chunk in chunks],
        )

    def events(self, response_id: str) -> list[EventChunk]:
        """Return the events of a response, in their order."""
        rows = self._connection.execute(
            "SELECT first_number, packed FROM events WHERE response_id = ? ORDER BY first_number", (response_id,)
        )
        return [EventChunk(*row) for row in rows]
