"""The file of what is kept, and time that passes when told to: fixtures.

A test module says `clock, opened = database_fixtures()`, and those two are fixtures then.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path

import pytest

from gptoss_adapter.responses.keeping.database import ResponseDatabase

MIB = 1024 * 1024
KEEP_S = 100.0
"""How long responses are kept."""


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


def database_fixtures() -> tuple[object, object]:
    """Return fixtures of a clock, and of what opens one file by it; all that was opened is closed behind the test."""

    @pytest.fixture
    def clock() -> Clock:
        return Clock()

    @pytest.fixture
    def opened(tmp_path: Path, clock: Clock) -> Iterator[Callable[..., ResponseDatabase]]:
        with ExitStack() as stack:

            def open_database(max_bytes: int = 64 * MIB, keep_conversations_s: float = math.inf) -> ResponseDatabase:
                database = ResponseDatabase(
                    tmp_path / "r.sqlite",
                    keep_s=KEEP_S,
                    keep_conversations_s=keep_conversations_s,
                    max_bytes=max_bytes,
                    clock=clock,
                )
                return stack.enter_context(closing(database))

            yield open_database

    return clock, opened
