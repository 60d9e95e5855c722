"""Where the model is to be put: which variant of the models' configs this machine calls for, and how many replicas.

Stage: start of a server.
Owns: these questions, asked before anything is started, so that a model too large is refused in a second.
Does not know: how the choice is made (gptoss_backend.engine.placement), how it is carried out.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Final

from gptoss_backend.engine.checkpoint_files import has_packed_experts
from gptoss_backend.engine.config import ModelConfig
from gptoss_backend.engine.errors import EngineError
from gptoss_backend.engine.placement.choice import AUTO, SINGLE, Card, Choice, choose_placement
from gptoss_backend.engine.placement.memory_plan import Formats
from gptoss_backend.model_names import ModelShort
from gptoss_backend.settings import PlacementSettings, Settings
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
    shares: tuple[tuple[int, ...], ...] = ()
    """Of each tritonserver: positions, among the cards that a process sees, of its own; empty: each sees all."""
    left_out: tuple[str, ...] = ()
    """Names of the cards that none has: too small for what is served, or more than it takes."""
    num_cards: int = 0
    """That a process sees, those left out included; 0: none, or it is not known."""

    def cards_of(self, number: int) -> tuple[int, ...]:
        """Return the positions of the cards that tritonserver `number` is to see; empty: all."""
        return self.shares[number] if self.shares else ()

    def num_cards_of(self, number: int) -> int:
        """Return how many cards tritonserver `number` sees."""
        return len(self.cards_of(number)) or self.num_cards


def place(settings: Settings, environment: Mapping[str, str]) -> Placing:
    """Return where the model goes with `server.num_replicas` as it is: null, or a number.

    Asks the driver, which may take seconds. Raises UsageError, DriverError.
    """
    placing, wanted = place_in_one(settings, environment), settings.server.num_replicas
    if settings.server.triton_replicas is not None:
        return placing  # the adapter is not told of more
    if placing.variant == SPREAD_VARIANT:
        return _place_spread(placing, settings, environment)
    if placing.variant != REPLICAS_VARIANT and _is_spread(settings.placement):
        _check_can_repeat(settings)
        return replace(placing, num_replicas=wanted or 1)
    able = placing.cards_of(0) or range(placing.num_cards)
    if wanted and 0 < len(able) < wanted:
        raise UsageError(f"server.num_replicas is {wanted}, but the GPUs that can be used are {len(able)}")
    num_replicas = wanted or (max(1, len(able)) if placing.variant == REPLICAS_VARIANT else 1)
    has_card_each = placing.num_cards > 1 and (placing.variant == REPLICAS_VARIANT or num_replicas > 1)
    shares = tuple((card,) for card in able[:num_replicas]) if has_card_each else ()
    return replace(placing, num_replicas=num_replicas, shares=shares)


def with_num_replicas(settings: Settings, environment: Mapping[str, str]) -> Settings:
    """Return the settings with the number of replicas that are to be started, each with its share of the threads.

    Blocks and raises as `place` does.
    """
    placing = place(settings, environment)
    server, engine = settings.server.model_copy(update={"num_replicas": placing.num_replicas}), settings.engine
    if placing.num_replicas > 1 and engine.num_threads is None:
        # on the processor each rank of a spread model is a process with so many threads
        is_divided = placing.variant == CPU_VARIANT and _is_spread(settings.placement)
        num_processes = placing.num_replicas * ((settings.placement.num_devices or 1) if is_divided else 1)
        share = max(1, len(os.sched_getaffinity(0)) // num_processes)
        engine = engine.model_copy(update={"num_threads": share})
    return settings.model_copy(update={"server": server, "engine": engine})


def place_in_one(settings: Settings, environment: Mapping[str, str]) -> Placing:
    """Return where the model goes in one tritonserver that has all the cards which processes of that environment see.

    Asks the driver, which may take seconds. Raises UsageError, DriverError.
    """
    if settings.server.triton_config_name:
        variant = settings.server.triton_config_name
        return Placing(variant, num_cards=0 if variant == CPU_VARIANT else count_gpus(environment))
    # the demo is computed on the processor, whatever the driver says
    if set(settings.served_models) == {DEMO} or not _has_gpu(environment):
        return Placing(CPU_VARIANT)
    gpus, num_cards = list_gpus(environment), count_gpus(environment)
    here = gpus[: _num_here(settings.placement)]
    choices = _choices(settings, here)
    if not choices:
        return Placing(None, num_cards=num_cards)
    # one variant for all: where a model is spread, each engine places its own. What a large one fits, a small one does
    spread = _spread_cards(choices)
    placing = Placing(SPREAD_VARIANT if spread else REPLICAS_VARIANT, num_cards=num_cards)
    of_use = spread or set.intersection(*map(_cards, choices))
    return _with_shares(placing, [sorted(of_use)], gpus)


def _place_spread(placing: Placing, settings: Settings, environment: Mapping[str, str]) -> Placing:
    """Return a placing of as many spread engines as are asked for, else as the cards hold, one tritonserver each."""
    wanted, gpus = settings.server.num_replicas, list_gpus(environment)
    is_known = len(gpus) == placing.num_cards
    if wanted == 1 or not (wanted or (is_known and _why_alone(settings) is None)):
        return placing
    _check_can_repeat(settings)
    if not is_known:
        raise UsageError(
            f"server.num_replicas is {wanted}, but which cards there are to share is not known: name whole ones in "
            "CUDA_VISIBLE_DEVICES, by number or UUID"
        )
    shares = _share_out(gpus, settings)
    if wanted and len(shares) < wanted:
        raise UsageError(
            f"server.num_replicas is {wanted}, but the GPUs hold {len(shares)}, each over {len(shares[0])} of them"
        )
    return _with_shares(replace(placing, num_replicas=len(shares)), shares, gpus)


def _share_out(gpus: list[Gpu], settings: Settings) -> list[list[int]]:
    """Return the positions of the cards of each engine: of as many as are asked for, else as the cards hold."""
    wanted, left = settings.server.num_replicas, list(range(len(gpus)))
    shares: list[list[int]] = []
    while left and (wanted is None or len(shares) < wanted):
        try:
            cards = _spread_cards(_choices(settings, [gpus[position] for position in left]))
        except UsageError:
            cards = set()
        if not cards:  # what is left does not hold another
            break
        shares.append([left[index] for index in sorted(cards)])
        left = [position for position in left if position not in shares[-1]]
    return shares


def _with_shares(placing: Placing, shares: list[list[int]], gpus: list[Gpu]) -> Placing:
    """Return a placing whose tritonservers see no other cards than theirs."""
    held = {position for share in shares for position in share}
    is_known = len(gpus) == placing.num_cards  # else what the driver lists is not what processes see
    if not is_known or (len(shares) == 1 and len(held) == placing.num_cards):
        return replace(placing, shares=(), left_out=())
    left_out = tuple(f"GPU {gpu.index} ({gpu.name})" for position, gpu in enumerate(gpus) if position not in held)
    return replace(placing, shares=tuple(map(tuple, shares)), left_out=left_out)


def _check_can_repeat(settings: Settings) -> None:
    """Raise UsageError where more than one spread engine is asked for and cannot be."""
    wanted = settings.server.num_replicas
    if wanted and wanted > 1 and (why := _why_alone(settings)):
        raise UsageError(f"server.num_replicas is {wanted}, but one engine is spread over several devices, and {why}")


def _why_alone(settings: Settings) -> str | None:
    """Return why there can be no second spread engine of these settings; None where there can."""
    if settings.placement.num_nodes > 1:
        return "over several hosts there is one"
    if settings.placement.rendezvous:
        return "placement.rendezvous is one engine's: leave it out"
    if settings.server.triton_config_name:
        return "server.triton_config_name leaves its cards to it: leave that out"
    return None


def _is_spread(placement: PlacementSettings) -> bool:
    return placement.mode not in (AUTO, SINGLE)


def _choices(settings: Settings, gpus: list[Gpu]) -> list[Choice]:
    """Return the placements of the models that have a checkpoint, the demo's not among them. Raises UsageError."""
    models = [model for model in settings.served_models if model != DEMO and gpus]
    return [choice for model in models if (choice := _choose(model, settings, gpus)) is not None]


def _spread_cards(choices: list[Choice]) -> set[int]:
    """Return the cards of the models that are spread; empty where none is."""
    return set().union(*(_cards(choice) for choice in choices if choice.mode != SINGLE))


def _cards(choice: Choice) -> set[int]:
    return set(choice.cards)


def _num_here(placement: PlacementSettings) -> int | None:
    """Return how many cards of this host are used at most: of several hosts, each one's first."""
    return None if placement.num_nodes == 1 else (placement.num_devices or 0) // placement.num_nodes


def _has_gpu(environment: Mapping[str, str]) -> bool:
    try:
        return has_nvidia_gpu(environment)
    except DriverError as error:
        # a model that was meant for a GPU would load on the processor, turn ready, and serve at a hundredth of its pace
        raise DriverError(
            f"{error}: is there a GPU? See that nvidia-smi works; to serve on the processor set CUDA_VISIBLE_DEVICES "
            f"to nothing, or server.triton_config_name to {CPU_VARIANT}"
        ) from error


def _choose(model: ModelShort, settings: Settings, gpus: list[Gpu]) -> Choice | None:
    """Return a model's placement; None where there is no checkpoint, as its loading says."""
    folder = find_checkpoint(settings.checkpoints[model])
    if folder is None:
        return None
    placement = settings.placement
    try:
        return choose_placement(
            ModelConfig.from_folder(folder),
            [Card.of_total(gpu.name, gpu.total_bytes) for gpu in gpus] * placement.num_nodes,
            mode=placement.mode,
            num_devices=placement.num_devices,
            formats=Formats.on_gpu(settings.engine, has_packed_experts=has_packed_experts(folder)),
        )
    except EngineError as error:
        raise UsageError(str(error)) from error
