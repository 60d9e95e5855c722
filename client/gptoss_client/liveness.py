"""The questions by which a process that hangs is told from one that is busy.

Stage: the life of a server.
Owns: what each process of the server is asked, and how long it may take to answer.
Does not know: how often they are asked, what an answer leads to.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import httpx

from gptoss_backend.heartbeat import Heartbeats

_ANSWER_WITHIN_S: Final = 5.0


def adapter_hang(url: str) -> Callable[[], str | None]:
    """Return the question whether the adapter answers at all. url: its /health/live."""
    return lambda: None if _get(url) is not None else f"the adapter has not answered for {_ANSWER_WITHIN_S:g} s"


def triton_hang(metrics_url: str, step_timeout_s: float) -> Callable[[], str | None]:
    """Return the question whether tritonserver answers, its stubs show signs of life and its engines get on.

    It is to be asked over and over: one page tells of no silence.
    """
    heartbeats = Heartbeats()

    def ask() -> str | None:
        page = _get(metrics_url)
        if page is None:
            return f"tritonserver has not answered for {_ANSWER_WITHIN_S:g} s"
        return "; ".join(heartbeats.stuck_parts({metrics_url: page}, step_timeout_s)[metrics_url]) or None

    return ask


def _get(url: str) -> str | None:
    """Return the page; None where no answer came in time. Whoever refuses does not hang, and may be dead."""
    try:
        with httpx.Client(trust_env=False, verify=False, timeout=_ANSWER_WITHIN_S) as client:
            return client.get(url).text
    except httpx.TimeoutException:
        return None
    except httpx.HTTPError:
        return ""
