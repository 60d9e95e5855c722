"""The lines a person types, edited and remembered, or those of a pipe.

Stage: `gptoss chat`, before a turn.
Owns: readline and its history file, how one message spans several lines.
Does not know: what the lines mean.
"""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Final

HISTORY: Final = Path(".local/state/gptoss/chat_history")
"""In the home folder."""
_HISTORY_LINES: Final = 1000
_PROMPT: Final = "you> "
_MORE_PROMPT: Final = " ... "
_CONTINUES: Final = "\\"


class LineInput:
    """Reads messages from standard input. On a terminal they are edited with readline and kept in a file."""

    def __init__(self) -> None:
        self.is_terminal = sys.stdin.isatty()

    def read(self) -> str | None:
        """Return the next message, a line or several joined by `\\` at their ends; None at the end of the input.

        Raises KeyboardInterrupt where Ctrl-C was typed.
        """
        lines: list[str] = []
        while True:
            line = self._line(_MORE_PROMPT if lines else _PROMPT)
            if line is None:
                return "\n".join(lines) or None
            lines.append(line.removesuffix(_CONTINUES))
            if not line.endswith(_CONTINUES):
                return "\n".join(lines)

    def _line(self, prompt: str) -> str | None:
        if not self.is_terminal:
            line = sys.stdin.readline()
            return line.removesuffix("\n") if line else None
        try:
            return input(prompt)
        except EOFError:
            return None

    @contextlib.contextmanager
    def remembered(self, history: Path | None = None) -> Iterator[None]:
        """Load the lines of earlier chats, and keep the latest of all at the end. A file that cannot be had is none."""
        if not self.is_terminal:
            yield
            return
        import readline  # here: a pipe needs none

        path = history or Path.home() / HISTORY
        with contextlib.suppress(OSError):
            readline.read_history_file(path)
        try:
            yield
        finally:
            readline.set_history_length(_HISTORY_LINES)
            with contextlib.suppress(OSError):
                path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))  # what people ask is nobody else's
                readline.write_history_file(path)
