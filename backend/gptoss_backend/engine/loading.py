"""From a checkpoint folder to a model that can compute.

Stage: start-up. Owns: which forward pass runs where, in which precision, on how many threads, and saying so.
Does not know: requests.
"""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Literal

import torch

from gptoss_backend.engine.checkpoint import Progress, load_weights
from gptoss_backend.engine.config import ModelConfig
from gptoss_backend.engine.errors import EngineError
from gptoss_backend.engine.model import Model
from gptoss_backend.engine.native.library import NativeUnavailableError
from gptoss_backend.engine.native.model import NativeModel, check_native
from gptoss_backend.engine.precision import choose_precision
from gptoss_backend.engine.shard import Shard
from gptoss_backend.engine.torch_model import TorchModel

logger = logging.getLogger(__name__)

CpuKernels = Literal["auto", "native", "torch"]
"""auto: native where it can run and the precision is not set to another than bfloat16."""


def load_model(
    folder: Path,
    *,
    device: torch.device,
    dtype: str = "auto",
    block_size: int = 16,
    num_threads: int | None = None,
    cpu_kernels: CpuKernels = "auto",
    progress: Progress | None = None,
) -> Model:
    """Load a checkpoint folder to `device`.

    num_threads: of the CPU; None: as many as there are cores.
    Raises EngineError (CheckpointError among them) with one sentence.
    """
    config = ModelConfig.from_folder(folder)
    threads = num_threads or len(os.sched_getaffinity(0))
    native = device.type == "cpu" and _use_native(config, dtype, block_size, cpu_kernels)
    precision = choose_precision(dtype, device, has_native_bfloat16=native)
    logger.info("precision: %s (%s)", precision.dtype, precision.reason)
    if device.type == "cpu":
        torch.set_num_threads(threads)
    shard = Shard.of_all(config)
    packed = device.type == "cuda"
    weights = load_weights(folder, shard, precision.dtype, device, packed=packed, progress=progress)
    if native:
        logger.info("forward pass: C++ kernels (AVX-512 BF16), threads: %d", threads)
        return NativeModel(config, weights, threads)
    return TorchModel(shard, weights)


def _use_native(config: ModelConfig, dtype: str, block_size: int, cpu_kernels: CpuKernels) -> bool:
    if cpu_kernels == "torch" or (cpu_kernels == "auto" and dtype not in ("auto", "bfloat16")):
        return False
    try:
        check_native(config, block_size)
    except NativeUnavailableError as error:
        if cpu_kernels == "native":
            raise EngineError(f"engine.cpu_kernels is native, but {error}") from error
        logger.info("forward pass: torch, since %s", error)
        return False
    if dtype not in ("auto", "bfloat16"):
        raise EngineError(f"engine.cpu_kernels is native, which computes in bfloat16, but engine.dtype is {dtype}")
    return True
