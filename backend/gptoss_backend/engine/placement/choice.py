"""Where a model is put: on one device, or over how many and in which way, and why.

Stage: start-up. Owns: the decision, in words. Does not know: how devices are found, or talk.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import product
from typing import Final, Literal

from gptoss_backend.engine.config import ModelConfig
from gptoss_backend.engine.errors import EngineError
from gptoss_backend.engine.placement.layout import PIPELINE, TENSOR, SpreadMode, divide
from gptoss_backend.engine.placement.memory_plan import AS_PUBLISHED, Formats, MemoryPlan, gib, plan_memory
from gptoss_backend.engine.shard import Shard

PlacementMode = Literal["single", "pipeline", "tensor", "auto"]
SINGLE: Final = "single"
AUTO: Final = "auto"

MIN_CONTEXT: Final = 8192
"""Tokens of KV cache without which a placement is not said to fit."""
# what a driver keeps for itself, and the allocator loses between blocks
_USABLE_SHARE: Final = 0.97
# the CUDA contexts of tritonserver and of the stub, there before an engine asks what is free
_SERVER_BYTES: Final = 2**30
# a model whose weights fill several cards gains more by all of them reading at once than sums between them cost
_TENSOR_FROM_BYTES: Final = 32 * 2**30


@dataclass(frozen=True, slots=True)
class Card:
    """A device's memory, as a plan sees it.

    An engine says what is free on its own card; of others, and before anything is started, only their total is known:
    an earlier server may still hold a card that this one is to have.
    """

    name: str
    usable_bytes: int
    total_bytes: int = 0
    """By which cards are ordered: of cards alike the first is the first, whatever else is on it."""

    @classmethod
    def of_total(cls, name: str, total_bytes: int) -> Card:
        """Return a card of which the driver tells so much in all: less what a server holds there beside its engine."""
        return cls(name, max(0, total_bytes - _SERVER_BYTES), total_bytes)

    @property
    def room_bytes(self) -> int:
        """What weights, cache and work may take."""
        return int(self.usable_bytes * _USABLE_SHARE)


@dataclass(frozen=True, slots=True)
class Choice:
    """Where a model goes."""

    mode: Literal["single", "pipeline", "tensor"]
    shards: tuple[Shard, ...]
    plans: tuple[MemoryPlan, ...]
    """Of the shards."""
    reason: str
    cards: tuple[int, ...]
    """Positions of those chosen from: of every one that may hold a replica, or of each shard's."""

    @property
    def lines(self) -> list[str]:
        """Return the memory plan, a line for each device."""
        return [f"device {rank}: {plan}" for rank, plan in enumerate(self.plans)]


def choose_placement(
    config: ModelConfig,
    cards: Sequence[Card],
    *,
    mode: PlacementMode = AUTO,
    num_devices: int | None = None,
    formats: Formats = AS_PUBLISHED,
) -> Choice:
    """Return the placement over `cards` that `mode` asks for; auto: the cheapest that fits.

    One card is the cheapest: nothing is exchanged, and every further card that holds the model can serve another
    replica. Then as few as hold it, the largest first. num_devices: exactly so many. Raises EngineError, with the
    figures, where it does not fit.
    """
    if not cards:
        raise EngineError("there is no GPU to place the model on")
    if num_devices is not None and num_devices > len(cards):
        raise EngineError(f"placement.num_devices is {num_devices}, but there are {len(cards)} GPUs")
    whole = (Shard.of_all(config),)
    plan = plan_memory(whole[0], formats)
    if mode == SINGLE or (mode == AUTO and num_devices in (None, 1)):
        able = tuple(index for index, card in enumerate(cards) if plan.needed(MIN_CONTEXT) <= card.room_bytes)
        if able:
            reason = "asked for by placement.mode" if mode == SINGLE else _why_single(plan, cards, able)
            return Choice(SINGLE, whole, (plan,), reason + _left_out(cards, able), able)
        if mode == SINGLE or num_devices == 1:
            raise EngineError(_misfit((plan,), cards))
    found = _spread(config, plan, cards, mode=mode, num_devices=num_devices, formats=formats)
    if found is None:
        raise EngineError(_misfit((plan,), cards))
    return found


def _spread(
    config: ModelConfig,
    whole: MemoryPlan,
    cards: Sequence[Card],
    *,
    mode: PlacementMode,
    num_devices: int | None,
    formats: Formats,
) -> Choice | None:
    """Return the placement over as few cards as hold it, or over `num_devices`; None where all do not.

    Raises EngineError where what was asked for cannot be.
    """
    asked = "placement.mode" if mode != AUTO else "placement.num_devices" if num_devices else None
    largest_first = sorted(range(len(cards)), key=lambda index: -cards[index].total_bytes)
    counts = [num_devices] if num_devices else range(2, len(cards) + 1)
    misfit = None
    for spread, count in product(_ways(mode, whole), counts):
        try:
            shards = divide(config, spread, count)
        except EngineError as error:  # so many cannot divide its heads
            misfit = misfit or str(error)
            continue
        chosen = tuple(sorted(largest_first[:count]))
        plans = tuple(plan_memory(shard, formats) for shard in shards)
        if max(plan.needed(MIN_CONTEXT) for plan in plans) <= _smallest(cards, chosen).room_bytes:
            why = f"asked for by {asked}, over {count} cards" if asked else _why_spread(whole, cards, spread, count)
            return Choice(spread, shards, plans, why + _left_out(cards, chosen), chosen)
        misfit = _misfit(plans, [cards[index] for index in chosen])
    if asked and misfit:
        raise EngineError(misfit)
    return None


def _ways(mode: PlacementMode, whole: MemoryPlan) -> tuple[SpreadMode, ...]:
    """Return how a model may be spread, what is best first: layers can be divided over three cards, heads cannot."""
    if mode in (PIPELINE, TENSOR):
        return (PIPELINE if mode == PIPELINE else TENSOR,)
    return (TENSOR, PIPELINE) if whole.weight_bytes >= _TENSOR_FROM_BYTES else (PIPELINE,)


def _why_single(plan: MemoryPlan, cards: Sequence[Card], able: Sequence[int]) -> str:
    smallest = _smallest(cards, able)
    room = plan.num_tokens_in(smallest.room_bytes)
    each = "each such card" if len(able) < len(cards) else "every card"
    return f"it fits on one {smallest.name} with room for {room:,} tokens, so {each} serves a replica"


def _why_spread(whole: MemoryPlan, cards: Sequence[Card], spread: SpreadMode, count: int) -> str:
    largest = max(cards, key=lambda card: card.usable_bytes)
    return (
        f"{gib(whole.needed(MIN_CONTEXT))} do not fit on one {largest.name} of {gib(largest.usable_bytes)}; "
        f"{count} cards are the fewest that hold it, by {spread} parallelism"
    )


def _left_out(cards: Sequence[Card], chosen: Sequence[int]) -> str:
    """Return the words on cards too small to be of use beside the chosen ones; empty where there are none."""
    least = _smallest(cards, chosen).room_bytes
    small = [card for index, card in enumerate(cards) if index not in chosen and card.room_bytes < least]
    return f"; left out: {_named(small)}" if small else ""


def _misfit(plans: Sequence[MemoryPlan], cards: Sequence[Card]) -> str:
    """Return the sentence that tells by how much a placement does not fit. cards: those that it would be on."""
    needed, weights = max(plan.needed(MIN_CONTEXT) for plan in plans), max(plan.weight_bytes for plan in plans)
    where = "one card" if len(plans) == 1 else f"each of {len(plans)} cards"
    return (
        f"the model needs {gib(needed)} on {where} ({gib(weights)} of weights, room to work, {MIN_CONTEXT:,} tokens of "
        f"KV cache), but there is room for {_named(cards)}: use more or larger cards, or let CUDA_VISIBLE_DEVICES show "
        "others"
    )


def _named(cards: Sequence[Card]) -> str:
    """Name cards with their room, equal ones once."""
    numbers = Counter(f"{gib(card.room_bytes)} on {card.name}" for card in cards)
    return ", ".join(f"{told} ({number} such)" if number > 1 else told for told, number in numbers.items())


def _smallest(cards: Sequence[Card], chosen: Sequence[int]) -> Card:
    return min((cards[index] for index in chosen), key=lambda card: card.usable_bytes)
