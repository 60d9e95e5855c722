"""The wish to stop, as a process is told it.

Stage: from a server's start to its end.
Owns: the handlers of SIGINT, SIGTERM and SIGHUP.
Does not know: what stopping takes.
"""

from __future__ import annotations

import signal
import time
from types import FrameType, TracebackType
from typing import Final

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
# A closing terminal or a nervous finger sends several signals within moments: they are one wish.
_SAME_WISH_S: Final = 0.5


class StopSignal:
    """While entered, a signal is a wish to be read; a later second SIGINT is the wish not to wait.

    A handler only sets plain attributes: it runs between two instructions of the main thread, where a lock could
    be held already.
    """

    def __init__(self) -> None:
        self.requested = False
        self.at_once = False
        self._requested_at = 0.0
        self._before: dict[signal.Signals, signal._HANDLER] = {}

    def __enter__(self) -> StopSignal:
        for number in _SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup, and a script's `&`, mean that it stays ignored
                self._before[number] = signal.signal(number, self._note)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def request(self) -> None:
        """Ask to stop, without a signal."""
        if not self.requested:
            self._requested_at = time.monotonic()
        self.requested = True

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.requested and number == signal.SIGINT and time.monotonic() - self._requested_at > _SAME_WISH_S:
            self.at_once = True
        self.request()
