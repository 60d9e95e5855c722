"""Where the replicas are, by the names that the settings give them.

Owns: the looking up of names.
Does not know: who is at the addresses.

gRPC looks a name up only when a connection breaks, so it never sees a replica that is added to healthy ones (its issues
12295 and 30015): names are looked up here, again and again.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Sequence

from gptoss_backend.host_port import host_port
from gptoss_backend.settings import DNS_SCHEME

logger = logging.getLogger(__name__)


class ReplicaNames:
    """Names and addresses that together stand for the fleet. A name stands for all that it is looked up to."""

    def __init__(self, targets: Sequence[str]) -> None:
        """targets: `host:port`, `[IPv6]:port` or `dns:///name:port`."""
        self._last: dict[str, tuple[str, ...]] = {target.removeprefix(DNS_SCHEME): () for target in targets}

    async def look_up(self) -> tuple[str, ...]:
        """Return all addresses, sorted. A name that cannot be looked up now stands for what it stood for before."""
        for target, known in self._last.items():
            try:
                self._last[target] = await _addresses(target)
            except OSError as error:
                level = logging.DEBUG if known else logging.WARNING
                logger.log(level, "cannot look up the replica %s: %s", target, error)
        return tuple(sorted({address for found in self._last.values() for address in found}))


async def _addresses(target: str) -> tuple[str, ...]:
    host, _, port = target.rpartition(":")
    found = await asyncio.get_running_loop().getaddrinfo(host.strip("[]"), int(port), type=socket.SOCK_STREAM)
    # a pod or a host of both families is one replica
    families = {family for family, *_ in found}
    family = socket.AF_INET if socket.AF_INET in families else socket.AF_INET6
    return tuple(host_port(str(address[0]), int(address[1])) for one, *_, address in found if one == family)
