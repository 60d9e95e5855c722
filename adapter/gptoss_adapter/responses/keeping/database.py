"""The file responses are kept in.

Stage: 2 validate (what came before) and 7 SSE (what is to be kept).
Owns: the tables of responses and of their items, what is one transaction, expiry.
Does not know: what a document says, event loops, how a file is opened (sqlite_file.py), the other tables (progress.py,
owners.py, conversation_tables.py, holds.py), how a chain is followed back (links.py).

A response is a row; what it continues is a link, or its place in a conversation, so a long chain's texts are kept once
however long it grows. Whoever continues a chain renews all of it.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final, NamedTuple

from gptoss_adapter.responses.keeping.conversation_tables import SCHEMA as CONVERSATIONS_SCHEMA
from gptoss_adapter.responses.keeping.conversation_tables import Conversations, StoredItem
from gptoss_adapter.responses.keeping.holds import SCHEMA as HOLDS_SCHEMA
from gptoss_adapter.responses.keeping.holds import Holds, Place
from gptoss_adapter.responses.keeping.links import Links
from gptoss_adapter.responses.keeping.owners import IS_OWN, NAME_EARLIER, NOBODY, Owners
from gptoss_adapter.responses.keeping.owners import SCHEMA as OWNERS_SCHEMA
from gptoss_adapter.responses.keeping.progress import SCHEMA as PROGRESS_SCHEMA
from gptoss_adapter.responses.keeping.progress import EventChunk, Progress
from gptoss_adapter.responses.keeping.room import Room
from gptoss_adapter.responses.keeping.sqlite_file import SqliteFile

SCHEMA_VERSION: Final = 1
"""Of the first two tables. The others are added to files that lack them; who does not know them can do so."""
_FEW: Final = 16
"""Expired responses forgotten at once, before each write."""
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
_LATER: Final = (PROGRESS_SCHEMA, OWNERS_SCHEMA, NAME_EARLIER, CONVERSATIONS_SCHEMA, HOLDS_SCHEMA)
_OWN: Final = IS_OWN.format(id="id", owner=":owner")


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
    place: Place | None = None
    """Where it goes on from a conversation; None, too, where it could not add to that."""
    is_under_way: bool = False
    """Somebody is making it."""
    is_given_up: bool = False
    """Somebody was making it and is gone. The texts still tell of it as under way."""


class Ended(NamedTuple):
    """What of a response that is over is kept."""

    is_kept: bool
    """The response itself."""
    is_added: bool
    """What it adds to its conversation."""


class ResponseDatabase:
    """The file. Used by the thread that made it only; every method blocks and raises sqlite3.Error.

    What belongs to others than `owner` is to no method there.
    """

    def __init__(
        self,
        path: Path,
        *,
        keep_s: float,
        max_bytes: int,
        keep_conversations_s: float = math.inf,
        clock: Callable[[], float] = time.time,
    ) -> None:
        """Open the file, or make it, readable by its owner only. Raises sqlite3.Error and OSError."""
        self._keep_s = keep_s
        self._clock = clock
        self._file = SqliteFile(path, max_bytes)
        self._connection = self._file.connection
        self.progress = Progress(self._connection, clock)
        self.owner = NOBODY
        """Who asks: set before each use, by whoever speaks for several."""
        self._owners = Owners(self._connection)
        self.room = Room(self._file)
        self.holds = Holds(self._connection, clock)
        self.conversations = Conversations(self._connection, clock, keep_conversations_s, self._asks)
        self.links = Links(self._connection, clock, self._asks, self.conversations, self.holds)
        try:
            self._file.make_tables(SCHEMA_VERSION, _SCHEMA, _LATER)
        except BaseException:
            self._connection.close()
            raise

    def close(self) -> None:
        """Close the file."""
        self._connection.close()

    def writing(self) -> AbstractContextManager[None]:
        """Run the body as one transaction. The methods here are one each, those of the parts are none."""
        return self._file.writing()

    def save(self, stored: StoredResponse, item_ids: Sequence[str], added: Sequence[StoredItem] | None = None) -> bool:
        """Keep a response, and what it continues for as long; make room where there is none.

        added: what it adds to the conversation that it holds; returns whether it could.
        """
        with self._file.writing():
            self._insert(stored, item_ids, added)
            return self._add(stored, added)

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

    def end(
        self,
        stored: StoredResponse,
        item_ids: Sequence[str],
        chunks: Sequence[EventChunk],
        added: Sequence[StoredItem] | None = None,
    ) -> Ended:
        """Keep how a response ended, and its events, and take the lease away; its input stays as it is.

        It is not kept where there was no lease: then it was deleted, or somebody else has ended it. Whoever ends it, it
        holds no conversation any more. added: as `save` takes it.
        """
        num_event_bytes = sum(len(chunk.packed) for chunk in chunks)
        with self._file.writing():
            is_ours = self.progress.end(stored.id)
            self._make_room(len(stored.response) + len(stored.output) + num_event_bytes, stored.place, added)
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
            is_added = self._add(stored, added)
        return Ended(is_ours, is_added)

    def add_turn(self, response_id: str, place: Place, added: Sequence[StoredItem]) -> bool:
        """Add what a response that is not kept itself adds to the conversation that it holds; whether it could."""
        with self._file.writing():
            self._make_room(0, place, added)
            return self._add_turn(response_id, place, added)

    def load(self, response_id: str) -> StoredResponse | None:
        """Return a response, None where it is not kept."""
        now = self._clock()
        row = self._connection.execute(
            "SELECT id, previous_id, response, input, output, COALESCE(leased_until > :now, 0), "
            "COALESCE(leased_until <= :now, 0) FROM responses LEFT JOIN under_way ON response_id = id "
            f"WHERE id = :id AND expires_at > :now AND {_OWN}",
            {"id": response_id, "now": now, "owner": self.owner},
        ).fetchone()
        if row is None:
            return None
        place, is_under_way, is_given_up = self.holds.told_place(response_id), bool(row[5]), bool(row[6])
        return replace(StoredResponse(*row[:5]), place=place, is_under_way=is_under_way, is_given_up=is_given_up)

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

    def _asks(self) -> str:
        return self.owner

    def _insert(
        self, stored: StoredResponse, item_ids: Sequence[str], added: Sequence[StoredItem] | None = None
    ) -> None:
        now = self._clock()
        expires_at = now + self._keep_s
        if stored.previous_id is not None:
            self.links.renew(stored.previous_id, expires_at)
        self._forget_expired(now)
        num_bytes = len(stored.response) + len(stored.input) + len(stored.output)
        self._make_room(num_bytes, stored.place, added)
        self._connection.execute(
            "INSERT INTO responses VALUES (?, ?, ?, ?, ?, ?)",
            (stored.id, stored.previous_id, expires_at, stored.response, stored.input, stored.output),
        )
        self._owners.name(stored.id, self.owner, num_bytes)
        self._name_items(stored.id, item_ids)
        if stored.place is not None:
            self.holds.note(stored.id, stored.place)

    def _make_room(self, num_bytes: int, place: Place | None, added: Sequence[StoredItem] | None) -> None:
        num_added_bytes = sum(len(one.item) for one in added or ())
        self.room.make(num_bytes + num_added_bytes, place.conversation_id if place is not None else None)

    def _add(self, stored: StoredResponse, added: Sequence[StoredItem] | None) -> bool:
        """Add what a response that is kept adds to its conversation, and let go of that."""
        if stored.place is None or added is None:
            self.holds.let_go(stored.id)
            return False
        is_added = self._add_turn(stored.id, stored.place, added)
        if not is_added:
            self.holds.tell_not(stored.id)
        return is_added

    def _add_turn(self, response_id: str, place: Place, added: Sequence[StoredItem]) -> bool:
        """Add a turn to a conversation, if it still goes on where the response began, and let go of it."""
        held = self.holds.let_go(response_id)
        conversation = self.conversations.load(place.conversation_id)
        # its process may have stood still for longer than a lease
        if not held or conversation is None or conversation.next_position != place.position:
            return False
        self.conversations.add(place.conversation_id, added)
        return True

    def _name_items(self, response_id: str, item_ids: Sequence[str]) -> None:
        self._connection.executemany(
            "INSERT OR IGNORE INTO items VALUES (?, ?)", [(item_id, response_id) for item_id in item_ids]
        )

    def _forget_expired(self, now: float) -> None:
        self._connection.execute(
            "DELETE FROM responses WHERE id IN "
            "(SELECT id FROM responses WHERE expires_at <= ? ORDER BY expires_at LIMIT ?)",
            (now, _FEW),
        )
