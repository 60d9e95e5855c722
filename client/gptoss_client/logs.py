"""The files that the server's processes print to.

Stage: the life of a server, and whoever looks into its logs.
Owns: their size, and reading their ends.
Does not know: who prints what.
"""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path
from typing import Final

_TABLE_MARKS: Final = ("+--", "| ", "+==")
_TAIL_BYTES: Final = 256 * 1024


def last_lines(log: Path, count: int = 15, width: int = 400) -> list[str]:
    """Return a log's last lines that say something: no blank ones, no parts of tables; each cut at `width`."""
    lines = [line for line in tail(log) if line.strip() and not line.startswith(_TABLE_MARKS)]
    return [line[:width] for line in lines[-count:]]


def tail(log: Path) -> list[str]:
    """Return the lines at a log's end, as many as 256 KiB hold; none where there is no log."""
    try:
        with log.open("rb") as file:
            skipped = max(0, log.stat().st_size - _TAIL_BYTES)
            file.seek(skipped)
            lines = file.read().decode("utf-8", errors="replace").splitlines()
    except OSError:
        return []
    return [line.rstrip() for line in lines[1 if skipped else 0 :]]


def bound_sizes(logs: Path, max_bytes: int) -> None:
    """Bound the size of each log of a folder; see `bound_size`."""
    for log in logs.glob("*.log"):
        bound_size(log, max_bytes)


def bound_size(log: Path, max_bytes: int) -> None:
    """Move what a log holds to `.1` once it is larger than `max_bytes`; never raises.

    Processes have the file open to append: it is emptied, not replaced, and they go on writing at its beginning. A
    line written between the copy and the emptying is lost. Where there is no room for a copy, the log is emptied all
    the same: on a full disk that is what is wanted.
    """
    with contextlib.suppress(OSError):
        if log.stat().st_size <= max_bytes:
            return
        with contextlib.suppress(OSError):
            shutil.copyfile(log, log.with_suffix(".log.1"))
        os.truncate(log, 0)
