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
        self._history: Path | None = None
        self._num_remembered = 0

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
            line = input(prompt)
        except EOFError:
            return None
        self._remember()
        return line

    @contextlib.contextmanager
    def remembered(self, history: Path | None = None) -> Iterator[None]:
        """Load the lines of earlier chats, and keep each as it comes. A file that cannot be had is none."""
        if not self.is_terminal:
            yield
            return
        import readline  # here: a pipe needs none

        readline.parse_and_bind("set enable-bracketed-paste on")  # what is pasted is one message, whatever its lines
        readline.set_history_length(_HISTORY_LINES)
        with contextlib.suppress(OSError, RuntimeError):  # RuntimeError: nobody's home is known
            path = history or Path.home() / HISTORY
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            os.close(os.open(path, os.O_CREAT | os.O_WRONLY, 0o600))  # what people ask is nobody else's
            readline.read_history_file(path)
            self._history, self._num_remembered = path, readline.get_current_history_length()
        yield

    def _remember(self) -> None:
        """Keep the line just typed: a terminal that is closed ends the chat without a word."""
        if self._history is None:
            return
        import readline

        # an empty line, or one typed twice, adds nothing
        num_new = readline.get_current_history_length() - self._num_remembered
        with contextlib.suppress(OSError):
            readline.append_history_file(num_new, self._history)
        self._num_remembered += num_new
