"""Paths that are known beyond their routes: to the door, to the log, to traces, to whoever words an error.

Stage: 1 route.
Owns: how they are spelled, which belong together.
Does not know: what is answered there.
"""

from __future__ import annotations

from typing import Final

CHAT_COMPLETIONS: Final = "/v1/chat/completions"
COMPLETIONS: Final = "/v1/completions"
RESPONSES: Final = "/v1/responses"
KEPT_RESPONSES: Final = f"{RESPONSES}/"
"""What those begin with that read what is kept."""
COMPACT: Final = f"{KEPT_RESPONSES}compact"
CONVERSATIONS: Final = "/v1/conversations"
MESSAGES: Final = "/v1/messages"
MODELS: Final = "/v1/models"

HEALTH: Final = frozenset({"/health", "/health/live", "/health/ready", "/ping"})
METRICS: Final = frozenset({"/metrics", "/stats"})
OPERATORS: Final = HEALTH | METRICS
"""Asked every few seconds, by machines: answered to the last, waited for by nobody, and seldom worth a line."""

PAGE: Final = "/"
PAGE_FILES: Final = "/page/"
"""What the paths of the page's files begin with."""


def speaks_anthropic(path: str) -> bool:
    """Say whether the path belongs to Anthropic's API, so that its clients read the answer."""
    return _is_in(path, MESSAGES)


def takes_anthropic_key(path: str) -> bool:
    """Say whether Anthropic's clients go there with a key in their own header."""
    return speaks_anthropic(path) or _is_in(path, MODELS)


def _is_in(path: str, branch: str) -> bool:
    return path == branch or path.startswith(f"{branch}/")
