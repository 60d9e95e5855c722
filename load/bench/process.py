"""One server's processes: started, asked for, held still while others are measured, ended.

Stage: around a run.
Owns: signals, the tree of processes, their CPU time.
Does not know: what the server is, what it is asked.

While another server is measured this one is stopped (SIGSTOP), so that whatever it does when idle cannot disturb.
"""

from __future__ import annotations

import signal
import socket
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

import httpx
import psutil

from load.bench.stream import PeerError

_PERIOD_S: Final = 0.25
_END_TIMEOUT_S: Final = 30.0


def free_port() -> int:
    """Return the first of four free ports on this machine: our own server takes that many."""
    for port in range(8410, 9000, 10):
        with suppress(OSError):
            for offset in range(4):
                with socket.socket() as probe:
                    probe.bind(("127.0.0.1", port + offset))
            return port
    raise PeerError("no free port between 8410 and 9000")


def prioritize(process: psutil.Process, nice: int) -> None:
    """Give a process `nice`, and its session too: Linux shares the CPU out among sessions first."""
    with suppress(psutil.Error, OSError):
        process.nice(nice)
        Path(f"/proc/{process.pid}/autogroup").write_text(str(nice), encoding="ascii")


class ServerProcess:
    """A running command and all that it has started."""

    def __init__(
        self, name: str, command: Sequence[str], log: Path, *, variables: Mapping[str, str], pipes: bool = False
    ) -> None:
        """Start it.

        variables: what it finds in its environment besides this process's.
        pipes: keep its standard input and output, which else are nothing and the log.
        """
        self.name = name
        self.log = log
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as output:
            self.popen = subprocess.Popen(
                ["env", *(f"{variable}={text}" for variable, text in variables.items()), *command],
                cwd=log.parent,
                stdin=subprocess.PIPE if pipes else subprocess.DEVNULL,
                stdout=subprocess.PIPE if pipes else output,
                stderr=output,
                start_new_session=True,
            )
        self._root = psutil.Process(self.popen.pid)

    def wait_ready(self, url: str, timeout_s: float) -> None:
        """Block until `url` answers 200. Raises PeerError."""
        deadline_s = time.monotonic() + timeout_s
        with httpx.Client(trust_env=False, verify=False, timeout=2.0) as client:
            while time.monotonic() < deadline_s:
                if self.popen.poll() is not None:
                    raise PeerError(f"{self.name} ended with {self.popen.returncode}: {self.last_words()}")
                with suppress(httpx.HTTPError):
                    if client.get(url).status_code == httpx.codes.OK:
                        return
                time.sleep(_PERIOD_S)
        raise PeerError(f"{self.name} was not ready after {timeout_s:.0f} s: {self.last_words()}")

    def pause(self) -> None:
        """Hold all its processes still."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let all its processes go on."""
        self._signal(signal.SIGCONT)

    def prioritize(self, nice: int) -> None:
        """Give all its processes `nice`."""
        for process in self._tree():
            prioritize(process, nice)

    def cpu_s(self) -> float:
        """CPU time of all its processes so far."""
        total_s = 0.0
        for process in self._tree():
            with suppress(psutil.Error):
                times = process.cpu_times()
                total_s += times.user + times.system
        return total_s

    def end(self) -> None:
        """End all its processes: by SIGTERM, by SIGKILL what is left of them."""
        self.resume()
        tree = self._tree()
        with suppress(psutil.Error):
            self._root.terminate()
        psutil.wait_procs(tree, timeout=_END_TIMEOUT_S)
        for process in tree:
            with suppress(psutil.Error):
                process.kill()
        self.popen.wait()

    def last_words(self) -> str:
        """The end of its log."""
        lines = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        return " / ".join(lines[-4:])[-800:]

    def _tree(self) -> list[psutil.Process]:
        try:
            return [self._root, *self._root.children(recursive=True)]
        except psutil.Error:
            return []

    def _signal(self, number: signal.Signals) -> None:
        for process in self._tree():
            with suppress(psutil.Error):
                process.send_signal(number)


class CpuWatch:
    """How much of the machine others take while a server is measured."""

    def __init__(self, server_cpu_s: Callable[[], float] = lambda: 0.0) -> None:
        """server_cpu_s: CPU time so far of what is measured beside this process."""
        self._server_cpu_s = server_cpu_s
        self._started_s = time.monotonic()
        self._own_s, self._all_s = self._read()

    def others_share(self) -> float:
        """Share of the machine's CPU time since the start that neither the server nor this process took, 0 to 1."""
        own_s, all_s = self._read()
        elapsed_s = time.monotonic() - self._started_s
        others_s = (all_s - self._all_s) - (own_s - self._own_s)
        return max(0.0, others_s / (elapsed_s * (psutil.cpu_count() or 1)))

    def _read(self) -> tuple[float, float]:
        times = psutil.cpu_times()
        busy_s = sum(times) - times.idle - times.iowait - times.guest - times.guest_nice  # guests are in user already
        client = psutil.Process().cpu_times()
        return self._server_cpu_s() + client.user + client.system, busy_s
