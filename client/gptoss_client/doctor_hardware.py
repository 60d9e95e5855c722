"""Whether this machine has the cards and the memory that the models need, and where they would be put.

Stage: `gptoss doctor`.
Owns: what the weights come to, what is said of cards and memory.
Does not know: how models are placed, what is asked of the driver.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final

from gptoss_backend.model_names import ModelShort
from gptoss_client.checkpoint import DEMO
from gptoss_client.doctor_checkpoint import BrokenCheckpointError, whole_checkpoint_bytes
from gptoss_client.doctor_examination import Examination
from gptoss_client.doctor_findings import Finding, Level, problem_of
from gptoss_client.errors import DriverError, UsageError
from gptoss_client.gpu import has_nvidia_gpu

_GIB: Final = 2**30
# bytes of the weights as published, for where there are none to measure
_PUBLISHED_BYTES: Final[dict[ModelShort, int]] = {"demo": 212_000_000, "20b": 13_761_000_000, "120b": 65_249_000_000}
_UNPACKED: Final = 3
"""Times the bytes of weights whose experts are in MXFP4, where torch unpacks them to 16 bits."""
_WORK_BYTES: Final = 2 * _GIB  # activations, the smallest KV cache of use, torch itself


def examine_gpu(examination: Examination) -> Finding:
    """List the cards; where there are none, tell whether some are hidden or missed."""
    if examination.gpus:
        cards = "; ".join(
            f"{gpu.index}: {gpu.name}, {gpu.free_bytes / _GIB:.1f} of {gpu.total_bytes / _GIB:.1f} GiB free"
            for gpu in examination.gpus
        )
        left_out = ", ".join(str(examination.gpus[position].index) for position in sorted(examination.left_out))
        return Finding(
            "GPU",
            Level.OK,
            f"{cards}; driver {examination.gpus[0].driver}" + (f"; left out: {left_out}" if left_out else ""),
        )
    remedy = "see that nvidia-smi works (driver installed, container started with GPUs)"
    try:
        if has_nvidia_gpu(examination.environment):
            return Finding("GPU", Level.PROBLEM, "there is one, but its driver does not answer", remedy)
    except DriverError as error:
        return Finding("GPU", Level.PROBLEM, f"not known, since {error}", remedy)
    if examination.models == (DEMO,):
        return Finding("GPU", Level.OK, "none, and none is needed for the demo")
    remedy = "it will be slow; on a machine that has a GPU, see that nvidia-smi works and CUDA_VISIBLE_DEVICES shows it"
    return Finding("GPU", Level.WARNING, f"none: {examination.names} will be computed on the CPU", remedy)


def examine_placement(examination: Examination) -> Iterator[Finding]:
    """Yield why the models cannot be placed as set, or into how many replicas; nothing where it is one."""
    if isinstance(examination.placed, UsageError):
        yield problem_of(str(examination.placed), "placement")
    elif (num_replicas := examination.server.num_tritonservers) > 1:
        yield Finding("placement", Level.OK, f"{num_replicas} replicas, a tritonserver each")


def examine_memory(examination: Examination) -> Finding:
    """Compare what is free with what the models need."""
    num_replicas = examination.server.num_tritonservers
    needed = num_replicas * sum(_weights_bytes(examination, model) + _WORK_BYTES for model in examination.models)
    if examination.gpus:
        used = (gpu for position, gpu in enumerate(examination.gpus) if position not in examination.left_out)
        free, where = sum(gpu.free_bytes for gpu in used), "GPU memory"
        remedy = "end what else uses the GPU (nvidia-smi), show more GPUs, or serve a smaller --model"
    elif "host_bytes" in examination.torch_facts:
        free, where = examination.torch_facts["host_bytes"], "memory"
        remedy = "end other programs, raise the container's limit, or serve a smaller --model"
    else:
        return Finding("memory", Level.WARNING, "not known, since torch cannot be imported")
    needs = "needs" if len(examination.models) == num_replicas == 1 else "need"
    what = examination.names if num_replicas == 1 else f"{num_replicas} replicas of {examination.names}"
    words = f"{free / _GIB:.1f} GiB of {where} free, {what} {needs} about {needed / _GIB:.1f} GiB"
    return Finding("memory", Level.OK, words) if free >= needed else Finding("memory", Level.PROBLEM, words, remedy)


def _weights_bytes(examination: Examination, model: ModelShort) -> int:
    is_unpacked = not examination.gpus and model != DEMO and examination.why_no_kernels is not None
    return _stored_bytes(examination, model) * (_UNPACKED if is_unpacked else 1)


def _stored_bytes(examination: Examination, model: ModelShort) -> int:
    """Return those of the checkpoint, or of the published one where it cannot be measured."""
    if (folder := examination.folders[model]) is not None:
        try:
            return whole_checkpoint_bytes(folder)
        except BrokenCheckpointError:
            pass
    return _PUBLISHED_BYTES[model]
