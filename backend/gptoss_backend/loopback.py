"""Whom a listener is for: this machine alone, or others, too.

Stage: start, on either side.
Owns: which hosts are this machine's alone.
Does not know: what listens, what is asked of strangers.
"""

from __future__ import annotations

import ipaddress


def is_loopback(host: str) -> bool:
    """Say whether only this machine reaches what listens there."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
