"""From a checkpoint folder to a model that can compute.

Stage: start-up. Owns: which forward pass runs where, in which precision, on how many threads, and saying so.
Does not know: requests.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Literal

import torch

from gptoss_backend.engine.checkpoint import Progress, Weights, find_checkpoint, has_packed_experts, load_weights
from gptoss_backend.engine.config import ModelConfig
from gptoss_backend.engine.eagle.weights import check_head, load_head
from gptoss_backend.engine.errors import EngineError
from gptoss_backend.engine.memory import processor_name
from gptoss_backend.engine.model import LocalModel, Model, ModelInfo
from gptoss_backend.engine.mxfp4 import PackedMatrices
from gptoss_backend.engine.native.library import NativeUnavailableError
from gptoss_backend.engine.native.model import NativeModel, check_native
from gptoss_backend.engine.operators import has_kernels
from gptoss_backend.engine.placement.choice import AUTO, SINGLE, Card, Choice, choose_placement
from gptoss_backend.engine.placement.driver import Cluster, DistributedModel
from gptoss_backend.engine.placement.jobs import device_names
from gptoss_backend.engine.placement.layout import PIPELINE, TENSOR
from gptoss_backend.engine.placement.memory_plan import MemoryPlan, gib
from gptoss_backend.engine.placement.options import PlacementOptions
from gptoss_backend.engine.precision import FLOAT8, CacheDtype, Precision, choose_cache_dtype, choose_precision
from gptoss_backend.engine.shard import Shard
from gptoss_backend.engine.torch_model import TorchModel

logger = logging.getLogger(__name__)

# of the weights: what the allocator rounds up
_PLAN_TOLERANCE = 0.02

# memory that is not a card's is not planned: the page cache gives way
_HOST = Card("the host", 2**62)

CpuKernels = Literal["auto", "native", "torch"]
"""auto: native where it can run and the precision is not set to another than bfloat16."""
ExpertFormat = Literal["auto", "packed", "unpacked"]
"""Of experts in MXFP4. auto: packed where kernels take them so; plain torch would unpack them in every step."""
DenseFormat = Literal["auto", "int8"]
"""Of attention's matrices and the unembedding. auto: as they are stored. int8: rounded, which changes logits."""


def load_model(
    folder: Path,
    *,
    device: torch.device,
    dtype: str = "auto",
    block_size: int = 16,
    kv_cache_dtype: CacheDtype = "auto",
    num_threads: int | None = None,
    cpu_kernels: CpuKernels = "auto",
    experts: ExpertFormat = "auto",
    dense_weights: DenseFormat = "auto",
    cuda_graphs: bool = True,
    head: str | None = None,
    placement: PlacementOptions | None = None,
    progress: Progress | None = None,
) -> Model:
    """Load a checkpoint folder to `device`, or where `placement` puts it: then `device` is the first of several.

    num_threads: of the CPU; None: as many as there are cores. cuda_graphs: replay decode steps where the GPU can.
    head: checkpoint of a draft head, which the torch forward pass takes.
    Raises EngineError (CheckpointError among them) with one sentence, before anything is read where it cannot fit.
    """
    config = ModelConfig.from_folder(folder)
    options = placement or PlacementOptions()
    is_alone = options.mode not in (PIPELINE, TENSOR)
    native = device.type == "cpu" and is_alone and _use_native(config, dtype, block_size, kv_cache_dtype, cpu_kernels)
    precision = choose_precision(dtype, device, has_native_bfloat16=native)
    cache_dtype = choose_cache_dtype(kv_cache_dtype, precision.dtype, device)
    packed = experts == "packed" or (experts == "auto" and (native or device.type == "cuda"))
    packed = packed and has_packed_experts(folder)
    eight_bit = dense_weights == "int8"
    choice = _choose(config, device, precision, cache_dtype, options, packed=packed, eight_bit=eight_bit)
    if eight_bit:
        _check_eight_bit(choice, native=native)
    _tell(precision, cache_dtype, choice)
    if head is not None:
        check_takes_head(choice.mode, precision.dtype, native=native)
        check_head(find_checkpoint(head), config)
    if choice.mode != SINGLE:
        return _load_spread(folder, choice, device, precision, cache_dtype, options, progress)
    threads = num_threads or len(os.sched_getaffinity(0))
    if device.type == "cpu":
        torch.set_num_threads(threads)
    model: LocalModel
    if native:
        kept = "MXFP4" if packed and has_packed_experts(folder) else "bfloat16"
        logger.info("forward pass: C++ kernels (AVX-512 BF16), experts in %s, threads: %d", kept, threads)
        model = NativeModel(config, _layer_by_layer(folder, config, packed=packed, progress=progress), threads)
    else:
        shard = Shard.of_all(config)
        weights = load_weights(
            folder, shard, precision.dtype, device, packed=packed, eight_bit=eight_bit, progress=progress
        )
        model = make_model(shard, weights, cuda_graphs=cuda_graphs, cache_dtype=cache_dtype)
    if device.type == "cuda":
        _compare(choice.plans[0], device)
    if head is not None and isinstance(model, TorchModel):
        attach_head(model, head)
    kernels = "C++" if native else _kernels_of(device, precision, cache_dtype, packed=packed)
    if not native and model.max_rows_ahead:
        kernels += ", decode steps in CUDA graphs"
    if eight_bit:
        kernels += ", 8-bit attention and unembedding"
    model.info = _info(choice, device, precision, kernels)
    return model


def make_model(
    shard: Shard, weights: Weights, *, cuda_graphs: bool, cache_dtype: torch.dtype | None = None
) -> TorchModel:
    """Return a whole model on its weights' device, one that replays its decode steps where it can.

    cache_dtype: of keys and values; None: the weights'.
    """
    layer = weights.layers[0]
    is_packed = isinstance(layer.experts.gate_up, PackedMatrices)  # plain torch's experts wait for the host
    if not (cuda_graphs and is_packed and has_kernels(layer.qkv_bias.device, layer.qkv_bias.dtype)):
        return TorchModel(shard, weights, cache_dtype=cache_dtype)
    # Triton-language comes with torch's CUDA build; where nothing else is computed, nobody needs it
    from gptoss_backend.engine.kernels.graphed_model import GraphedModel

    return GraphedModel(shard, weights, cache_dtype=cache_dtype)


def check_takes_head(mode: str, dtype: torch.dtype, *, native: bool) -> None:
    """Raise EngineError where what computes the model takes no draft head."""
    if native:
        raise EngineError("engine.speculation_head needs the torch forward pass: set engine.cpu_kernels to torch")
    if mode != SINGLE:
        raise EngineError(f"engine.speculation_head needs a model on one device, but its placement is {mode}")
    if dtype == torch.float16:
        raise EngineError("engine.speculation_head: the model's states outgrow float16, set engine.dtype to another")


def attach_head(model: TorchModel, head: str) -> None:
    """Load a draft head beside a whole model. Raises CheckpointError."""
    folder = find_checkpoint(head)
    config, weights = load_head(folder, model.config, model.dtype, model.device)
    model.attach(config, weights)
    boundaries = ", ".join(map(str, config.boundaries))
    logger.info("draft head: %s, %s tokens, reads the states at %s", folder, f"{len(weights.targets):,}", boundaries)


def _layer_by_layer(folder: Path, config: ModelConfig, *, packed: bool, progress: Progress | None) -> Iterator[Weights]:
    """Read each layer when it is asked for: the kernels keep weights in a layout of their own, no two copies fit."""
    for index in range(config.num_layers):
        shard = Shard(config, range(index, index + 1))
        yield load_weights(folder, shard, torch.bfloat16, torch.device("cpu"), packed=packed)
        if progress is not None:
            progress(index + 1, config.num_layers)


def _choose(
    config: ModelConfig,
    device: torch.device,
    precision: Precision,
    cache_dtype: torch.dtype,
    options: PlacementOptions,
    *,
    packed: bool,
    eight_bit: bool,
) -> Choice:
    """Return the placement, on GPUs one that fits; on CPUs what is asked for, else a single process."""
    mode = options.mode
    if device.type == "cuda":
        here = [
            Card(torch.cuda.get_device_name(index), torch.cuda.mem_get_info(index)[0])
            for index in range(torch.cuda.device_count())
        ]
        cards = here * options.num_nodes
    else:
        if mode in (PIPELINE, TENSOR) and options.num_devices is None:
            raise EngineError(
                f"placement.mode is {mode}: without GPUs, placement.num_devices says over how many processes"
            )
        mode = SINGLE if mode == AUTO else mode
        cards = [_HOST] * (options.num_devices or 1)
    choice = choose_placement(
        config,
        cards,
        mode=mode,
        num_devices=options.num_devices,
        element_size=precision.dtype.itemsize,
        packed=packed,
        kv_element_size=cache_dtype.itemsize,
        eight_bit=eight_bit,
    )
    return choice if mode == options.mode else replace(choice, reason="one process: there is no GPU")


def _check_eight_bit(choice: Choice, *, native: bool) -> None:
    """Raise EngineError where nothing takes attention's matrices and the unembedding in eight bits."""
    if native:
        raise EngineError(
            "engine.dense_weights is int8, which the C++ kernels do not take: set engine.cpu_kernels to torch"
        )
    if choice.mode != SINGLE:
        raise EngineError(
            f"engine.dense_weights is int8, which is for a model on one device, but its placement is {choice.mode} "
            f"({choice.reason})"
        )


def _tell(precision: Precision, cache_dtype: torch.dtype, choice: Choice) -> None:
    logger.info("precision: %s (%s)", _name_of(precision.dtype), precision.reason)
    if cache_dtype == FLOAT8:
        logger.info("FP8 KV cache: keys and values are rounded to float8 e4m3, so answers differ from a full cache's")
    logger.info("placement: %s (%s)", choice.mode, choice.reason)
    for line in choice.lines:
        logger.info("memory plan: %s", line)


def _load_spread(
    folder: Path,
    choice: Choice,
    device: torch.device,
    precision: Precision,
    cache_dtype: torch.dtype,
    options: PlacementOptions,
    progress: Progress | None,
) -> Model:
    num_here, rest = divmod(len(choice.shards), options.num_nodes)
    if rest:
        raise EngineError(f"{len(choice.shards)} devices cannot be shared evenly by {options.num_nodes} nodes")
    cluster = Cluster(
        tuple(torch.device(name) for name in device_names(device.type, num_here)),
        len(choice.shards),
        host=options.host,
        port=options.port,
        secret=options.secret,
        timeout_s=options.timeout_s,
    )
    model = DistributedModel(folder, choice.shards, cluster, precision.dtype, progress, cache_dtype=cache_dtype)
    if device.type == "cuda":
        _compare(choice.plans[0], device)
    kernels = _kernels_of(device, precision, cache_dtype, packed=has_packed_experts(folder))
    model.info = _info(choice, device, precision, kernels)
    return model


def _kernels_of(device: torch.device, precision: Precision, cache_dtype: torch.dtype, *, packed: bool) -> str:
    in_triton = [
        *(["experts"] if device.type == "cuda" and packed else []),
        *(["attention and norms"] if has_kernels(device, precision.dtype) else []),
    ]
    kernels = f"torch, Triton-language for {', '.join(in_triton)}" if in_triton else "torch"
    return f"{kernels}, FP8 KV cache" if cache_dtype == FLOAT8 else kernels


def _info(choice: Choice, device: torch.device, precision: Precision, kernels: str) -> ModelInfo:
    return ModelInfo(
        device=torch.cuda.get_device_name(device) if device.type == "cuda" else processor_name(),
        num_devices=len(choice.shards),
        dtype=_name_of(precision.dtype),
        why_dtype=precision.reason,
        placement=choice.mode,
        why_placed=choice.reason,
        kernels=kernels,
        weight_bytes=max(plan.weights for plan in choice.plans),
    )


def _name_of(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _compare(plan: MemoryPlan, device: torch.device) -> None:
    """Say how what was planned and what the allocator has given agree."""
    taken = torch.cuda.memory_allocated(device)
    level = logging.INFO if abs(taken - plan.weights) <= _PLAN_TOLERANCE * plan.weights else logging.WARNING
    logger.log(level, "weights take %s on the device, planned were %s", gib(taken), gib(plan.weights))


def _use_native(
    config: ModelConfig, dtype: str, block_size: int, kv_cache_dtype: CacheDtype, cpu_kernels: CpuKernels
) -> bool:
    if cpu_kernels == "torch" or (cpu_kernels == "auto" and dtype not in ("auto", "bfloat16")):
        return False
    try:
        if kv_cache_dtype == "fp8":
            raise NativeUnavailableError("engine.kv_cache_dtype is fp8, the kernels keep keys and values in bfloat16")
        check_native(config, block_size)
    except NativeUnavailableError as error:
        if cpu_kernels == "native":
            raise EngineError(f"engine.cpu_kernels is native, but {error}") from error
        logger.info("forward pass: torch, since %s", error)
        return False
    if dtype not in ("auto", "bfloat16"):
        raise EngineError(f"engine.cpu_kernels is native, which computes in bfloat16, but engine.dtype is {dtype}")
    return True
