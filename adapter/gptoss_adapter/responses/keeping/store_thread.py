"""The one thread that works on the file of what is kept, seen from the event loop.

Stage: 2 validate and 7 SSE.
Owns: when the file is opened and closed; for whom work is done in it; what a client is told where it fails.
Does not know: what is kept.
"""

from __future__ import annotations

import asyncio
import logging
import sqlite3
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from gptoss_adapter.context import current_key_name
from gptoss_adapter.errors import ServiceUnavailableError
from gptoss_adapter.responses.keeping.database import ResponseDatabase
from gptoss_adapter.responses.keeping.owners import NOBODY

logger = logging.getLogger(__name__)

T = TypeVar("T")


class StoreThread:
    """Runs one piece of work after the other. The file is opened on first use, and again where that failed."""

    def __init__(self, open_database: Callable[[], ResponseDatabase]) -> None:
        """open_database: called in the thread. Raises sqlite3.Error or OSError."""
        self._open_database = open_database
        self._database: ResponseDatabase | None = None  # touched by the thread only
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="response-store")

    async def close(self) -> None:
        """Finish what was asked for, and close the file."""

        def close() -> None:
            if self._database is not None:
                self._database.close()

        await asyncio.get_running_loop().run_in_executor(self._thread, close)
        self._thread.shutdown()

    async def run(self, work: Callable[[ResponseDatabase], T]) -> T:
        """Run `work` in the thread, for the key that asks. Raises ServiceUnavailableError, and what `work` raises."""
        owner = current_key_name() or NOBODY

        def work_in_thread() -> T:
            if self._database is None:
                self._database = self._open_database()
            self._database.owner = owner
            return work(self._database)

        try:
            return await asyncio.get_running_loop().run_in_executor(self._thread, work_in_thread)
        except (sqlite3.Error, OSError) as error:
            logger.error("the store of responses failed: %s", error)
            raise ServiceUnavailableError("The store of responses is not available; its log says why.") from error
