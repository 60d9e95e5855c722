"""What of an answer's content goes out, and when.

Stage: 6, behind the channel splitter.
Owns: that content ends before a stop string, that log probabilities go out with the text of their tokens.
Does not know: channels, the engine, how answers are written.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from gptoss_adapter.stop_strings import StopStrings
from gptoss_backend.contract import Phase, TokenLogprob
from gptoss_backend.harmony.deltas import ContentDelta


@dataclass(frozen=True, slots=True)
class ContentToken:
    """A token of the content and how likely it was."""

    start: int
    """Characters of content before it; the tokens of one character share theirs."""
    scored: TokenLogprob


@dataclass(frozen=True, slots=True)
class ScoredContent(ContentDelta):
    """More content, and the tokens whose text begins in it."""

    tokens: tuple[ContentToken, ...] = ()


class ContentGate:
    """Every piece of content passes here, in order."""

    def __init__(self, stop: Sequence[str] = (), *, shows_stop: bool = False) -> None:
        """stop: strings at which the content ends. shows_stop: with the string itself, not before it."""
        self._stop = StopStrings(stop, is_shown=shows_stop)
        self._tokens: deque[ContentToken] = deque()
        self._apart = ""  # goes before the next text
        self._phase: Phase = "final_answer"
        self._num_pushed = 0  # characters
        self._num_shown = 0

    @property
    def stopped(self) -> bool:
        """A stop string was found: the content is over, and nothing is to be pushed any more."""
        return self._stop.matched

    def hold_stops(self, *, is_held: bool) -> None:
        """Say whether stop strings in what is pushed next count for nothing, being too early."""
        self._stop.may_end = not is_held

    @property
    def stop_string(self) -> str | None:
        """The one that was found."""
        return self._stop.found

    def score(self, tokens: Iterable[TokenLogprob]) -> None:
        """Announce tokens whose text is pushed next, or has begun to be."""
        self._tokens.extend(ContentToken(self._num_pushed, scored) for scored in tokens)

    def push(self, text: str, num_inserted: int = 0, phase: Phase = "final_answer") -> list[ContentDelta]:
        """Take more content and return what may be shown.

        num_inserted: its first characters, where a message begins: not the model's, so no stop string reaches there.
        phase: of that message.
        """
        self._num_pushed += len(text)
        before = self.interrupt() if num_inserted else []
        self._phase = phase
        self._apart += text[:num_inserted]
        return before + self._show(self._stop.push(text[num_inserted:]))

    def interrupt(self) -> list[ContentDelta]:
        """Return what is held back: something else than content follows."""
        return self._show(self._stop.flush())

    def finish(self) -> list[ContentDelta]:
        """Return what is held back: nothing follows."""
        last = self.interrupt()
        if self._tokens and not self.stopped:  # tokens without text
            last.append(ScoredContent("", tuple(self._tokens), phase=self._phase))
            self._tokens.clear()
        return last

    def _show(self, text: str) -> list[ContentDelta]:
        if not text:
            return []
        num_inserted = len(self._apart)
        text, self._apart = self._apart + text, ""
        self._num_shown += len(text)
        tokens = []
        while self._tokens and self._tokens[0].start < self._num_shown:
            tokens.append(self._tokens.popleft())
        if not tokens:
            return [ContentDelta(text, num_inserted=num_inserted, phase=self._phase)]
        return [ScoredContent(text, tuple(tokens), num_inserted=num_inserted, phase=self._phase)]
