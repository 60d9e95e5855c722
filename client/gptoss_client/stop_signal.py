"""The wish to stop, as a process is told it.

Stage: from a server's start to its end.
Owns: the handlers of SIGINT, SIGTERM and SIGHUP.
Does not know: which signals mean what (stop_wish.py), what stopping takes.
"""

from __future__ import annotations

import signal
from types import FrameType, TracebackType
from typing import Final

from gptoss_backend.stop_wish import StopWish

_SIGNALS: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class StopSignal(StopWish):
    """While entered, a signal is a wish to be read."""

    def __init__(self) -> None:
        super().__init__()
        self._before: dict[signal.Signals, signal._HANDLER] = {}

    def __enter__(self) -> StopSignal:
        for number in _SIGNALS:
            if signal.getsignal(number) is not signal.SIG_IGN:  # nohup, and a script's `&`, mean that it stays ignored
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def _handle(self, number: int, frame: FrameType | None) -> None:
        self.note(number)
