"""What signals say of the wish to stop.

Stage: the end of a process, on either side.
Owns: which signals mean the wish not to wait.
Does not know: who handles the signals, what stopping takes.
"""

from __future__ import annotations

import signal
import time
from typing import Final

# a closing terminal or a nervous finger sends several signals within moments: they are one wish
_SAME_WISH_S: Final = 0.5


class StopWish:
    """The first signal is the wish to stop, a Ctrl-C some time after it the wish not to wait.

    A further SIGTERM is the same wish: systemd sends it to all of a service, and so does then who started this.
    A signal's handler may call it, between any two instructions of the main thread: it only sets plain attributes,
    for a lock could be held already.
    """

    def __init__(self) -> None:
        self.requested = False
        self.at_once = False
        self._requested_at = 0.0

    def request(self) -> None:
        """Ask to stop, without a signal."""
        if not self.requested:
            self._requested_at = time.monotonic()
        self.requested = True

    def note(self, number: int) -> None:
        """Take a signal."""
        if self.requested and number == signal.SIGINT and time.monotonic() - self._requested_at > _SAME_WISH_S:
            self.at_once = True
        self.request()
