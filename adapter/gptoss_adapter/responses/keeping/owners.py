"""Whose responses are kept: by the name of the key that they were made with.

Stage: 2 validate and 7 SSE, in the thread of the store.
Owns: the table of owners, what of another's is not there.
Does not know: keys (a name is a text here), transactions (database.py), whose is forgotten first (room.py).

What was made without keys has the empty name, and what was kept before there was this table gets it when the file is
opened: both belong to nobody, and are found only while no key is asked for.
"""

from __future__ import annotations

import sqlite3
from typing import Final

NOBODY: Final = ""
SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS owners (
    response_id TEXT PRIMARY KEY REFERENCES responses (id) ON DELETE CASCADE,
    owner TEXT NOT NULL,
    num_bytes INTEGER NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS owners_by_name ON owners (owner, num_bytes)
"""
NAME_EARLIER: Final = """
INSERT OR IGNORE INTO owners
SELECT id, '', LENGTH(response) + LENGTH(input) + LENGTH(output)
    + (SELECT COALESCE(SUM(LENGTH(packed)), 0) FROM events WHERE response_id = id)
FROM responses WHERE id NOT IN (SELECT response_id FROM owners)
"""
"""Said of what was kept before there was this table, so that it counts where room is made."""
IS_OWN: Final = "COALESCE((SELECT owner FROM owners WHERE response_id = {id}), '') = {owner}"
"""A condition of SQL, to be filled with the column of an id and the parameter that holds who asks."""


class Owners:
    """The table. Every method blocks and raises sqlite3.Error."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._connection = connection

    def name(self, response_id: str, owner: str, num_bytes: int) -> None:
        """Say whose a response is that was just put into the file, and how long its texts are."""
        self._connection.execute("INSERT INTO owners VALUES (?, ?, ?)", (response_id, owner, num_bytes))

    def grow(self, response_id: str, num_bytes: int) -> None:
        """Say that a response's texts have become so much longer."""
        self._connection.execute(
            "UPDATE owners SET num_bytes = num_bytes + ? WHERE response_id = ?", (num_bytes, response_id)
        )
