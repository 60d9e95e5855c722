"""How an answer looks on a terminal or in a pipe while it streams.

Stage: the client's end of a request's way.
Owns: what sets reasoning and calls apart, with colours or without; keeping a terminal safe from what a model writes.
Does not know: conversations, where parts come from.
"""

from __future__ import annotations

import re
import time
from typing import Final

from rich.console import Console

from gptoss_client.answer import AnswerPart, CallPart, Content, Ended, Reasoning
from gptoss_client.console import plain_console

_MARGIN: Final = "│ "
_ASIDE: Final = "dim"
# an escape sequence in an answer could retitle, clear or otherwise drive the reader's terminal
_CONTROLS: Final = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


def make_console(*, stderr: bool = False) -> Console:
    """Return a console that prints texts as they are, and no styles at all where NO_COLOR is set or none is shown."""
    is_plain = Console(stderr=stderr).no_color
    return plain_console(stderr=stderr, color_system=None if is_plain else "auto")


def printable(text: str) -> str:
    """Return the text without characters that would drive a terminal."""
    return _CONTROLS.sub("", text)


class AnswerView:
    """Shows one answer: reasoning behind a line at the margin and dim, the answer itself as it is."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._is_aside = False
        self._at_line_start = True
        self._begun_s = time.perf_counter()
        self._first_s: float | None = None

    def show(self, part: AnswerPart) -> None:
        """Show the next part at once."""
        if self._first_s is None and not isinstance(part, Ended):
            self._first_s = time.perf_counter()
        match part:
            case Reasoning(text):
                self._write(text, is_aside=True)
            case Content(text):
                self._write(text, is_aside=False)
            case CallPart() | Ended():
                pass  # calls are told once they are whole

    def end(self) -> None:
        """Finish the line that is open."""
        if not self._at_line_start:
            self._console.print()
            self._at_line_start = True

    def figures(self, ended: Ended) -> str:
        """Return what the answer cost, in a line."""
        now_s = time.perf_counter()
        first_s = self._first_s or now_s
        words = [f"first token after {first_s - self._begun_s:.2f} s"]
        if ended.usage is not None:
            tokens = ended.usage.completion_tokens
            words.insert(0, f"{tokens} tokens")
            words.append(f"{tokens / (now_s - self._begun_s):.0f} tokens/s")
        if ended.finish_reason == "length":
            words.append("cut at the limit of tokens")
        return " · ".join(words)

    def _write(self, text: str, *, is_aside: bool) -> None:
        if is_aside != self._is_aside:
            self.end()
            self._is_aside = is_aside
        for line in printable(text).splitlines(keepends=True):
            margin = _MARGIN if is_aside and self._at_line_start else ""
            self._console.print(margin + line, end="", style=_ASIDE if is_aside else None)
            self._at_line_start = line.endswith("\n")
        self._console.file.flush()
