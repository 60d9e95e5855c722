"""`python -m gptoss_backend.engine.placement.worker`: the process of one rank that is not the engine's.

Stage: start-up, and 5 of a request: step. Owns: the rank's shard. It does what it is told over its line, and ends when
that ends. Does not know: the cache's accounting, requests.

Its job comes as a JSON object on standard input.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import queue
import signal
import sys
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import NoReturn

import torch
from torch.distributed import TCPStore  # type: ignore[attr-defined]

from gptoss_backend.engine.cache_plan import CacheLimits, CachePlan
from gptoss_backend.engine.checkpoint import load_weights
from gptoss_backend.engine.checkpoint_files import fingerprint
from gptoss_backend.engine.config import ModelConfig
from gptoss_backend.engine.errors import EngineError, first_line
from gptoss_backend.engine.making import can_replay
from gptoss_backend.engine.model import StepOutput
from gptoss_backend.engine.placement.control import Line, LineError, call
from gptoss_backend.engine.placement.group import address_towards, join_group, open_store
from gptoss_backend.engine.placement.jobs import Job
from gptoss_backend.engine.placement.messages import StepMessage
from gptoss_backend.engine.placement.stage import Stage
from gptoss_backend.engine.precision import check_cache_dtype
from gptoss_backend.engine.shard import Shard

logger = logging.getLogger(__name__)

CONTROL_KEY = "control"
"""Under which the store holds the port of the exchange."""
_RECORDING = "gptoss_backend.engine.kernels.graphed_model"
"""What logs each graph: all ranks record the same ones, so the first one's word is enough."""
_LOOK_PERIOD_S = 1.0
_LINE_BROKE = 75  # EX_TEMPFAIL of sysexits.h


@dataclass(frozen=True, slots=True)
class Assignment:
    """What a worker is told first: which part of the model is its own."""

    first_layer: int
    end_layer: int
    part: int
    num_parts: int
    world_size: int
    dtype: str
    cache_dtype: str
    """Of keys and values; both as torch names them."""
    packed: bool
    """Experts stay in MXFP4."""

    def shard_of(self, config: ModelConfig) -> Shard:
        """Return the shard meant."""
        return Shard(config, range(self.first_layer, self.end_layer), self.part, self.num_parts)


def main() -> int:
    """Serve one rank until the line ends; returns the exit status."""
    job = Job(**json.loads(sys.stdin.readline()))
    logging.basicConfig(level=logging.INFO, format=f"rank {job.rank}: %(message)s")
    logging.getLogger(_RECORDING).setLevel(logging.WARNING)
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the engine's process, which ends this one
    try:
        store = open_store(job.rendezvous_host, job.rendezvous_port, is_master=False, timeout_s=job.timeout_s)
        line = call(job.rendezvous_host, int(store.get(CONTROL_KEY)), job.secret.encode())
    except (LineError, RuntimeError) as error:
        logger.error("cannot reach the engine: %s", error)
        return 1
    line.tell({"rank": job.rank, "pid": os.getpid()})
    assignment = Assignment(**line.hear())
    inbox = _listen(line)
    try:
        _serve(job, assignment, store, line, inbox)
    except EngineError as error:
        line.tell({"error": str(error)})
        return 1
    except Exception as error:
        with contextlib.suppress(LineError):  # the engine may be what is lost
            line.tell({"error": f"{type(error).__name__}: {first_line(error)}"})
        raise


def _serve(job: Job, assignment: Assignment, store: TCPStore, line: Line, inbox: queue.SimpleQueue[bytes]) -> NoReturn:
    """Load this rank's part and compute its share of every step. Raises EngineError, and whatever torch raises."""
    device = torch.device(job.device)
    if device.type == "cuda":
        torch.cuda.set_device(device)
    torch.set_num_threads(job.num_threads)
    cache_dtype = getattr(torch, assignment.cache_dtype)
    check_cache_dtype(cache_dtype, device)
    folder = Path(job.folder)
    config = ModelConfig.from_folder(folder)
    shard = assignment.shard_of(config)
    weights = load_weights(folder, shard, getattr(torch, assignment.dtype), device, packed=assignment.packed)
    line.tell({"can_replay": can_replay(weights), "checkpoint": fingerprint(folder), "config": repr(config)})
    all_have: dict[str, bool] = json.loads(_next(inbox))
    join_group(
        store,
        job.rank,
        assignment.world_size,
        device,
        address=address_towards(job.rendezvous_host, job.rendezvous_port),
        timeout_s=job.timeout_s,
    )
    stage = Stage(shard, weights, cache_dtype, cuda_graphs=all_have["cuda_graphs"], timeout_s=job.timeout_s)
    del weights
    _make_cache(stage, line, inbox)
    _run_steps(stage, line, inbox)


def _make_cache(stage: Stage, line: Line, inbox: queue.SimpleQueue[bytes]) -> None:
    """Say what there is room for here; take memory for what all have agreed on, and record the steps."""
    limits = CacheLimits(**json.loads(_next(inbox)))
    line.tell(asdict(stage.model.plan_cache(limits)))
    stage.allocate_cache(CachePlan(**json.loads(_next(inbox))))
    line.tell({"ready": True})


def _run_steps(stage: Stage, line: Line, inbox: queue.SimpleQueue[bytes]) -> NoReturn:
    while True:
        launched = stage.launch(StepMessage.decode(_next_step(inbox, stage.model.device)))
        if stage.shard.has_output:
            output = launched.result()
            line.send(_encode_output(output))
            stage.send_back(output)


def _encode_output(output: StepOutput) -> bytes:
    return json.dumps(output.tokens).encode()


def _listen(line: Line) -> queue.SimpleQueue[bytes]:
    """Return a queue of what comes over the line. When the line ends, so does this process, whatever it waits for."""
    inbox: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def listen() -> None:
        with contextlib.suppress(LineError):
            while True:
                inbox.put(line.receive())
        os._exit(_LINE_BROKE)

    threading.Thread(target=listen, name="line", daemon=True).start()
    return inbox


def _next_step(inbox: queue.SimpleQueue[bytes], device: torch.device) -> bytes:
    """Wait for a step. Raises RuntimeError where the device fails meanwhile: nobody here waits for what it computes."""
    while True:
        try:
            return inbox.get(timeout=_LOOK_PERIOD_S)
        except queue.Empty:
            if device.type == "cuda":
                torch.cuda.current_stream(device).query()


def _next(inbox: queue.SimpleQueue[bytes]) -> bytes:
    return inbox.get()


def run() -> NoReturn:
    """Serve one rank, and end without Python's own ending, in which NCCL may wait for ranks that are gone."""
    status = 1
    try:
        status = main()
    except Exception:
        logger.exception("this rank ends")
    finally:
        os._exit(status)


if __name__ == "__main__":
    run()
