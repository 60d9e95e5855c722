"""Asking a process whether it is ready.

Stage: start of a server, `gptoss status`.
Owns: what an answer, or none, says to people.
Does not know: who answers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import httpx

_PROBE_TIMEOUT_S: Final = 2.0


def http_probe(url: str) -> Callable[[], bool]:
    """Return a question that is answered yes when `url` answers 200."""
    return lambda: probe(url) == "ready"


def probe(url: str) -> str:
    """Ask once and return "ready" or what is the matter, for people. Blocks for two seconds at most."""
    try:
        # neither proxies nor certificates: it is this machine that is asked, by an address no certificate names
        with httpx.Client(trust_env=False, verify=False, timeout=_PROBE_TIMEOUT_S) as client:
            status = client.get(url).status_code
    except httpx.TimeoutException:
        return "does not answer in time"
    except httpx.HTTPError:
        return "does not answer"
    return "ready" if status == httpx.codes.OK else f"not ready (HTTP {status})"
