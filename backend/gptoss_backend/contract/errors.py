"""Errors of a generation, as text: on a gRPC stream a Triton error has no status.

Stage: 4 schedule … 7 SSE.
Owns: the codes, and how one travels in the text.
Does not know: HTTP, what a client is told of a code (the adapter's errors.py).
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Final


class GenerationErrorCode(StrEnum):
    """Errors a client must tell apart. On a stream it has nothing but the text to tell them by."""

    CONTEXT_LENGTH_EXCEEDED = "context_length_exceeded"
    """INVALID_ARG: the prompt leaves no room for an answer."""
    QUEUE_FULL = "queue_full"
    """UNAVAILABLE: as many requests wait as may."""
    DEADLINE_EXCEEDED = "deadline_exceeded"
    """UNAVAILABLE: the request's time ran out, in the queue or while it was computed; tokens may have been sent."""
    INVALID_REQUEST = "invalid_request"
    """INVALID_ARG: anything else that is the request's fault."""
    STRUCTURE_FAILED = "structure_failed"
    """INVALID_ARG: the grammar of the request's structure outgrew its limits, or left no token to choose; tokens may
    have been sent."""
    SHUTTING_DOWN = "shutting_down"
    """UNAVAILABLE: the engine takes no more requests, or has ended under this one."""


# an ensemble puts this before the text of a step's error
_ENSEMBLE_PREFIX: Final = re.compile(r"^(?:in ensemble '[^']*', )+")


def encode_error(code: GenerationErrorCode, sentence: str) -> str:
    """Return the text of a Triton error that `decode_error` reads back."""
    return f"[{code}] {sentence}"


def decode_error(text: str) -> tuple[GenerationErrorCode | None, str]:
    """Return the code, None where there is none of ours, and the sentence, free of what an ensemble put before it."""
    sentence = _ENSEMBLE_PREFIX.sub("", text)
    for code in GenerationErrorCode:
        if sentence.startswith(f"[{code}] "):
            return code, sentence.removeprefix(f"[{code}] ")
    return None, sentence
