"""Whose is forgotten so that something new has room in the file.

Stage: 7 SSE, in the thread of the store.
Owns: the order in which things go where the file is full.
Does not know: what they say, transactions (database.py).

Whoever has most kept makes room, of responses or of conversations what of theirs is more: responses that expire first,
conversations that were used the longest ago. So many responses cost nobody a conversation, and the other way round.
"""

from __future__ import annotations

from typing import Final

from gptoss_adapter.responses.keeping.owners import IS_OWN, NOBODY
from gptoss_adapter.responses.keeping.sqlite_file import SqliteFile

_FEW: Final = 16
"""Responses forgotten at once. A conversation is more of a loss: they go one by one."""
_LARGEST_OWNER: Final = """
SELECT owner FROM (SELECT owner, num_bytes FROM owners UNION ALL SELECT owner, num_bytes FROM conversations)
GROUP BY owner ORDER BY SUM(num_bytes) DESC LIMIT 1
"""
_OLDEST_RESPONSES: Final = f"""
DELETE FROM responses WHERE id IN (
    SELECT id FROM responses WHERE {IS_OWN.format(id="responses.id", owner=":owner")} ORDER BY expires_at LIMIT {_FEW}
)
"""
_OLDEST_CONVERSATION: Final = """
DELETE FROM conversations WHERE id IN (
    SELECT id FROM conversations WHERE owner = :owner AND id IS NOT :spared ORDER BY used_at LIMIT 1
)
"""


class Room:
    """Makes room in a file. Blocks and raises sqlite3.Error."""

    def __init__(self, file: SqliteFile) -> None:
        self._file = file
        self._connection = file.connection

    def make(self, num_bytes: int, spared: str | None = None) -> None:
        """Forget until texts as long as that fit, or nothing is left. spared: a conversation that stays."""
        while not self._file.has_room(num_bytes):
            if not self._forget_some(spared):
                return

    def _forget_some(self, spared: str | None) -> bool:
        """Forget what is the next to go; returns whether there was anything."""
        largest = self._connection.execute(_LARGEST_OWNER).fetchone()
        owner = largest[0] if largest else NOBODY
        forgetting = [_OLDEST_RESPONSES, _OLDEST_CONVERSATION]
        if self._num_bytes("conversations", owner) > self._num_bytes("owners", owner):
            forgetting.reverse()
        return any(self._connection.execute(one, {"owner": owner, "spared": spared}).rowcount for one in forgetting)

    def _num_bytes(self, table: str, owner: str) -> int:
        (num_bytes,) = self._connection.execute(
            f"SELECT COALESCE(SUM(num_bytes), 0) FROM {table} WHERE owner = ?", (owner,)
        ).fetchone()
        return int(num_bytes)
