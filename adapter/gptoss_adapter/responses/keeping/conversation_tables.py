"""The conversations in the file, and their items in order.

Stage: 2 validate (what came before) and 7 SSE (what is to be kept).
Owns: the two tables of them, by owner; when a conversation has lain for too long.
Does not know: what an item says; who may change a conversation now (holds.py); transactions, which its callers make.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Final

SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS conversations (
    id TEXT PRIMARY KEY,
    owner TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    used_at REAL NOT NULL,
    metadata TEXT NOT NULL,
    next_position INTEGER NOT NULL,
    num_bytes INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS conversations_by_use ON conversations (used_at);
CREATE INDEX IF NOT EXISTS conversations_by_owner ON conversations (owner, num_bytes);
CREATE TABLE IF NOT EXISTS conversation_items (
    conversation_id TEXT NOT NULL REFERENCES conversations (id) ON DELETE CASCADE,
    position INTEGER NOT NULL,
    id TEXT NOT NULL,
    item TEXT NOT NULL,
    PRIMARY KEY (conversation_id, position),
    UNIQUE (id, conversation_id)
)
"""
FIRST_POSITION: Final = 1
_FEW: Final = 16
"""Conversations forgotten at once whose time is over."""
_OWN: Final = "owner = :owner AND used_at > :since"


@dataclass(frozen=True, slots=True)
class StoredConversation:
    """A conversation as it is kept, without its items."""

    id: str
    created_at: int
    """Unix seconds."""
    metadata: str
    """JSON."""
    next_position: int = FIRST_POSITION
    """Of the next item to be added. No position is ever given twice."""
    num_bytes: int = 0
    """Of its texts."""


@dataclass(frozen=True, slots=True)
class StoredItem:
    """An item of a conversation as it is kept."""

    id: str
    item: str
    """JSON."""


class Conversations:
    """The tables. Every method blocks and raises sqlite3.Error.

    What belongs to others than who asks is not found; the methods that change something are for what was found.
    """

    def __init__(
        self, connection: sqlite3.Connection, clock: Callable[[], float], keep_s: float, owner: Callable[[], str]
    ) -> None:
        """keep_s: how long one is kept that nobody uses. owner: says who asks."""
        self._connection = connection
        self._clock = clock
        self._keep_s = keep_s
        self._owner = owner

    def create(self, conversation: StoredConversation) -> None:
        """Keep a new conversation, which has no items yet, and forget some whose time is over."""
        self._forget_expired()
        self._connection.execute(
            "INSERT INTO conversations VALUES (?, ?, ?, ?, ?, ?, ?)",
            (
                conversation.id,
                self._owner(),
                conversation.created_at,
                self._clock(),
                conversation.metadata,
                conversation.next_position,
                len(conversation.metadata),
            ),
        )

    def load(self, conversation_id: str) -> StoredConversation | None:
        """Return a conversation, None where it is not kept."""
        row = self._connection.execute(
            f"SELECT id, created_at, metadata, next_position, num_bytes FROM conversations WHERE id = :id AND {_OWN}",
            self._asking(id=conversation_id),
        ).fetchone()
        return StoredConversation(*row) if row else None

    def use(self, conversation_id: str) -> None:
        """Note that a conversation is used now: it is kept from now on as long as one may lie."""
        self._connection.execute("UPDATE conversations SET used_at = ? WHERE id = ?", (self._clock(), conversation_id))

    def describe(self, conversation_id: str, metadata: str) -> None:
        """Keep other metadata of a conversation that there is."""
        self._connection.execute(
            "UPDATE conversations SET metadata = :metadata, "
            "num_bytes = num_bytes - LENGTH(metadata) + LENGTH(:metadata) WHERE id = :id",
            {"id": conversation_id, "metadata": metadata},
        )

    def delete(self, conversation_id: str) -> bool:
        """Forget a conversation and its items; returns whether it was kept."""
        deleted = self._connection.execute(
            f"DELETE FROM conversations WHERE id = :id AND {_OWN}", self._asking(id=conversation_id)
        )
        return deleted.rowcount > 0

    # --- items ------------------------------------------------------------------------------------------------------

    def add(self, conversation_id: str, items: Sequence[StoredItem]) -> None:
        """Add items behind the others of a conversation that there is and that has none with their ids."""
        (position,) = self._connection.execute(
            "SELECT next_position FROM conversations WHERE id = ?", (conversation_id,)
        ).fetchone()
        self._connection.executemany(
            "INSERT INTO conversation_items VALUES (?, ?, ?, ?)",
            [(conversation_id, place, one.id, one.item) for place, one in enumerate(items, position)],
        )
        self._connection.execute(
            "UPDATE conversations SET used_at = ?, next_position = ?, num_bytes = num_bytes + ? WHERE id = ?",
            (self._clock(), position + len(items), sum(len(one.item) for one in items), conversation_id),
        )

    def items(self, conversation_id: str, before: int) -> list[str]:
        """Return the items of a conversation up to that position, the oldest first."""
        rows = self._connection.execute(
            "SELECT item FROM conversation_items WHERE conversation_id = ? AND position < ? ORDER BY position",
            (conversation_id, before),
        )
        return [item for (item,) in rows]

    def page(
        self, conversation_id: str, after: str | None, *, newest_first: bool, limit: int, max_bytes: int
    ) -> tuple[list[str], bool] | None:
        """Return the items behind that one, at most so many, fewer where they are long, and whether there are more.

        after: an item's id; None: from the first one on. Returns None where it is not there.
        """
        order, compared = ("DESC", "<") if newest_first else ("ASC", ">")
        condition, position = "", None
        if after is not None:
            position = self._position(conversation_id, after)
            if position is None:
                return None
            condition = f"AND position {compared} :position"
        rows = self._connection.execute(
            f"SELECT item FROM conversation_items WHERE conversation_id = :id {condition} "
            f"ORDER BY position {order} LIMIT :limit",
            {"id": conversation_id, "position": position, "limit": limit + 1},
        )
        page: list[str] = []
        has_more = False
        for (item,) in rows:
            max_bytes -= len(item)
            has_more = len(page) == limit or (bool(page) and max_bytes < 0)
            if has_more:
                break
            page.append(item)
        rows.close()
        return page, has_more

    def item(self, conversation_id: str, item_id: str) -> str | None:
        """Return an item of a conversation, None where it is not there."""
        row = self._connection.execute(
            "SELECT item FROM conversation_items WHERE id = ? AND conversation_id = ?", (item_id, conversation_id)
        ).fetchone()
        return row[0] if row else None

    def remove(self, conversation_id: str, item_id: str) -> bool:
        """Take an item out of a conversation; returns whether it was there."""
        item = self.item(conversation_id, item_id)
        if item is None:
            return False
        self._connection.execute(
            "DELETE FROM conversation_items WHERE id = ? AND conversation_id = ?", (item_id, conversation_id)
        )
        self._connection.execute(
            "UPDATE conversations SET num_bytes = num_bytes - ? WHERE id = ?", (len(item), conversation_id)
        )
        return True

    def find_item(self, item_id: str) -> str | None:
        """Return an item of any conversation: of several the one that was used last."""
        row = self._connection.execute(
            "SELECT item FROM conversation_items i JOIN conversations c ON c.id = i.conversation_id "
            f"WHERE i.id = :id AND {_OWN} ORDER BY used_at DESC LIMIT 1",
            self._asking(id=item_id),
        ).fetchone()
        return row[0] if row else None

    def _position(self, conversation_id: str, item_id: str) -> int | None:
        row = self._connection.execute(
            "SELECT position FROM conversation_items WHERE id = ? AND conversation_id = ?", (item_id, conversation_id)
        ).fetchone()
        return row[0] if row else None

    def _forget_expired(self) -> None:
        self._connection.execute(
            "DELETE FROM conversations WHERE id IN "
            "(SELECT id FROM conversations WHERE used_at <= ? ORDER BY used_at LIMIT ?)",
            (self._since(), _FEW),
        )

    def _since(self) -> float:
        """Return when a conversation must have been used to be kept still."""
        return self._clock() - self._keep_s

    def _asking(self, **asked: str) -> dict[str, str | float]:
        return {**asked, "owner": self._owner(), "since": self._since()}
