"""The parts of a content → one text.

Stage: 2 validate → 3 prompt.
Owns: what stands between two parts.
Does not know: which parts an API has (schemas/).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol


class Part(Protocol):
    """A piece of a content."""

    @property
    def text(self) -> str:
        """What the model reads of it."""


def said(content: str | Iterable[Part]) -> str:
    """Return what somebody said: nothing stands between parts that clients cut, say to mark what is to be cached."""
    return content if isinstance(content, str) else "".join(part.text for part in content)


def returned(content: str | Iterable[Part]) -> str:
    """Return what a tool returned: each part is a whole by itself, as those of MCP are, and begins a line."""
    return content if isinstance(content, str) else "\n".join(part.text for part in content)
