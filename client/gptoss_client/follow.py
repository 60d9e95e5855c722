"""`gptoss logs`: what the server's processes printed, and what they print.

Stage: any time.
Owns: reading the logs of a run directory on from where they were read before.
Does not know: whether the processes run.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from gptoss_client.logs import tail


class LogReader:
    """Reads all logs of a folder, each line after the name of the process that printed it."""

    def __init__(self, logs: Path) -> None:
        self._logs = logs
        self._read_bytes: dict[Path, int] = {}

    def last_lines(self, count: int) -> Iterator[str]:
        """Give the last lines of each log, one log after the other; `new_lines` goes on behind them."""
        for log in sorted(self._logs.glob("*.log")):
            self._read_bytes[log] = log.stat().st_size
            lines = tail(log)
            yield from (_prefixed(log, line) for line in lines[max(0, len(lines) - count) :])

    def new_lines(self) -> Iterator[str]:
        """Give the whole lines that were written since; a log that was emptied or begun anew is read from its start."""
        for log in sorted(self._logs.glob("*.log")):
            begin = self._read_bytes.get(log, 0)
            with log.open("rb") as file:
                file.seek(begin if begin <= log.stat().st_size else 0)
                lines = file.read().splitlines(keepends=True)
                unfinished = len(lines[-1]) if lines and not lines[-1].endswith(b"\n") else 0
                self._read_bytes[log] = file.tell() - unfinished
            for line in lines[:-1] if unfinished else lines:
                yield _prefixed(log, line.decode("utf-8", errors="replace").rstrip())


def _prefixed(log: Path, line: str) -> str:
    return f"{log.stem:<10} | {line}"
