"""How many files this process may have open: each connection is one.

Stage: start-up of what has many connections: the adapter, `gptoss bench`.
Owns: the limit on them, how many a server's settings ask for.
Does not know: who connects.

Shells, systemd and containers give a soft limit of 1,024, for the sake of programs that call select(), and a far higher
hard one.
"""

from __future__ import annotations

import contextlib
import resource
import sys
from typing import Final

from gptoss_backend.settings import Settings

_OTHER_FILES: Final = 64
"""Logs, the database, lines to Triton and to MCP servers."""


def raise_limit() -> int:
    """Let this process open as many files as it may, and return how many that are."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(ValueError, OSError):  # macOS has no hard limit, and takes no such soft one
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return _number(resource.getrlimit(resource.RLIMIT_NOFILE)[0])


def hard_limit() -> int:
    """Return to how many this process may raise its limit."""
    return _number(resource.getrlimit(resource.RLIMIT_NOFILE)[1])


def files_wanted(settings: Settings) -> int:
    """Return how many the adapter has open where the engines are full.

    Each answer is a connection, and as many again are kept between requests, or are about to be refused.
    """
    profiles = [settings.profiles[settings.profile_of(model)] for model in settings.served_models]
    engine, num_replicas = settings.engine, len(settings.server.replica_targets or [""])
    num_answers = num_replicas * sum(
        (profile.max_num_seqs or engine.max_num_seqs) + (profile.max_queue or engine.max_queue) for profile in profiles
    )
    return 2 * num_answers + _OTHER_FILES


def _number(limit: int) -> int:
    return sys.maxsize if limit == resource.RLIM_INFINITY else limit
