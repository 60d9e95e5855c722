"""The processes of a spread model's ranks."""

from __future__ import annotations

import os
from pathlib import Path


def pids_of_ranks() -> list[int]:
    """Return the processes that this one has started as ranks."""
    children = Path(f"/proc/self/task/{os.getpid()}/children").read_text(encoding="ascii").split()
    return [int(pid) for pid in children if b"placement.worker" in Path(f"/proc/{pid}/cmdline").read_bytes()]
