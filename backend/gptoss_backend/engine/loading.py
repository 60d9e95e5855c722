"""From a checkpoint folder to a model that can compute.

Stage: start-up. Owns: where the weights go, in which order all is checked and read, and saying so.
Does not know: requests.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import torch

from gptoss_backend.engine.checkpoint import Progress, Weights, find_checkpoint, load_weights
from gptoss_backend.engine.checkpoint_files import INDEX_FILE, SINGLE_FILE, has_packed_experts, passes_over_index
from gptoss_backend.engine.computing import Computing
from gptoss_backend.engine.config import ModelConfig
from gptoss_backend.engine.eagle.weights import check_head, load_head
from gptoss_backend.engine.errors import EngineError
from gptoss_backend.engine.making import make_model
from gptoss_backend.engine.memory import processor_name
from gptoss_backend.engine.model import Model, ModelInfo
from gptoss_backend.engine.native.library import InstructionSet
from gptoss_backend.engine.native.model import NativeModel
from gptoss_backend.engine.options import EngineOptions
from gptoss_backend.engine.placement.choice import AUTO, SINGLE, Card, Choice, choose_placement
from gptoss_backend.engine.placement.cluster import Cluster
from gptoss_backend.engine.placement.driver import DistributedModel
from gptoss_backend.engine.placement.jobs import device_names
from gptoss_backend.engine.placement.layout import PIPELINE, TENSOR
from gptoss_backend.engine.placement.memory_plan import Formats, MemoryPlan, gib
from gptoss_backend.engine.placement.options import PlacementOptions
from gptoss_backend.engine.precision import name_of
from gptoss_backend.engine.shard import Shard
from gptoss_backend.engine.torch_model import TorchModel

logger = logging.getLogger(__name__)

# of the weights: what the allocator rounds up
_PLAN_TOLERANCE = 0.02

# memory that is not a card's is not planned: the page cache gives way
_HOST = Card("the host", 2**62)


def load_model(
    folder: Path,
    options: EngineOptions | None = None,
    *,
    device: torch.device,
    placement: PlacementOptions | None = None,
    progress: Progress | None = None,
) -> Model:
    """Load a checkpoint folder to `device`, or where `placement` puts it: then `device` is the first of several.

    Raises EngineError (CheckpointError among them) with one sentence, before anything is read where it cannot fit.
    """
    config = ModelConfig.from_folder(folder)
    if passes_over_index(folder):
        logger.info("%s is whole in itself: %s beside it is passed over", folder / SINGLE_FILE, INDEX_FILE)
    options, placement = options or EngineOptions(), placement or PlacementOptions()
    is_alone = placement.mode not in (PIPELINE, TENSOR)
    is_packed = has_packed_experts(folder)
    computing = Computing.choose(config, device, options, is_alone=is_alone, has_packed_experts=is_packed)
    choice = _choose(config, computing, placement, _formats(computing, options, has_packed_experts=is_packed))
    _check_alone(choice, computing, options)
    computing.log()
    logger.info("placement: %s (%s)", choice.mode, choice.reason)
    for line in choice.lines:
        logger.info("memory plan: %s", line)
    if options.draft_head is not None:
        _check_head(options.draft_head, config, choice, computing)
    model: Model
    if choice.mode != SINGLE:
        model = _load_spread(folder, choice, computing, options, placement, progress)
    else:
        threads = options.num_threads or len(os.sched_getaffinity(0))
        if device.type == "cpu":
            torch.set_num_threads(threads)
        if computing.native is not None:
            model = _load_native(folder, config, computing.native, threads, progress, packed=computing.packed)
        else:
            model = _load_torch(folder, config, choice, computing, options, progress)
    model.info = _info(choice, computing, computing.described(has_graphs=model.can_draw))
    return model


def attach_head(model: TorchModel, head: str, max_seqs: int) -> None:
    """Load a draft head beside a whole model, to guess after up to `max_seqs` sequences. Raises CheckpointError."""
    folder = find_checkpoint(head)
    config, weights = load_head(folder, model.config, model.dtype, model.device)
    model.attach(config, weights, max_seqs)
    boundaries = ", ".join(map(str, config.boundaries))
    logger.info("draft head: %s, %s tokens, reads the states at %s", folder, f"{len(weights.targets):,}", boundaries)


def _load_native(
    folder: Path,
    config: ModelConfig,
    instruction_set: InstructionSet,
    threads: int,
    progress: Progress | None,
    *,
    packed: bool,
) -> NativeModel:
    kept = "MXFP4" if packed else "bfloat16"
    logger.info("forward pass: C++ kernels (%s), experts in %s, threads: %d", instruction_set.name, kept, threads)
    layers = _layer_by_layer(folder, config, packed=packed, progress=progress)
    return NativeModel(config, layers, threads, instruction_set)


def _layer_by_layer(folder: Path, config: ModelConfig, *, packed: bool, progress: Progress | None) -> Iterator[Weights]:
    """Read each layer when it is asked for: the kernels keep weights in a layout of their own, no two copies fit."""
    for index in range(config.num_layers):
        shard = Shard(config, range(index, index + 1))
        yield load_weights(folder, shard, torch.bfloat16, torch.device("cpu"), packed=packed)
        if progress is not None:
            progress(index + 1, config.num_layers)


def _load_torch(
    folder: Path,
    config: ModelConfig,
    choice: Choice,
    computing: Computing,
    options: EngineOptions,
    progress: Progress | None,
) -> TorchModel:
    shard = Shard.of_all(config)
    weights = load_weights(
        folder,
        shard,
        computing.precision.dtype,
        computing.device,
        packed=computing.packed,
        eight_bit=computing.eight_bit,
        progress=progress,
    )
    model = make_model(
        shard,
        weights,
        cuda_graphs=options.cuda_graphs,
        dependent_launch=computing.dependent_launch,
        cache_dtype=computing.cache_dtype,
    )
    if computing.device.type == "cuda":
        _compare(choice.plans[0], computing.device)
    if options.speculation is not None and options.draft_head is not None:
        attach_head(model, options.draft_head, options.speculation.max_seqs)
    return model


def _formats(computing: Computing, options: EngineOptions, *, has_packed_experts: bool) -> Formats:
    if computing.device.type == "cuda":
        return Formats.on_gpu(options, has_packed_experts=has_packed_experts)
    return Formats(
        computing.precision.dtype.itemsize, computing.packed, computing.cache_dtype.itemsize, computing.eight_bit
    )


def _choose(config: ModelConfig, computing: Computing, placement: PlacementOptions, formats: Formats) -> Choice:
    """Return the placement, on GPUs one that fits; on CPUs what is asked for, else a single process."""
    mode = placement.mode
    if computing.device.type == "cuda":
        here = [_card(index, computing.device) for index in range(torch.cuda.device_count())]
        if placement.num_nodes > 1:  # of each host the first ones, as those that join take them
            here = here[: (placement.num_devices or 0) // placement.num_nodes]
        cards = here * placement.num_nodes
    else:
        if mode in (PIPELINE, TENSOR) and placement.num_devices is None:
            raise EngineError(
                f"placement.mode is {mode}: without GPUs, placement.num_devices says over how many processes"
            )
        mode = SINGLE if mode == AUTO else mode
        cards = [_HOST] * (placement.num_devices or 1)
    choice = choose_placement(config, cards, mode=mode, num_devices=placement.num_devices, formats=formats)
    if 0 not in choice.cards:  # where `device` is, and with it the precision that was chosen
        raise EngineError(
            f"the first card, {cards[0].name}, is not among those for the model ({choice.reason}): let "
            "CUDA_VISIBLE_DEVICES show the others only"
        )
    return choice if mode == placement.mode else replace(choice, reason="one process: there is no GPU")


def _card(index: int, own: torch.device) -> Card:
    """Return a card of this host. To ask another than our own what is free would leave a context on it for good."""
    name = torch.cuda.get_device_name(index)
    if index == own.index:
        return Card(name, *torch.cuda.mem_get_info(own))
    return Card.of_total(name, torch.cuda.get_device_properties(index).total_memory)


def _check_alone(choice: Choice, computing: Computing, options: EngineOptions) -> None:
    """Raise EngineError where something is asked for that only a whole model on one device takes."""
    setting = None
    if computing.eight_bit:
        setting = "engine.dense_weights is int8"
    elif computing.dependent_launch:
        setting = "engine.programmatic_dependent_launch is true"
    elif options.draft_head is not None:
        setting = "engine.speculation_head is set"
    if setting and choice.mode != SINGLE:
        raise EngineError(
            f"{setting}, which is for a model on one device, but its placement is {choice.mode} ({choice.reason})"
        )
    if options.draft_head is not None and computing.precision.dtype == torch.float16:
        raise EngineError("engine.speculation_head: the model's states outgrow float16, set engine.dtype to another")


def _check_head(head: str, config: ModelConfig, choice: Choice, computing: Computing) -> None:
    """Raise EngineError (CheckpointError among them) where there is no such head, or no room for it."""
    size = check_head(find_checkpoint(head), config, computing.precision.dtype.itemsize)
    logger.info("memory plan: draft head %s", gib(size))
    if computing.device.type == "cuda":
        model, free = choice.plans[0].weight_bytes, torch.cuda.mem_get_info(computing.device)[0]
        if model + size > free:
            raise EngineError(
                f"the draft head takes {gib(size)} beside the model's {gib(model)}, but {gib(free)} are free"
            )


def _load_spread(
    folder: Path,
    choice: Choice,
    computing: Computing,
    options: EngineOptions,
    placement: PlacementOptions,
    progress: Progress | None,
) -> DistributedModel:
    num_here, rest = divmod(len(choice.shards), placement.num_nodes)
    if rest:
        raise EngineError(f"{len(choice.shards)} devices cannot be shared evenly by {placement.num_nodes} nodes")
    cluster = Cluster(
        tuple(torch.device(name) for name in device_names(computing.device.type, choice.cards[:num_here])),
        len(choice.shards),
        host=placement.host,
        port=placement.port,
        secret=placement.secret,
        timeout_s=placement.timeout_s,
        meeting_timeout_s=placement.meeting_timeout_s,
        num_threads=options.num_threads,
    )
    model = DistributedModel(
        folder,
        choice.shards,
        cluster,
        computing.precision.dtype,
        progress,
        cache_dtype=computing.cache_dtype,
        packed=computing.packed,
        cuda_graphs=options.cuda_graphs,
    )
    if computing.device.type == "cuda":
        _compare(choice.plans[0], computing.device)
    return model


def _info(choice: Choice, computing: Computing, kernels: str) -> ModelInfo:
    on_gpu = computing.device.type == "cuda"
    return ModelInfo(
        device=torch.cuda.get_device_name(computing.device) if on_gpu else processor_name(),
        num_devices=len(choice.shards),
        dtype=name_of(computing.precision.dtype),
        why_dtype=computing.precision.reason,
        placement=choice.mode,
        why_placed=choice.reason,
        kernels=kernels,
        weight_bytes=max(plan.weight_bytes for plan in choice.plans),
    )


def _compare(plan: MemoryPlan, device: torch.device) -> None:
    """Say how what was planned and what the allocator has given agree."""
    taken = torch.cuda.memory_allocated(device)
    level = logging.INFO if abs(taken - plan.weight_bytes) <= _PLAN_TOLERANCE * plan.weight_bytes else logging.WARNING
    logger.log(level, "weights take %s on the device, planned were %s", gib(taken), gib(plan.weight_bytes))
