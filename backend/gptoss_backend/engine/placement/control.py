"""The line between the engine's process and each other one: its words, and the proof that both live.

Owns: opening such lines, and the secret without which none is opened. Does not know: what is said over them.

A line is a TCP connection of `multiprocessing`, which checks by HMAC that the other side knows the secret. Only bytes
are sent, never pickled objects. When a process dies, by whatever death, its lines break, and the other side is told.
"""

from __future__ import annotations

import contextlib
import json
import os
import queue
import socket
import threading
from multiprocessing import AuthenticationError
from multiprocessing.connection import Client, Connection, Listener
from typing import Any

_CLOSE_TIMEOUT_S = 2.0


class LineError(Exception):
    """The other side is gone, or never came."""


class Line:
    """One connection, used by one thread for each direction."""

    def __init__(self, connection: Connection[bytes, bytes]) -> None:
        self._connection = connection
        self._socket = socket.socket(fileno=os.dup(connection.fileno()))
        # a step must not wait for the last one's acknowledgement
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

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
    """Where lines come in. They are taken in on a thread of its own: `accept` cannot be told to wait a while only."""

    def __init__(self, host: str, secret: bytes) -> None:
        self._listener = Listener((host, 0), authkey=secret, backlog=64)
        self._secret = secret
        self._is_closed = False
        self._lines: queue.SimpleQueue[Line] = queue.SimpleQueue()
        self._thread = threading.Thread(target=self._accept, name="exchange", daemon=True)
        self._thread.start()

    @property
    def address(self) -> str:
        """Return "host:port"."""
        host, port = self._listener.address
        return f"{host}:{port}"

    def next_line(self, timeout_s: float) -> Line | None:
        """Return the next line of somebody who knows the secret, or None where none came in time."""
        try:
            return self._lines.get(timeout=timeout_s)
        except queue.Empty:
            return None

    def close(self) -> None:
        """Take no more lines."""
        self._is_closed = True
        with contextlib.suppress(LineError):
            call(self.address, self._secret).close()  # wakes the thread
        self._thread.join(_CLOSE_TIMEOUT_S)
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                line = Line(self._listener.accept())
            except (AuthenticationError, EOFError, OSError):
                if self._is_closed:
                    return
                continue  # a stranger, or a worker that died on the way, which whoever started it will notice
            if self._is_closed:
                line.close()
                return
            self._lines.put(line)


def call(address: str, secret: bytes) -> Line:
    """Open a line to an exchange. Raises LineError."""
    host, _, port = address.rpartition(":")
    try:
        return Line(Client((host, int(port)), authkey=secret))
    except (OSError, EOFError, AuthenticationError) as error:
        raise LineError(f"no line to {address}: {error or type(error).__name__}") from error
