"""What a check finds: how it came out, in words, and what to do.

Stage: `gptoss doctor`.
Owns: the shape of a finding.
Does not know: what is checked, how findings are shown.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class Level(StrEnum):
    """How a check came out."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found."""

    subject: str
    level: Level
    words: str
    remedy: str = ""


def problem_of(sentence: str, subject: str) -> Finding:
    """Return a problem; what its sentence ends in after a colon is what to do."""
    words, colon, remedy = sentence.rpartition(": ")
    return Finding(subject, Level.PROBLEM, words, remedy) if colon else Finding(subject, Level.PROBLEM, sentence)
