"""What became of each chat.

Stage: behind 7 SSE.
Owns: a chat's record.
Does not know: locust, how a chat is held, what is made of the records.

A record takes some 300 bytes, so an hour of 50 chats a second takes 50 MB.
"""

from __future__ import annotations

from enum import StrEnum
from typing import NamedTuple


class Outcome(StrEnum):
    """How a chat ended."""

    ANSWERED = "answered"
    FAILED = "failed"
    LEFT = "left early"
    """The user gave it up on purpose."""
    CUT_OFF = "cut off"
    """The end of the run interrupted it."""


class ChatRecord(NamedTuple):
    """One chat. A tuple, so that locust's workers can send it as it is."""

    kind: str
    """Of its user."""
    outcome: str
    """An Outcome."""
    began_s: float
    """When it was due, in seconds since the epoch: waiting for a free user counts."""
    e2e_s: float
    """From then to its end."""
    ttft_s: float | None = None
    """From then to the first token; None where none came."""
    inter_token_s: float | None = None
    """Mean time from token to token; None where fewer than two tell nothing, or the answer was not read to its end."""
    num_tokens: int = 0
    fault: str = ""
    """Why it failed, in one sentence."""

    @property
    def ended_s(self) -> float:
        """When it ended, in seconds since the epoch."""
        return self.began_s + self.e2e_s
