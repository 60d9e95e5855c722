"""Where the model is to be put: which variant of the models' configs this machine calls for, and how many replicas.

Stage: start of a server.
Owns: these questions, asked before anything is started, so that a model too large is refused in a second.
Does not know: how the choice is made (gptoss_backend.engine.placement), how it is carried out.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from gptoss_backend.engine.checkpoint_files import has_packed_experts
from gptoss_backend.engine.config import ModelConfig
from gptoss_backend.engine.errors import EngineError
from gptoss_backend.engine.placement.choice import AUTO, SINGLE, Card, choose_placement
from gptoss_backend.engine.placement.memory_plan import Formats
from gptoss_backend.model_names import ModelShort
from gptoss_backend.settings import Settings
from gptoss_client.checkpoint import DEMO, find_checkpoint
from gptoss_client.errors import DriverError, UsageError
from gptoss_client.gpu import Gpu, count_gpus, has_nvidia_gpu, list_gpus

CPU_VARIANT: Final = "cpu"
REPLICAS_VARIANT: Final = "replicas"
SPREAD_VARIANT: Final = "spread"
GPU_VARIANTS: Final = frozenset({REPLICAS_VARIANT, SPREAD_VARIANT})


@dataclass(frozen=True, slots=True)
class Placing:
    """Where the model goes."""

    variant: str | None
    """Of the models' configs; None: config.pbtxt itself."""
    num_replicas: int = 1
    """How many tritonservers there are to be."""
    has_card_each: bool = False
    """Whether each of them is to see one card only, of several."""


def place(settings: Settings, environment: Mapping[str, str]) -> Placing:
    """Return where the model goes with `server.num_replicas` as it is: null, or a number.

    Asks the driver, which may take seconds. Raises UsageError, DriverError.
    """
    variant, wanted = config_variant(settings, environment), settings.server.num_replicas
    if settings.server.triton_replicas is not None:
        return Placing(variant)  # the adapter is not told of more
    if variant == SPREAD_VARIANT or (variant != REPLICAS_VARIANT and settings.placement.mode not in (AUTO, SINGLE)):
        if wanted and wanted > 1:
            raise UsageError(
                f"server.num_replicas is {wanted}, but one engine is spread over several devices: leave it out, or "
                f"set placement.mode to {SINGLE}"
            )
        return Placing(variant)
    num_cards = 0 if variant == CPU_VARIANT else count_gpus(environment)
    if wanted and 0 < num_cards < wanted:
        raise UsageError(f"server.num_replicas is {wanted}, but the GPUs that can be used are {num_cards}")
    num_replicas = wanted or (max(1, num_cards) if variant == REPLICAS_VARIANT else 1)
    return Placing(variant, num_replicas, num_cards > 1 and (variant == REPLICAS_VARIANT or num_replicas > 1))


def with_num_replicas(settings: Settings, environment: Mapping[str, str]) -> Settings:
    """Return the settings with the number of replicas that are to be started, each with its share of the threads.

    Blocks and raises as `place` does.
    """
    num_replicas = place(settings, environment).num_replicas
    server, engine = settings.server.model_copy(update={"num_replicas": num_replicas}), settings.engine
    if num_replicas > 1 and engine.num_threads is None:
        share = max(1, len(os.sched_getaffinity(0)) // num_replicas)
        engine = engine.model_copy(update={"num_threads": share})
    return settings.model_copy(update={"server": server, "engine": engine})


def config_variant(settings: Settings, environment: Mapping[str, str]) -> str | None:
    """Return the variant for processes with that environment; None: config.pbtxt itself.

    Asks the driver, which may take seconds. Raises UsageError, DriverError.
    """
    if settings.server.triton_config_name:
        return settings.server.triton_config_name
    if set(settings.served_models) == {DEMO}:
        return CPU_VARIANT  # it is computed there, whatever the driver says
    if not _has_gpu(environment):
        return CPU_VARIANT
    gpus = list_gpus(environment)
    variants = {_by_placement(model, settings, gpus) for model in settings.served_models if model != DEMO and gpus}
    # one for all: where a model is spread, each engine places its own
    return SPREAD_VARIANT if SPREAD_VARIANT in variants else next(iter(variants - {None}), None)


def _has_gpu(environment: Mapping[str, str]) -> bool:
    try:
        return has_nvidia_gpu(environment)
    except DriverError as error:
        # a model that was meant for a GPU would load on the processor, turn ready, and serve at a hundredth of its pace
        raise DriverError(
            f"{error}: is there a GPU? See that nvidia-smi works; to serve on the processor set CUDA_VISIBLE_DEVICES "
            f"to nothing, or server.triton_config_name to {CPU_VARIANT}"
        ) from error


def _by_placement(model: ModelShort, settings: Settings, gpus: list[Gpu]) -> str | None:
    folder = find_checkpoint(settings.checkpoints[model])
    if folder is None:
        return None  # the model's loading says so
    placement = settings.placement
    try:
        choice = choose_placement(
            ModelConfig.from_folder(folder),
            [Card(gpu.name, gpu.total_bytes) for gpu in gpus] * placement.num_nodes,
            mode=placement.mode,
            num_devices=placement.num_devices,
            formats=Formats.on_gpu(settings.engine, has_packed_experts=has_packed_experts(folder)),
        )
    except EngineError as error:
        raise UsageError(str(error)) from error
    return REPLICAS_VARIANT if choice.mode == SINGLE else SPREAD_VARIANT
