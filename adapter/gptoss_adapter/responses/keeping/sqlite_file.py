"""The SQLite file under the tables of what is kept.

Stage: 2 validate and 7 SSE, in the thread of the store.
Owns: how it is opened and made, transactions, the bound on its size.
Does not know: tables.
"""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

IN_MEMORY: Final = Path(":memory:")
"""The path of a file that is none: what is kept is gone when it is closed."""
_BUSY_TIMEOUT_S: Final = 5.0
_RETRY_S: Final = 0.01
_ROOM_BESIDES_TEXT: Final = 16
"""Pages that a write takes besides its texts: parts of pages, rows, indexes."""
_MAX_IDLE_LOG_BYTES: Final = 8 * 1024 * 1024


class SqliteFile:
    """The file, in WAL mode, which several processes may share. Every method blocks and raises sqlite3.Error."""

    def __init__(self, path: Path, max_bytes: int) -> None:
        """Open the file, or make it, readable by its owner only. Raises sqlite3.Error and OSError."""
        if path != IN_MEMORY:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.touch(mode=0o600)  # SQLite gives the files beside it the same mode
        self.connection = sqlite3.connect(path, timeout=_BUSY_TIMEOUT_S, isolation_level=None)
        try:
            self._max_pages = self._prepare(max_bytes)
        except BaseException:
            self.connection.close()
            raise

    def make_tables(self, version: int, first: str, later: Iterable[str]) -> None:
        """Make what is missing. first: statements for a new file. later: such as change nothing where it is there.

        version: of the first ones. Raises sqlite3.DatabaseError where the file's is another.
        """
        with self.writing():
            found = self._pragma("user_version")
            if found == 0:
                self._execute_all(first)
                self.connection.execute(f"PRAGMA user_version = {version}")
            elif found != version:
                raise sqlite3.DatabaseError(f"its format is {found}, and this version reads {version}")
            for statements in later:
                self._execute_all(statements)

    @contextmanager
    def writing(self) -> Iterator[None]:
        """Run the body as one transaction. Takes the lock at once: a reader that turns writer could not wait for it."""
        self.connection.execute("BEGIN IMMEDIATE")
        try:
            yield
            self.connection.commit()
        except BaseException:
            self.connection.rollback()  # also where it is the commit that fails: nothing could be begun after it
            raise

    def has_room(self, num_bytes: int) -> bool:
        """Return whether texts as long as that fit."""
        needed = num_bytes // self._pragma("page_size") + _ROOM_BESIDES_TEXT
        return self._pragma("page_count") - self._pragma("freelist_count") + needed <= self._max_pages

    def _prepare(self, max_bytes: int) -> int:
        """Set the file up; returns how many pages it may have."""
        self._begin_log()
        self.connection.execute("PRAGMA synchronous = NORMAL")  # a power cut may lose the last answers, not the file
        self.connection.execute("PRAGMA foreign_keys = ON")
        self.connection.execute("PRAGMA secure_delete = ON")  # what is deleted is overwritten
        self.connection.execute(f"PRAGMA journal_size_limit = {_MAX_IDLE_LOG_BYTES}")
        max_pages = max_bytes // self._pragma("page_size")
        self.connection.execute(f"PRAGMA max_page_count = {max_pages}")
        return max_pages

    def _begin_log(self) -> None:
        """Change to a write-ahead log. Where another process is doing so, SQLite does not wait for it by itself."""
        give_up_at = time.monotonic() + _BUSY_TIMEOUT_S
        while True:
            try:
                self.connection.execute("PRAGMA journal_mode = WAL")
            except sqlite3.OperationalError as error:
                if error.sqlite_errorcode != sqlite3.SQLITE_BUSY or time.monotonic() > give_up_at:
                    raise
                time.sleep(_RETRY_S)
            else:
                return

    def _execute_all(self, statements: str) -> None:
        for statement in statements.split(";"):
            self.connection.execute(statement)

    def _pragma(self, name: str) -> int:
        value: int = self.connection.execute(f"PRAGMA {name}").fetchone()[0]
        return value
