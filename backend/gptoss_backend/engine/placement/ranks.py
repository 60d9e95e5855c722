"""The other ranks, seen from the engine's process: their coming, what they say, their end.

Stage: start-up, and the life of a spread model. Owns: the processes of this host's ranks, the line to each rank and the
thread that listens to it. Does not know: layers, steps, tensors.

A line is listened to from the moment it is there, so that a death, or a rank's word of what it died of, is known
whatever is waited for.
"""

from __future__ import annotations

import json
import logging
import queue
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Final

from torch.distributed import TCPStore  # type: ignore[attr-defined]

from gptoss_backend.engine.errors import EngineError
from gptoss_backend.engine.placement.cluster import Cluster
from gptoss_backend.engine.placement.control import Exchange, Line, LineError
from gptoss_backend.engine.placement.group import open_store
from gptoss_backend.engine.placement.jobs import Job, spawn
from gptoss_backend.engine.placement.worker import CONTROL_KEY, Assignment
from gptoss_backend.host_port import host_port

logger = logging.getLogger(__name__)

_LOOK_PERIOD_S: Final = 0.1
_TELL_PERIOD_S: Final = 30.0
_END_TIMEOUT_S: Final = 5.0
_FAULT_COMES_S: Final = 1.0


@dataclass(slots=True)
class _Peer:
    """A rank that has come."""

    line: Line
    answers: queue.SimpleQueue[Any] = field(default_factory=queue.SimpleQueue)
    """None: there will be no more."""
    is_gone: bool = False  # set by the thread that listens


class Ranks:
    """All ranks but the engine's own. Used by one thread at a time; `fault` by any."""

    def __init__(self, cluster: Cluster, assignments: Sequence[Assignment]) -> None:
        """assignments: of all ranks, the engine's own first."""
        self._cluster = cluster
        self._assignments = assignments
        self._processes: list[subprocess.Popen[bytes]] = []
        self._peers: dict[int, _Peer] = {}
        self._are_complete = False
        self._is_closing = False
        self.fault: str | None = None
        """Why the ranks are at an end, in one sentence; None while they are not."""

    def gather(self, folder: Path) -> TCPStore:
        """Start the ranks of this host, wait for those elsewhere, tell each its part; returns where they have met.

        Raises EngineError where one cannot start, or does not come.
        """
        cluster = self._cluster
        try:
            store = open_store(cluster.host, cluster.port, is_master=True, timeout_s=cluster.timeout_s)
            exchange = Exchange(cluster.host, cluster.secret.encode())
        except OSError as error:
            raise EngineError(f"the ranks cannot meet at {host_port(cluster.host, cluster.port)}: {error}") from error
        store.set(CONTROL_KEY, str(exchange.port))
        try:
            for rank in range(1, len(cluster.devices)):
                self._processes.append(spawn(self._job(rank, folder, store.port)))
            self._take_calls(exchange)
        finally:
            exchange.close()
        return store

    def tell(self, document: dict[str, Any]) -> None:
        """Send every rank a JSON object. Raises EngineError."""
        try:
            self.send(json.dumps(document).encode())
        except LineError as error:
            raise EngineError(self.fault or f"a rank died while it started: {error}") from error

    def send(self, message: bytes) -> None:
        """Send every rank a message. Raises LineError."""
        for peer in self._peers.values():
            peer.line.send(message)

    def hear_all(self) -> list[dict[str, Any]]:
        """Wait for an answer of each; loading takes as long as it takes. Raises EngineError."""
        return [self._hear(rank) for rank in sorted(self._peers)]

    def hear_last(self, timeout_s: float) -> Any:  # noqa: ANN401 (what a step's output is, the caller knows)
        """Wait for the next word of the last rank; None where the ranks are at an end. Raises queue.Empty."""
        return self._peers[self._cluster.num_ranks - 1].answers.get(timeout=timeout_s)

    def give_up(self, fault: str) -> str:
        """Note why the ranks are at an end, unless it is known already; returns the reason that stands."""
        if self.fault is None:
            self.fault = fault
            logger.critical("%s", fault)
        for peer in list(self._peers.values()):
            peer.answers.put(None)
        return self.fault

    def await_fault(self) -> None:
        """Wait a moment for a fault: what fails here may fail because a rank is gone, which its line tells soon."""
        deadline_s = time.monotonic() + _FAULT_COMES_S
        while self.fault is None and time.monotonic() < deadline_s:
            time.sleep(0.01)

    def close(self) -> None:
        """End every rank. Harmless when some have ended already."""
        self._is_closing = True
        for peer in self._peers.values():
            peer.line.close()
        deadline = time.monotonic() + _END_TIMEOUT_S
        for process in self._processes:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()

    # --- coming ---

    def _job(self, rank: int, folder: Path, port: int) -> Job:
        cluster = self._cluster
        return Job(
            rank=rank,
            folder=str(folder),
            rendezvous_host=cluster.host,
            rendezvous_port=port,
            secret=cluster.secret,
            device=str(cluster.devices[rank]),
            num_threads=cluster.num_threads_each,
            timeout_s=cluster.timeout_s,
        )

    def _take_calls(self, exchange: Exchange) -> None:
        """Wait until every rank has called, and tell each what is its own."""
        started_s = time.monotonic()
        tell_at_s = started_s + _TELL_PERIOD_S
        while missing := self._missing():
            self._check_started()
            waited_s = time.monotonic() - started_s
            words = f"{', '.join(map(str, missing))} at {host_port(self._cluster.host, self._cluster.port)}"
            if waited_s > self._cluster.meeting_timeout_s:
                raise EngineError(
                    f"waited {self._cluster.meeting_timeout_s:g} s (placement.meeting_timeout_s) in vain for ranks "
                    f"{words}: does `gptoss join` run on the other hosts, and do they reach this address?"
                )
            if time.monotonic() >= tell_at_s:
                tell_at_s += _TELL_PERIOD_S
                logger.info("has waited %.0f s for ranks %s", waited_s, words)
            line = exchange.next_line(_LOOK_PERIOD_S)
            if line is not None:
                self._welcome(line)
        self._are_complete = True
        for rank in [rank for rank, peer in self._peers.items() if peer.is_gone]:
            self.give_up(self._death_of(rank))

    def _missing(self) -> list[int]:
        """Return the ranks that have not come, or have gone again: a host that joins may do so several times."""
        for rank in [rank for rank, peer in self._peers.items() if peer.is_gone]:
            logger.info("rank %d has gone again", rank)
            self._peers.pop(rank).line.close()
        return [rank for rank in range(1, self._cluster.num_ranks) if rank not in self._peers]

    def _welcome(self, line: Line) -> None:
        try:
            hello = line.hear(self._cluster.timeout_s)
            rank = int(hello["rank"])
        except (LineError, KeyError, TypeError, ValueError):
            line.close()
            return
        if not 0 < rank < self._cluster.num_ranks:
            logger.warning("a process calls itself rank %d, of which there is none", rank)
            line.close()
            return
        if former := self._peers.pop(rank, None):
            logger.warning("rank %d has come again, and takes its former process's place", rank)
            former.line.close()
        logger.info("rank %d has come (pid %s)", rank, hello.get("pid"))
        peer = self._peers[rank] = _Peer(line)
        try:
            line.tell(asdict(self._assignments[rank]))
        except LineError:
            peer.is_gone = True
            return
        threading.Thread(target=self._listen, args=(rank, peer), name=f"rank-{rank}", daemon=True).start()

    def _check_started(self) -> None:
        if self.fault:
            raise EngineError(self.fault)
        for rank, process in enumerate(self._processes, 1):
            if process.poll() is not None:
                self.await_fault()  # its last words
                status = process.returncode
                raise EngineError(self.fault or f"the process of rank {rank} ended with status {status} as it started")

    # --- saying and ending ---

    def _hear(self, rank: int) -> dict[str, Any]:
        answer: dict[str, Any] | None = self._peers[rank].answers.get()
        if answer is None:
            raise EngineError(self.fault or "the ranks were closed")
        return answer

    def _listen(self, rank: int, peer: _Peer) -> None:
        try:
            while True:
                said = json.loads(peer.line.receive())
                if isinstance(said, dict) and "error" in said:
                    if self._are_complete:
                        self.await_fault()  # this rank's error may come of another's death
                    self.give_up(f"rank {rank}: {said['error']}")
                else:
                    peer.answers.put(said)
        except LineError:
            peer.is_gone = True
            if self._is_closing:
                peer.answers.put(None)
            elif self._are_complete:
                self.give_up(self._death_of(rank))

    def _death_of(self, rank: int) -> str:
        return f"rank {rank} of {self._cluster.num_ranks} died{self._how(rank)}"

    def _how(self, rank: int) -> str:
        """Return how a rank's process ended, where that is known."""
        if rank > len(self._processes):
            return ""
        try:
            status = self._processes[rank - 1].wait(1.0)
        except subprocess.TimeoutExpired:
            return ""
        return f" of signal {-status}" if status < 0 else f" with exit status {status}"
