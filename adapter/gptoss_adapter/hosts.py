"""By which name the server is called.

Stage: 1 route.
Owns: which names are a server's own.
Does not know: who asks, what for.

A web page of another site can have its own name lead to 127.0.0.1 (DNS rebinding). To the browser it then talks to its
own site: no CORS keeps it from sending, and from reading what this server answers. The name in `Host` tells.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection
from typing import Final

from starlette.datastructures import Headers

from gptoss_adapter.errors import InvalidRequestError

_NOBODYS: Final = (".localhost", ".internal")
"""Under which nobody can register a name. Containers call their host by one: host.docker.internal."""
_ANY: Final = "*"


class HostCheck:
    """Lets requests in that call the server by a name of its own."""

    def __init__(self, allowed: Collection[str] = ()) -> None:
        """allowed: names beside the machine's own; `*` among them: any."""
        self._allowed = {name.lower() for name in allowed}

    def check(self, headers: Headers) -> None:
        """Raise InvalidRequestError for a name that anybody could have registered."""
        name = _name_in(headers.get("host", ""))
        # a name without a dot is no site's; an address leads where it says
        if "." not in name or name.endswith(_NOBODYS) or is_address(name) or self._allowed & {name, _ANY}:
            return
        message = (
            f"This server is not called {name!r}. It answers to localhost, to addresses, and to adapter.allowed_hosts."
        )
        raise InvalidRequestError(message, code="unknown_host")


def is_address(host: str) -> bool:
    """Say whether that is an address, and no name."""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _name_in(host: str) -> str:
    """Return a Host header without its port and its last dot; of an IPv6 address without its brackets."""
    name = host.rpartition("]")[0].removeprefix("[") if host.startswith("[") else host.partition(":")[0]
    return name.lower().removesuffix(".")
