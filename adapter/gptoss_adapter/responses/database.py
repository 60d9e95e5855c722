"""The file responses are kept in.

Stage: 2 validate (what came before) and 7 SSE (what is to be kept).
Owns: the tables but for three (progress.py, owners.py), what is one transaction, expiry.
Does not know: what a document says, event loops, how a file is opened (sqlite_file.py).

A response is a row; what it continues is a link, so a
conversation's texts are kept once however long it grows. Whoever continues a conversation renews all of it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from gptoss_adapter.responses.owners import IS_OWN, NAME_EARLIER, NOBODY, Owners
from gptoss_adapter.responses.owners import SCHEMA as OWNERS_SCHEMA
from gptoss_adapter.responses.progress import SCHEMA as PROGRESS_SCHEMA
from gptoss_adapter.responses.progress import EventChunk, Progress
from gptoss_adapter.responses.sqlite_file import SqliteFile

SCHEMA_VERSION: Final = 1
"""Of the first two tables. Those of progress.py and owners.py are added to files that lack them; who does not know them
can do so."""
_FEW: Final = 16
"""Responses forgotten at once: expired ones before each write, the oldest ones until a new one has room."""
_SCHEMA: Final = """
CREATE TABLE responses (
    id TEXT PRIMARY KEY,
    previous_id TEXT,
    expires_at REAL NOT NULL,
    response TEXT NOT NULL,
    input TEXT NOT NULL,
    output TEXT NOT NULL
);
CREATE INDEX responses_by_expiry ON responses (expires_at);
CREATE TABLE items (
    id TEXT NOT NULL,
    response_id TEXT NOT NULL REFERENCES responses (id) ON DELETE CASCADE,
    PRIMARY KEY (id, response_id)
) WITHOUT ROWID;
CREATE INDEX items_by_response ON items (response_id)
"""
_OWN: Final = IS_OWN.format(id="id", owner=":owner")
_CHAIN: Final = f"""
WITH RECURSIVE chain (id, previous_id, input, output, depth) AS (
    SELECT id, previous_id, input, output, 0 FROM responses WHERE id = :id AND expires_at > :now AND {_OWN}
    UNION ALL
    SELECT r.id, r.previous_id, r.input, r.output, depth + 1
    FROM responses r JOIN chain ON r.id = chain.previous_id WHERE r.expires_at > :now
)
"""


@dataclass(frozen=True, slots=True)
class StoredResponse:
    """A response as it is kept. The texts are JSON."""

    id: str
    previous_id: str | None
    response: str
    """The response, without its output."""
    input: str
    """Its own items, without those of the response it continues."""
    output: str
    is_under_way: bool = False
    """Somebody is making it."""
    is_given_up: bool = False
    """Somebody was making it and is gone. The texts still tell of it as under way."""


@dataclass(frozen=True, slots=True)
class StoredLink:
    """What one response of a conversation added to it."""

    id: str
    previous_id: str | None
    input: str
    output: str


class ResponseDatabase:
    """The file. Used by the thread that made it only; every method blocks and raises sqlite3.Error.

    What belongs to others than `owner` is to no method there.
    """

    def __init__(self, path: Path, *, keep_s: float, max_bytes: int, clock: Callable[[], float] = time.time) -> None:
        """Open the file, or make it, readable by its owner only. Raises sqlite3.Error and OSError."""
        self._keep_s = keep_s
        self._clock = clock
        self._file = SqliteFile(path, max_bytes)
        self._connection = self._file.connection
        self.progress = Progress(self._connection, clock)
        self.owner = NOBODY
        """Who asks: set before each use, by whoever speaks for several."""
        self._owners = Owners(self._connection)
        try:
            self._file.make_tables(SCHEMA_VERSION, _SCHEMA, (PROGRESS_SCHEMA, OWNERS_SCHEMA, NAME_EARLIER))
        except BaseException:
            self._connection.close()
            raise

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def save(self, stored: StoredResponse, item_ids: Sequence[str]) -> None:
        """Keep a response, and what it continues for as long; make room where there is none."""
        with self._file.writing():
            self._insert(stored, item_ids)

    def begin(self, stored: StoredResponse, item_ids: Sequence[str], chunks: Sequence[EventChunk]) -> None:
        """Keep a response that is not over, as `save` does, with its events so far, and take a lease on it."""
        with self._file.writing():
            self._insert(stored, item_ids)
            self.progress.begin(stored.id)
            self.progress.keep_events(stored.id, chunks)

    def change(self, response_id: str, response: str) -> None:
        """Keep how far a response has come, if there is a lease on it."""
        self._connection.execute(
            "UPDATE responses SET response = ? WHERE id = ? AND id IN (SELECT response_id FROM under_way)",
            (response, response_id),
        )

    def end(self, stored: StoredResponse, item_ids: Sequence[str], chunks: Sequence[EventChunk]) -> bool:
        """Keep how a response ended, and its events, and take the lease away; its input stays as it is.

        False where there was no lease: then the response was deleted, or somebody else has ended it.
        """
        num_event_bytes = sum(len(chunk.packed) for chunk in chunks)
        with self._file.writing():
            is_ours = self.progress.end(stored.id)
            self._make_room(len(stored.response) + len(stored.output) + num_event_bytes)
            if is_ours:
                ended = self._connection.execute(
                    "UPDATE responses SET response = ?, output = ? WHERE id = ?",
                    (stored.response, stored.output, stored.id),
                )
                is_ours = ended.rowcount > 0
            if is_ours:
                self._owners.grow(stored.id, len(stored.output) + num_event_bytes)
                self._name_items(stored.id, item_ids)
            self.progress.keep_events(stored.id, chunks)
        return is_ours

    def load(self, response_id: str) -> StoredResponse | None:
        """Return a response, None where it is not kept."""
        now = self._clock()
        row = self._connection.execute(
            "SELECT id, previous_id, response, input, output, COALESCE(leased_until > :now, 0), "
            "COALESCE(leased_until <= :now, 0) FROM responses LEFT JOIN under_way ON response_id = id "
            f"WHERE id = :id AND expires_at > :now AND {_OWN}",
            {"id": response_id, "now": now, "owner": self.owner},
        ).fetchone()
        return StoredResponse(*row[:5], *map(bool, row[5:])) if row else None

    def chain(self, response_id: str) -> list[StoredLink]:
        """Return the response's conversation, the oldest link first; nothing where the response is not kept.

        Where the first link continues another response, that one is not kept any more.
        """
        rows = self._connection.execute(
            f"{_CHAIN} SELECT id, previous_id, input, output FROM chain ORDER BY depth DESC",
            {"id": response_id, "now": self._clock(), "owner": self.owner},
        )
        return [StoredLink(*row) for row in rows]

    def chain_bytes(self, response_id: str) -> int:
        """Return how long the texts of the response's conversation are."""
        (num_bytes,) = self._connection.execute(
            f"{_CHAIN} SELECT SUM(LENGTH(input) + LENGTH(output)) FROM chain",
            {"id": response_id, "now": self._clock(), "owner": self.owner},
        ).fetchone()
        return num_bytes or 0

    def holder(self, item_id: str) -> str | None:
        """Return the id of the response that holds the item: of several the newest."""
        row = self._connection.execute(
            "SELECT r.id FROM items JOIN responses r ON r.id = response_id "
            f"WHERE items.id = :id AND expires_at > :now AND {IS_OWN.format(id='r.id', owner=':owner')} "
            "ORDER BY r.rowid DESC LIMIT 1",
            {"id": item_id, "now": self._clock(), "owner": self.owner},
        ).fetchone()
        return row[0] if row else None

    def delete(self, response_id: str) -> bool:
        """Forget a response; returns whether it was kept."""
        deleted = self._connection.execute(
            f"DELETE FROM responses WHERE id = :id AND expires_at > :now AND {_OWN}",
            {"id": response_id, "now": self._clock(), "owner": self.owner},
        )
        return deleted.rowcount > 0

    def _insert(self, stored: StoredResponse, item_ids: Sequence[str]) -> None:
        now = self._clock()
        expires_at = now + self._keep_s
        self._renew(stored.previous_id, now, expires_at)
        self._forget_expired(now)
        num_bytes = len(stored.response) + len(stored.input) + len(stored.output)
        self._make_room(num_bytes)
        self._connection.execute(
            "INSERT INTO responses VALUES (?, ?, ?, ?, ?, ?)",
            (stored.id, stored.previous_id, expires_at, stored.response, stored.input, stored.output),
        )
        self._owners.name(stored.id, self.owner, num_bytes)
        self._name_items(stored.id, item_ids)

    def _name_items(self, response_id: str, item_ids: Sequence[str]) -> None:
        self._connection.executemany(
            "INSERT OR IGNORE INTO items VALUES (?, ?)", [(item_id, response_id) for item_id in item_ids]
        )

    def _renew(self, response_id: str | None, now: float, expires_at: float) -> None:
        self._connection.execute(
            f"{_CHAIN} UPDATE responses SET expires_at = :then WHERE id IN (SELECT id FROM chain)",
            {"id": response_id, "now": now, "then": expires_at, "owner": self.owner},
        )

    def _forget_expired(self, now: float) -> None:
        self._connection.execute(
            "DELETE FROM responses WHERE id IN "
            "(SELECT id FROM responses WHERE expires_at <= ? ORDER BY expires_at LIMIT ?)",
            (now, _FEW),
        )

    def _make_room(self, num_bytes: int) -> None:
        """Forget responses until so much fits, or none is left: of whoever has the most, those that expire first."""
        while not self._file.has_room(num_bytes):
            if not self._owners.forget_oldest(_FEW):
                return
