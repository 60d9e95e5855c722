"""A model spread over several processes, seen from the engine's.

Stage: start-up, and 5 of a request: step. Owns: this process's own shard, which is rank 0, and the steps of all.
Does not know: requests, how the others compute, how they are started and heard (ranks.py).

The engine's process is the first rank, whose shard holds the embedding. It sends every step to all ranks at once, with
what has changed in the block tables; tensors then go from rank to rank by torch.distributed. Should a rank die, its
line breaks: whatever waits here is told, and the model is at an end.
"""

from __future__ import annotations

import math
import queue
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, wait
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, TypeVar

import torch

from gptoss_backend.engine.batch import Batch
from gptoss_backend.engine.cache_plan import CacheLimits, CachePlan
from gptoss_backend.engine.checkpoint import Progress, load_weights
from gptoss_backend.engine.checkpoint_files import fingerprint
from gptoss_backend.engine.errors import EngineError, ModelLost, first_line
from gptoss_backend.engine.kv_cache import KVCache
from gptoss_backend.engine.making import can_replay
from gptoss_backend.engine.model import Draws, Edited, LaunchedStep, ModelInfo, StepOutput, Told, check_device
from gptoss_backend.engine.placement.cluster import Cluster
from gptoss_backend.engine.placement.group import PartsLost, address_towards, join_group, leave_group
from gptoss_backend.engine.placement.messages import StepMessage
from gptoss_backend.engine.placement.ranks import Ranks
from gptoss_backend.engine.placement.rehearsal import rehearse
from gptoss_backend.engine.placement.stage import Stage
from gptoss_backend.engine.placement.worker import Assignment
from gptoss_backend.engine.precision import name_of
from gptoss_backend.engine.shard import Shard

_LOOK_PERIOD_S: Final = 0.1

T = TypeVar("T")


class DistributedModel:
    """A model over several ranks. Used by the engine's thread; `fault` by any."""

    can_draft = False

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
        cuda_graphs: bool = False,
    ) -> None:
        """Start the other ranks of this host, wait for those elsewhere, load everybody's shard; blocks for as long.

        cache_dtype: of keys and values; None: `dtype`. packed: experts stay in MXFP4. cuda_graphs: steps are replayed
        where all ranks can.
        Raises EngineError with the sentence of whichever rank could not. Nothing is left running then.
        """
        self.config = shards[0].whole
        self.dtype = dtype
        self._cache_dtype = cache_dtype or dtype
        self.device = cluster.devices[0]
        self.info: ModelInfo | None = None
        is_tensor = shards[0].num_parts > 1
        self.max_in_flight = 1 if is_tensor else len(shards)
        self._cluster = replace(cluster, secret=cluster.secret or secrets.token_hex(16))
        self._ranks = Ranks(self._cluster, [self._assignment(shard, len(shards), packed=packed) for shard in shards])
        self._stage: Stage
        self._let_go: Callable[[], None] | None = None
        self._replays = False
        try:
            self._start(folder, shards[0], progress, packed=packed, cuda_graphs=cuda_graphs)
        except BaseException:
            self.close()
            raise
        self.can_draw = self._stage.model.can_draw
        self.runs_ahead = self._stage.model.runs_ahead

    @property
    def fault(self) -> str | None:
        """Why the model is at an end, in one sentence; None while it is not."""
        return self._ranks.fault

    def plan_cache(self, limits: CacheLimits) -> CachePlan:
        """Plan what all ranks have room for, as `Model.plan_cache` says."""
        self._ranks.tell(asdict(limits))
        plans = [self._stage.model.plan_cache(limits), *(CachePlan(**answer) for answer in self._ranks.hear_all())]
        # ranks with other layers come to other counts: what the tightest holds is what all hold
        return replace(
            plans[0],
            max_model_len=min(plan.max_model_len for plan in plans),
            num_full_blocks=min(plan.num_full_blocks for plan in plans),
            num_sliding_blocks=min(plan.num_sliding_blocks for plan in plans),
        )

    def allocate_cache(self, plan: CachePlan) -> None:
        """Let every rank take its memory and record its steps, as `Model.allocate_cache` says. Raises EngineError."""
        self._ranks.tell(asdict(plan))
        try:
            # compiling takes as long as it takes; a rank that is gone would be waited for in what is recorded
            self._unless_over(lambda: self._stage.allocate_cache(plan), "recorded no steps", None)
            self._ranks.hear_all()
        except BaseException:
            self.close()
            raise

    def rehearse(self, cache: KVCache) -> None:
        """Compute two steps on all ranks, as `Model.rehearse` says: a fault between cards shows at no other time.

        Raises EngineError, with everything closed.
        """
        try:
            self._unless_over(lambda: rehearse(self, cache), "finished no first step", self._cluster.timeout_s)
        except BaseException:
            self.close()
            raise

    def draft(self, batch: Batch, cache: KVCache, num_tokens: int) -> list[list[int]]:
        """No rank has all the states that a draft head reads."""
        raise NotImplementedError

    def launch(self, batch: Batch, cache: KVCache, *, with_logits: bool, draws: Draws | None = None) -> LaunchedStep:
        """Begin a step on all ranks, as `Model.launch` says. Raises ModelLost."""
        message = StepMessage(batch, with_logits, draws, cache.full.take_changes(), cache.sliding.take_changes())
        try:
            self._ranks.send(message.encode())
            launched = self._stage.launch(message)
        except Exception as error:  # whatever it is, the other ranks have gone on, and a peer may be gone
            raise self.lost(error) from error
        if self._stage.shard.has_output:
            return _Joint(self, launched)
        return _Awaited(self, len(batch.samples) if with_logits else None)

    def check(self) -> None:
        """Ask the device of this process, as `Model.check` says; another rank whose device fails ends by itself."""
        check_device(self.device)

    def close(self) -> None:
        """End every rank. Harmless when some have ended already."""
        # after a fault what is recorded may never end, and cannot be destroyed
        let_go = self._let_go if self.fault is None else None
        self._ranks.close()
        leave_group(let_go)

    def await_output(self, num_logits: int | None) -> StepOutput:
        """Wait for the earliest step whose output the last stage has not told yet. Raises ModelLost."""
        try:
            tokens: list[int] | None = self._ranks.hear_last(self._cluster.timeout_s)
        except queue.Empty:
            self._ranks.give_up(f"the ranks did not finish a step in {self._cluster.timeout_s:g} s")
            tokens = None
        if tokens is None:
            raise ModelLost(self.fault or "the model is closed")
        try:
            logits = None if num_logits is None else self._stage.receive_back(num_logits)
        except RuntimeError as error:
            raise self.lost(error) from error
        return StepOutput(tokens, logits)

    def lost(self, error: Exception) -> ModelLost:
        """Return the error for a broken exchange, in the words of the line that broke, where one does soon."""
        self._ranks.await_fault()
        return ModelLost(self._ranks.give_up(f"the ranks lost each other: {first_line(error)}"))

    # --- start ---

    def _start(self, folder: Path, shard: Shard, progress: Progress | None, *, packed: bool, cuda_graphs: bool) -> None:
        cluster = self._cluster
        store = self._ranks.gather(folder)
        if self.device.type == "cpu":
            torch.set_num_threads(cluster.num_threads_each)
        weights = load_weights(folder, shard, self.dtype, self.device, packed=packed, progress=progress)
        others = self._ranks.hear_all()
        self._check_same(folder, others)
        self._replays = cuda_graphs and all([can_replay(weights), *(loaded["can_replay"] for loaded in others)])
        self._ranks.tell({"cuda_graphs": self._replays})
        address = address_towards(cluster.host, store.port)

        def join() -> Stage:
            join_group(store, 0, cluster.num_ranks, self.device, address=address, timeout_s=cluster.timeout_s)
            return Stage(
                shard,
                weights,
                self._cache_dtype,
                cuda_graphs=self._replays,
                timeout_s=cluster.timeout_s,
                is_over=lambda: self.fault is not None,
            )

        self._stage = self._unless_over(join, "did not reach each other", cluster.timeout_s)
        self._let_go = self._stage.let_go

    def _check_same(self, folder: Path, others: Sequence[dict[str, Any]]) -> None:
        """Raise EngineError where a rank has read another checkpoint: of other hosts each reads its own folder."""
        ours = {"checkpoint": fingerprint(folder), "config": repr(self.config)}
        for rank, loaded in enumerate(others, 1):
            if differing := [name for name, told in ours.items() if loaded[name] != told]:
                what = "other weights" if "checkpoint" in differing else "another config.json"
                raise EngineError(
                    f"rank {rank} has {what} in its checkpoint than rank 0 has in {folder}: give all hosts the same one"
                )

    def _assignment(self, shard: Shard, num_ranks: int, *, packed: bool) -> Assignment:
        return Assignment(
            shard.layers.start,
            shard.layers.stop,
            shard.part,
            shard.num_parts,
            num_ranks,
            dtype=name_of(self.dtype),
            cache_dtype=name_of(self._cache_dtype),
            packed=packed,
        )

    def _unless_over(self, work: Callable[[], T], failing: str, timeout_s: float | None) -> T:
        """Return what comes of something that all ranks do, on a thread of its own: it may never return.

        failing: what the ranks did, in words, where it is not done in time. Raises EngineError.
        """
        outcome: Future[T] = Future()

        def run() -> None:
            try:
                outcome.set_result(work())
            except BaseException as error:  # noqa: BLE001 (raised again where it is waited for)
                outcome.set_exception(error)

        threading.Thread(target=run, name="together", daemon=True).start()
        deadline_s = time.monotonic() + (math.inf if timeout_s is None else timeout_s)
        while not outcome.done() and self.fault is None and time.monotonic() < deadline_s:
            wait([outcome], _LOOK_PERIOD_S)
        try:
            return outcome.result(0)
        except EngineError as error:
            if self.fault is None:  # this rank's own affair
                raise
            raise self._apart(self.fault) from error
        except Exception as error:
            words = first_line(error) or f"they {failing}{'' if timeout_s is None else f' in {timeout_s:g} s'}"
            raise self._apart(self.fault or words) from error

    def _apart(self, words: str) -> EngineError:
        advice = self._cluster.advice(replays=self._replays)
        return EngineError(f"{self._cluster} cannot compute together: {words}{advice}")


@dataclass(frozen=True, slots=True)
class _Joint:
    """A step whose output comes out in this process, and which other ranks compute with it."""

    model: DistributedModel
    launched: LaunchedStep

    def amend(self, edited: Edited | None, told: Told | None) -> None:
        self.launched.amend(edited, told)

    def result(self) -> StepOutput:
        try:
            return self.launched.result()
        except PartsLost as error:
            raise self.model.lost(error) from error


@dataclass(frozen=True, slots=True)
class _Awaited:
    """A step on its way through the pipeline."""

    model: DistributedModel
    num_logits: int | None

    def amend(self, edited: Edited | None, told: Told | None) -> None:
        """A pipeline does not run ahead."""
        raise NotImplementedError

    def result(self) -> StepOutput:
        return self.model.await_output(self.num_logits)
