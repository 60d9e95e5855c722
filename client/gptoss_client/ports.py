"""Whether the ports a server needs can be had, asked before anything is started.

Stage: start of a server.
Owns: the sentence that says which port cannot be had, who has it and what to change.
Does not know: what listens on them later.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import psutil

from gptoss_client.errors import PortError, PortTakenError

# somebody else's, or one of those for the machine's services
_TAKEN: Final = (errno.EADDRINUSE, errno.EACCES)


@dataclass(frozen=True, slots=True)
class Listener:
    """A port a process is going to listen on."""

    purpose: str
    host: str
    port: int
    remedy: str
    """How to choose another port."""


def is_free(host: str, port: int) -> bool:
    """Tell whether a port can be listened on now. Raises PortError where no port of the host can."""
    try:
        check_ports([Listener("", host, port, "")])
    except PortTakenError:
        return False
    return True


def check_ports(listeners: Sequence[Listener]) -> None:
    """Return if every port can be had. Raises PortError with the first that cannot.

    PortTakenError where that is taken.
    """
    purposes: dict[int, str] = {}
    for listener in listeners:
        what = f"port {listener.port} ({listener.purpose})"
        if listener.port > 65535:
            raise PortError(f"{what} is past the last one, 65535: {listener.remedy}")
        if listener.port in purposes:
            raise PortError(f"{what} is also the port of {purposes[listener.port]}: {listener.remedy}")
        purposes[listener.port] = listener.purpose
        _try_to_listen(listener, what)


def _try_to_listen(listener: Listener, what: str) -> None:
    try:
        family, kind, protocol, _, address = socket.getaddrinfo(
            listener.host, listener.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )[0]
        with socket.socket(family, kind, protocol) as candidate:
            # connections that ended lately must not count as taken
            candidate.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            candidate.bind(address)
            candidate.listen(1)
    except socket.gaierror as error:
        raise PortError(f"{listener.host} is no address to listen on: {error.strerror}") from error
    except OSError as error:
        kind_of_error = PortTakenError if error.errno in _TAKEN else PortError
        raise kind_of_error(_sentence(listener, what, error)) from error


def _sentence(listener: Listener, what: str, error: OSError) -> str:
    if error.errno == errno.EADDRINUSE:
        return f"{what} is taken{_by_whom(listener.port)}: {listener.remedy}"
    if error.errno == errno.EADDRNOTAVAIL:
        return f"{listener.host} is not an address of this machine, so {what} cannot be listened on"
    return f"{what} cannot be listened on: {error.strerror}"


def _by_whom(port: int) -> str:
    try:
        for connection in psutil.net_connections("tcp"):
            listens = connection.status == psutil.CONN_LISTEN and connection.laddr and connection.laddr.port == port
            if listens and connection.pid:
                return f" by {psutil.Process(connection.pid).name()} (pid {connection.pid})"
    except psutil.Error:
        pass
    return ""
