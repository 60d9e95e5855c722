"""A model spread over several processes, seen from the engine's.

Stage: start-up, and 5 of a request: step. Owns: the other ranks' processes and lines, this process's own shard, which
is rank 0. Does not know: requests, how the others compute.

The engine's process is the first rank, whose shard holds the embedding. It sends every step to all ranks at once, with
what has changed in the block tables; tensors then go from rank to rank by torch.distributed. Should a rank die, its
line breaks: whatever waits here is told, and the model is at an end.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import secrets
import subprocess
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

import torch

from gptoss_backend.engine.batch import Batch
from gptoss_backend.engine.cache_plan import CacheLimits, CachePlan
from gptoss_backend.engine.checkpoint import Progress, load_weights
from gptoss_backend.engine.errors import EngineError, ModelLost
from gptoss_backend.engine.kv_cache import KVCache
from gptoss_backend.engine.model import Draws, LaunchedStep, ModelInfo, StepOutput, check_device
from gptoss_backend.engine.placement.control import Exchange, Line, LineError
from gptoss_backend.engine.placement.group import address_towards, join_group, leave_group, open_store
from gptoss_backend.engine.placement.jobs import Job, spawn
from gptoss_backend.engine.placement.messages import StepMessage
from gptoss_backend.engine.placement.stage import Stage
from gptoss_backend.engine.placement.worker import CONTROL_KEY, Assignment
from gptoss_backend.engine.precision import name_of
from gptoss_backend.engine.shard import Shard

logger = logging.getLogger(__name__)

_LOOK_PERIOD_S: Final = 0.1
_END_TIMEOUT_S: Final = 5.0
_LOCALHOST: Final = "127.0.0.1"


@dataclass(frozen=True, slots=True)
class Cluster:
    """The processes that hold a model together: who they are and where they meet."""

    devices: tuple[torch.device, ...]
    """Of the ranks on this host, this process's first."""
    num_ranks: int
    """On all hosts; those elsewhere come by themselves."""
    host: str = _LOCALHOST
    """Where the ranks meet: this host's address, as the others reach it."""
    port: int = 0
    """Of the meeting; 0: any."""
    secret: str = ""
    """Known to all ranks; empty: one is drawn, which suffices for those on this host."""
    timeout_s: float = 120.0
    """The longest that ranks wait for one another in a step, and for each other's start."""
    num_threads: int | None = None
    """Of each process of this host, where it computes on the processor; None: its share of the cores."""


class DistributedModel:
    """A model over several ranks. Used by the engine's thread; `fault` by any."""

    can_draw = False
    can_draft = False
    max_rows_ahead = 0

    def __init__(
        self,
        folder: Path,
        shards: Sequence[Shard],
        cluster: Cluster,
        dtype: torch.dtype,
        progress: Progress | None = None,
        *,
        cache_dtype: torch.dtype | None = None,
        packed: bool = False,
    ) -> None:
        """Start the other ranks of this host, wait for those elsewhere, load everybody's shard; blocks for as long.

        cache_dtype: of keys and values; None: `dtype`. packed: experts stay in MXFP4.
        Raises EngineError with the sentence of whichever rank could not. Nothing is left running then.
        """
        self.config = shards[0].whole
        self.dtype = dtype
        self._cache_dtype = cache_dtype or dtype
        self._packed = packed
        self.device = cluster.devices[0]
        self.info: ModelInfo | None = None
        is_tensor = shards[0].num_parts > 1
        self.max_in_flight = 1 if is_tensor else len(shards)
        self._cluster = replace(cluster, secret=cluster.secret or secrets.token_hex(16))
        self._processes: list[subprocess.Popen[bytes]] = []
        self._lines: dict[int, Line] = {}
        self._outputs: queue.SimpleQueue[bytes | None] = queue.SimpleQueue()
        self._fault: str | None = None
        self._is_closing = False
        self._stage: Stage
        try:
            self._start(folder, shards, progress)
        except BaseException:
            self.close()
            raise

    @property
    def fault(self) -> str | None:
        """Why the model is at an end, in one sentence; None while it is not."""
        return self._fault

    def plan_cache(self, limits: CacheLimits) -> CachePlan:
        """Plan what all ranks have room for, as `Model.plan_cache` says."""
        for line in self._lines.values():
            line.tell(asdict(limits))
        plans = [self._stage.model.plan_cache(limits)]
        plans += [CachePlan(**self._hear(rank)) for rank in self._lines]
        # ranks with other layers come to other counts: what the tightest holds is what all hold
        return replace(
            plans[0],
            max_model_len=min(plan.max_model_len for plan in plans),
            num_full_blocks=min(plan.num_full_blocks for plan in plans),
            num_sliding_blocks=min(plan.num_sliding_blocks for plan in plans),
        )

    def allocate_cache(self, plan: CachePlan) -> None:
        """Let every rank take its memory, as `Model.allocate_cache` says."""
        for line in self._lines.values():
            line.tell(asdict(plan))
        self._stage.model.allocate_cache(plan)
        for rank in self._lines:
            self._hear(rank)
        for rank, line in self._lines.items():
            name = f"rank-{rank}"
            threading.Thread(target=self._listen, args=(rank, line), name=name, daemon=True).start()

    def draft(self, batch: Batch, cache: KVCache, num_tokens: int) -> list[list[int]]:
        """No rank has all the states that a draft head reads."""
        raise NotImplementedError

    def launch(self, batch: Batch, cache: KVCache, *, with_logits: bool, draws: Draws | None = None) -> LaunchedStep:
        """Begin a step on all ranks, as `Model.launch` says. Raises ModelLost."""
        message = StepMessage(batch, with_logits, cache.full.take_changes(), cache.sliding.take_changes())
        try:
            encoded = message.encode()
            for line in self._lines.values():
                line.send(encoded)
            output = self._stage.run(batch, cache, with_logits=with_logits)
        except Exception as error:  # whatever it is, the other ranks have gone on, and a peer may be gone
            raise self._lost(error) from error
        return output or _Awaited(self, len(batch.samples) if with_logits else None)

    def check(self) -> None:
        """Ask the device of this process, as `Model.check` says; another rank whose device fails ends by itself."""
        check_device(self.device)

    def close(self) -> None:
        """End every rank. Harmless when some have ended already."""
        self._is_closing = True
        for line in self._lines.values():
            line.close()
        deadline = time.monotonic() + _END_TIMEOUT_S
        for process in self._processes:
            try:
                process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        leave_group()

    def await_output(self, num_logits: int | None) -> StepOutput:
        """Wait for the earliest step whose output the last stage has not told yet. Raises ModelLost."""
        try:
            raw = self._outputs.get(timeout=self._cluster.timeout_s)
        except queue.Empty:
            self._fault = self._fault or f"the ranks did not finish a step in {self._cluster.timeout_s:g} s"
            raw = None
        if raw is None:
            raise ModelLost(self._fault or "the model is closed")
        try:
            logits = None if num_logits is None else self._stage.receive_back(num_logits)
        except RuntimeError as error:
            raise self._lost(error) from error
        return StepOutput(json.loads(raw), logits)

    # --- start ---

    def _start(self, folder: Path, shards: Sequence[Shard], progress: Progress | None) -> None:
        cluster = self._cluster
        try:
            store = open_store(cluster.host, cluster.port, is_master=True, timeout_s=cluster.timeout_s)
            exchange = Exchange(cluster.host, cluster.secret.encode())
        except OSError as error:
            raise EngineError(f"the ranks cannot meet at {cluster.host}:{cluster.port}: {error}") from error
        store.set(CONTROL_KEY, str(exchange.port))
        try:
            for rank in range(1, len(cluster.devices)):
                self._processes.append(spawn(self._job(rank, folder, store.port)))
            self._take_calls(exchange, shards)
        finally:
            exchange.close()
        if self.device.type == "cpu":
            torch.set_num_threads(self._num_threads)
        weights = load_weights(folder, shards[0], self.dtype, self.device, packed=self._packed, progress=progress)
        for rank in self._lines:
            self._hear(rank)
        for line in self._lines.values():
            line.tell({"join": True})
        address = address_towards(cluster.host, store.port)
        timeout_s = cluster.timeout_s
        join_group(store, 0, cluster.num_ranks, self.device, address=address, timeout_s=timeout_s)
        self._stage = Stage(shards[0], weights, self._cache_dtype)

    def _job(self, rank: int, folder: Path, port: int) -> Job:
        cluster = self._cluster
        return Job(
            rank=rank,
            folder=str(folder),
            rendezvous_host=cluster.host,
            rendezvous_port=port,
            secret=cluster.secret,
            device=str(cluster.devices[rank]),
            num_threads=self._num_threads,
            timeout_s=cluster.timeout_s,
        )

    @property
    def _num_threads(self) -> int:
        cluster = self._cluster
        return cluster.num_threads or max(1, len(os.sched_getaffinity(0)) // len(cluster.devices))

    def _take_calls(self, exchange: Exchange, shards: Sequence[Shard]) -> None:
        """Wait until every rank has called, and tell each what is its own."""
        deadline = time.monotonic() + self._cluster.timeout_s
        while len(self._lines) < self._cluster.num_ranks - 1:
            self._check_started()
            if time.monotonic() > deadline:
                missing = sorted(set(range(1, self._cluster.num_ranks)) - self._lines.keys())
                raise EngineError(
                    f"ranks {missing} have not come to {self._cluster.host} in {self._cluster.timeout_s:g} s"
                )
            line = exchange.next_line(_LOOK_PERIOD_S)
            if line is not None:
                self._welcome(line, shards)

    def _welcome(self, line: Line, shards: Sequence[Shard]) -> None:
        try:
            hello = line.hear(self._cluster.timeout_s)
            rank = int(hello["rank"])
        except (LineError, KeyError, TypeError, ValueError):
            line.close()
            return
        if rank in self._lines or not 0 < rank < len(shards):
            logger.warning("a process calls itself rank %d, of which there is one already, or none", rank)
            line.close()
            return
        logger.info("rank %d has come (pid %s)", rank, hello.get("pid"))
        self._lines[rank] = line
        shard = shards[rank]
        assignment = Assignment(
            shard.layers.start,
            shard.layers.stop,
            shard.part,
            shard.num_parts,
            len(shards),
            dtype=name_of(self.dtype),
            cache_dtype=name_of(self._cache_dtype),
            packed=self._packed,
        )
        line.tell(asdict(assignment))

    def _check_started(self) -> None:
        for rank, process in enumerate(self._processes, 1):
            if process.poll() is not None:
                raise EngineError(f"the process of rank {rank} ended with status {process.returncode} as it started")

    def _hear(self, rank: int) -> dict[str, Any]:
        """Wait for a rank's answer; loading takes as long as it takes. Raises EngineError."""
        try:
            answer = self._lines[rank].hear()
        except LineError as error:
            raise EngineError(f"rank {rank} died while it started{self._how(rank)}") from error
        if "error" in answer:
            raise EngineError(f"rank {rank}: {answer['error']}")
        return answer

    # --- life and death ---

    def _listen(self, rank: int, line: Line) -> None:
        try:
            while True:
                self._outputs.put(line.receive())
        except LineError:
            if not self._is_closing:
                self._fault = self._fault or f"rank {rank} of {self._cluster.num_ranks} died{self._how(rank)}"
                logger.critical("%s", self._fault)
            self._outputs.put(None)

    def _how(self, rank: int) -> str:
        """Return how a rank's process ended, where that is known."""
        if not 0 < rank <= len(self._processes):
            return ""
        try:
            status = self._processes[rank - 1].wait(1.0)
        except subprocess.TimeoutExpired:
            return ""
        return f" of signal {-status}" if status < 0 else f" with exit status {status}"

    def _lost(self, error: Exception) -> ModelLost:
        """Return the error for a broken exchange, in the words of the line that broke, where one does soon."""
        deadline = time.monotonic() + 1.0
        while self._fault is None and time.monotonic() < deadline:
            time.sleep(0.01)
        self._fault = self._fault or f"the ranks lost each other: {error}"
        return ModelLost(self._fault)


@dataclass(frozen=True, slots=True)
class _Awaited:
    """A step on its way through the pipeline."""

    model: DistributedModel
    num_logits: int | None

    def result(self) -> StepOutput:
        return self.model.await_output(self.num_logits)
