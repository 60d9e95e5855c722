"""A host and a port as one text.

Stage: any.
Owns: how an address is written before a port, in URLs and gRPC's targets.
Does not know: who is there.
"""

from __future__ import annotations


def host_port(host: str, port: int) -> str:
    """Return `host:port`, of an IPv6 address `[host]:port`."""
    return f"{bracketed(host)}:{port}"


def bracketed(host: str) -> str:
    """Return the host, an IPv6 address in brackets: its colons are no port's."""
    return f"[{host}]" if ":" in host else host
