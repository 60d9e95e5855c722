"""The line between the engine's process and each other one: its words, and the proof that both live.

Owns: opening such lines, and the secret without which none is opened. Does not know: what is said over them.

A line is a TCP connection of `multiprocessing`, which checks by HMAC that the other side knows the secret. Only bytes
are sent, never pickled objects. When a process dies, by whatever death, or its whole host, its lines break, and the
other side is told.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import socket
import struct
import threading
import time
from multiprocessing import AuthenticationError
from multiprocessing.connection import Connection, answer_challenge, deliver_challenge
from typing import Any, Self

from gptoss_backend.host_port import host_port

_CLOSE_TIMEOUT_S = 2.0
_GREETING_TIMEOUT_S = 10.0
"""Within which each of the two has to prove that it knows the secret."""
_RETRY_S = 0.1
# a host that is gone without a word is noticed after half a minute
_KEEPALIVE = {
    socket.TCP_KEEPIDLE: 10,
    socket.TCP_KEEPINTVL: 5,
    socket.TCP_KEEPCNT: 4,
    socket.TCP_USER_TIMEOUT: 30_000,  # ms
}


class LineError(Exception):
    """The other side is gone, or never came."""


class Line:
    """One connection, used by one thread for each direction."""

    def __init__(self, connection: Connection[bytes, bytes]) -> None:
        self._connection = connection
        self._socket = socket.socket(fileno=os.dup(connection.fileno()))
        # a step must not wait for the last one's acknowledgement
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
        for option, value in _KEEPALIVE.items():
            self._socket.setsockopt(socket.IPPROTO_TCP, option, value)

    @classmethod
    def over(cls, connected: socket.socket, secret: bytes, *, calls: bool) -> Self:
        """Make a line of a connection, once both sides have proved that they know the secret; takes the socket over.

        calls: whether this side has called the other. Raises LineError.
        """
        _limit_waiting(connected, _GREETING_TIMEOUT_S)
        connection = Connection(connected.detach())
        prove = (answer_challenge, deliver_challenge) if calls else (deliver_challenge, answer_challenge)
        try:
            for turn in prove:
                turn(connection, secret)
            line = cls(connection)
            _limit_waiting(line._socket, 0.0)
        except (OSError, EOFError, AuthenticationError) as error:
            connection.close()
            raise LineError(str(error) or type(error).__name__) from error
        return line

    def send(self, message: bytes) -> None:
        """Send one message. Raises LineError."""
        try:
            self._connection.send_bytes(message)
        except (OSError, ValueError) as error:
            raise LineError(str(error)) from error

    def receive(self, timeout_s: float | None = None) -> bytes:
        """Wait for one message. Raises LineError where the other side is gone or says nothing in time."""
        try:
            if timeout_s is not None and not self._connection.poll(timeout_s):
                raise LineError(f"nothing was heard for {timeout_s:g} s")
            return self._connection.recv_bytes()
        except (OSError, EOFError) as error:
            raise LineError("the connection has ended") from error

    def tell(self, document: dict[str, Any]) -> None:
        """Send a JSON object."""
        self.send(json.dumps(document).encode())

    def hear(self, timeout_s: float | None = None) -> dict[str, Any]:
        """Wait for a JSON object."""
        document: dict[str, Any] = json.loads(self.receive(timeout_s))
        return document

    def close(self) -> None:
        """End the connection, for whoever waits at either side, too."""
        with contextlib.suppress(OSError):  # the other side was faster
            # closing alone would tell nobody while a thread of ours still reads
            self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()


class Exchange:
    """Where lines come in, each on a thread of its own: nobody waits for a stranger who says nothing."""

    def __init__(self, host: str, secret: bytes) -> None:
        self._socket = socket.create_server((host, 0), backlog=64)
        self._secret = secret
        self._is_closed = False
        self._lines: queue.SimpleQueue[Line] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._accept, name="exchange", daemon=True)
        self._thread.start()

    @property
    def port(self) -> int:
        """Where it listens."""
        port: int = self._socket.getsockname()[1]
        return port

    def next_line(self, timeout_s: float) -> Line | None:
        """Return the next line of somebody who knows the secret, or None where none came in time."""
        try:
            return self._lines.get(timeout=timeout_s)
        except queue.Empty:
            return None

    def close(self) -> None:
        """Take no more lines."""
        self._is_closed = True
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)  # wakes the thread
        self._thread.join(_CLOSE_TIMEOUT_S)
        self._socket.close()

    def _accept(self) -> None:
        while not self._is_closed:
            try:
                connected, _ = self._socket.accept()
            except OSError:  # closed; or no more files may be open, which passes
                time.sleep(_RETRY_S)
                continue
            threading.Thread(target=self._greet, args=(connected,), name="greeting", daemon=True).start()

    def _greet(self, connected: socket.socket) -> None:
        # else it is a stranger, or a worker that died on the way, which whoever started it will notice
        with contextlib.suppress(LineError):
            self._lines.put(Line.over(connected, self._secret, calls=False))


def call(host: str, port: int, secret: bytes) -> Line:
    """Open a line to an exchange. Raises LineError."""
    try:
        connected = socket.create_connection((host, port), timeout=_GREETING_TIMEOUT_S)
        connected.settimeout(None)
        return Line.over(connected, secret, calls=True)
    except (OSError, LineError) as error:
        raise LineError(f"no line to {host_port(host, port)}: {error or type(error).__name__}") from error


def _limit_waiting(connected: socket.socket, timeout_s: float) -> None:
    """Let sending and receiving fail after so long; 0: never."""
    timeval = struct.pack("@ll", int(timeout_s), int(timeout_s % 1 * 1e6))
    for option in (socket.SO_RCVTIMEO, socket.SO_SNDTIMEO):
        connected.setsockopt(socket.SOL_SOCKET, option, timeval)
