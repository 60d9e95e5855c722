"""`gptoss join`: this host's part of a model whose engine runs on another.

Stage: the life of a server that spreads over several hosts.
Owns: the ranks' processes of this host, from one life of the engine to the next.
Does not know: what a rank does.
"""

from __future__ import annotations

import os
import subprocess
import time
from typing import Final

from rich.console import Console

from gptoss_backend.engine.placement.jobs import Job, device_names, spawn
from gptoss_backend.environment import inherited_environment, with_card_order
from gptoss_backend.settings import Settings
from gptoss_client.backoff import Backoff
from gptoss_client.checkpoint import find_checkpoint, missing
from gptoss_client.errors import UsageError
from gptoss_client.gpu import has_nvidia_gpu
from gptoss_client.placing import CPU_VARIANT, GPU_VARIANTS
from gptoss_client.stop_signal import StopSignal

_LOOK_PERIOD_S: Final = 0.2
_END_TIMEOUT_S: Final = 5.0


def join(settings: Settings, node_rank: int, console: Console) -> int:
    """Keep this host's ranks running until asked to stop; returns the exit status.

    They meet the engine when it is there, end with it, and are started again to meet the next one. Raises UsageError.
    """
    placement = settings.placement
    if placement.num_nodes < 2 or placement.rendezvous is None or not placement.num_devices:
        raise UsageError(
            "joining needs the placement settings of the first node: num_nodes, num_devices, rendezvous, secret"
        )
    if not 0 < node_rank < placement.num_nodes:
        raise UsageError(f"--node-rank is {node_rank}, but 1 to {placement.num_nodes - 1} join; 0 runs `gptoss serve`")
    jobs = _jobs(settings, node_rank)
    ranks = ", ".join(str(job.rank) for job in jobs)
    environment = with_card_order(inherited_environment())
    backoff = Backoff()
    with StopSignal() as stop:
        while not stop.requested:
            console.print(f"ranks {ranks} look for the engine at {placement.rendezvous}")
            started = time.monotonic()
            _run([spawn(job, environment) for job in jobs], stop)
            if not stop.requested:
                delay_s = backoff.next_delay_s(time.monotonic() - started)
                console.print(f"the engine is gone; looking for it again in {delay_s:g} s")
                _wait(delay_s, stop)
    return 0


def _jobs(settings: Settings, node_rank: int) -> list[Job]:
    """Return what this host's ranks are started with. Raises UsageError where there is no checkpoint, or no GPU."""
    placement, model = settings.placement, settings.served_model
    folder = find_checkpoint(settings.checkpoints[model])
    if folder is None:
        raise UsageError(missing(model, settings.checkpoints[model]))
    host, _, port = (placement.rendezvous or "").rpartition(":")
    num_here = (placement.num_devices or 0) // placement.num_nodes
    devices = device_names("cuda" if _on_gpus(settings) else "cpu", range(num_here))
    return [
        Job(
            rank=node_rank * num_here + index,
            folder=str(folder),
            rendezvous_host=host,
            rendezvous_port=int(port),
            secret=placement.secret or "",
            device=device,
            num_threads=max(1, len(os.sched_getaffinity(0)) // num_here),
            timeout_s=placement.timeout_s,
        )
        for index, device in enumerate(devices)
    ]


def _on_gpus(settings: Settings) -> bool:
    """Tell whether the ranks compute on GPUs. Raises UsageError where they should and there are none, DriverError."""
    variant = settings.server.triton_config_name
    if variant == CPU_VARIANT:
        return False
    has_gpu = has_nvidia_gpu(inherited_environment())
    if variant in GPU_VARIANTS and not has_gpu:
        raise UsageError(
            f"server.triton_config_name is {variant}, which is for GPUs, and this host shows none: see that nvidia-smi "
            "works here, and CUDA_VISIBLE_DEVICES hides none"
        )
    return has_gpu


def _run(processes: list[subprocess.Popen[bytes]], stop: StopSignal) -> None:
    """Wait until one of them has ended, or a stop is asked for, and end the rest."""
    while not stop.requested and all(process.poll() is None for process in processes):
        time.sleep(_LOOK_PERIOD_S)
    for process in processes:
        process.terminate()
    for process in processes:
        try:
            process.wait(_END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(seconds: float, stop: StopSignal) -> None:
    until = time.monotonic() + seconds
    while not stop.requested and time.monotonic() < until:
        time.sleep(_LOOK_PERIOD_S)
