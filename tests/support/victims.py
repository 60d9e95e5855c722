"""The processes of a running server, found by their role, and clients that watch what becomes of them.

Signals go only to what the given server started.
"""

from __future__ import annotations

import threading
import time

import httpx
import psutil

from gptoss_client.run_state import RunDirectory, RunState
from support.live_server import LiveServer, wait_until

CHAT = {"model": "gpt-oss-demo", "messages": [{"role": "user", "content": "count"}], "ignore_eos": True}
ENDLESS = CHAT | {"max_tokens": 100_000, "stream": True}


class Stream:
    """A client that reads a long answer in a thread of its own until it ends, however it ends."""

    def __init__(self, server: LiveServer) -> None:
        self.num_lines = 0
        self.last_line = ""
        self.failure: httpx.HTTPError | None = None
        self.ended_at = 0.0
        self._is_leaving = False
        self._url = f"{server.url}/v1/chat/completions"
        self._thread = threading.Thread(target=self._read, name="client")
        self._thread.start()

    def wait_for_lines(self, count: int, timeout_s: float = 20.0) -> None:
        """Wait until the answer has grown by `count` lines."""
        wanted = self.num_lines + count
        wait_until(lambda: self.num_lines >= wanted, timeout_s=timeout_s)

    def join(self, timeout_s: float = 30.0) -> float:
        """Wait until the answer has ended and return when."""
        self._thread.join(timeout=timeout_s)
        assert not self._thread.is_alive(), "the client still waits"
        return self.ended_at

    def leave(self) -> None:
        """Close the connection in the midst of the answer."""
        self._is_leaving = True
        self.join()

    def _read(self) -> None:
        try:
            with httpx.stream("POST", self._url, json=ENDLESS, timeout=60.0) as answer:
                for line in answer.iter_lines():
                    if line:
                        self.num_lines += 1
                        self.last_line = line
                    if self._is_leaving:
                        return
        except httpx.HTTPError as failure:
            self.failure = failure
        self.ended_at = time.monotonic()


def state_of(server: LiveServer) -> RunState:
    """Return what the supervisor says of the server."""
    state = RunDirectory(server.run_dir).read_state()
    assert state is not None
    return state


def num_deaths_of(server: LiveServer) -> int:
    """Return how often any of its processes died."""
    return sum(death.count for death in state_of(server).deaths)


def tritonserver(server: LiveServer) -> int:
    """Return tritonserver's process id."""
    return _pid_of(server, "tritonserver")


def adapter(server: LiveServer) -> int:
    """Return the adapter's process id."""
    return _pid_of(server, "adapter")


def generation_stub(server: LiveServer, name: str = "tritonserver") -> int:
    """Return the process id of the stub that holds the engine of that tritonserver."""
    children = psutil.Process(_pid_of(server, name)).children()
    return next(child.pid for child in children if any("gpt_oss_demo" in word for word in child.cmdline()))


def answers(server: LiveServer) -> bool:
    """Ask a short chat and tell whether it was answered."""
    try:
        body = CHAT | {"max_tokens": 4}
        return httpx.post(f"{server.url}/v1/chat/completions", json=body, timeout=10.0).status_code == httpx.codes.OK
    except httpx.HTTPError:
        return False


def _pid_of(server: LiveServer, name: str) -> int:
    return next(record.pid for record in state_of(server).processes if record.name == name)
