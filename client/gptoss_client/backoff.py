"""How long to wait before a process that died is started again.

Stage: the life of a server.
Owns: the growth of that wait, and when earlier deaths are forgotten.
Does not know: what died, or why.
"""

from __future__ import annotations


class Backoff:
    """Waits that double with every death, until a process has been healthy for long."""

    def __init__(self, first_s: float = 0.25, longest_s: float = 30.0, forget_after_s: float = 180.0) -> None:
        """forget_after_s: a process that was healthy for so long begins at `first_s` again."""
        self._first_s = first_s
        self._longest_s = longest_s
        self._forget_after_s = forget_after_s
        self._next_s = first_s

    def next_delay_s(self, healthy_s: float) -> float:
        """Return how long to wait after a death. healthy_s: for how long the process had been ready; 0: never."""
        if healthy_s >= self._forget_after_s:
            self._next_s = self._first_s
        delay_s = self._next_s
        self._next_s = min(2 * delay_s, self._longest_s)
        return delay_s
