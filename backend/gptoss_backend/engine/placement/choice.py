"""Where a model is put: on one device, or over how many and in which way, and why.

Stage: start-up. Owns: the decision, in words. Does not know: how devices are found, or talk.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
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
# a model whose weights fill several cards gains more by all of them reading at once than sums between them cost
_TENSOR_FROM_BYTES: Final = 32 * 2**30


@dataclass(frozen=True, slots=True)
class Card:
    """A device's memory, as a plan sees it.

    An engine says what is free on its cards; the client, before anything is started, what there is in all, for an
    earlier server may still hold a card that this one is to have.
    """

    name: str
    usable_bytes: int


@dataclass(frozen=True, slots=True)
class Choice:
    """Where a model goes."""

    mode: Literal["single", "pipeline", "tensor"]
    shards: tuple[Shard, ...]
    plans: tuple[MemoryPlan, ...]
    """Of the shards."""
    reason: str

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

    One card is the cheapest: nothing is exchanged, and every further card can hold another replica. Then as few cards
    as hold the model. num_devices: exactly so many. Raises EngineError, with the figures, where it does not fit.
    """
    if not cards:
        raise EngineError("there is no GPU to place the model on")
    if num_devices is not None and num_devices > len(cards):
        raise EngineError(f"placement.num_devices is {num_devices}, but there are {len(cards)} GPUs")

    def option(spread: Literal["single", "pipeline", "tensor"], count: int, reason: str) -> Choice:
        shards = (Shard.of_all(config),) if spread == SINGLE else divide(config, spread, count)
        plans = tuple(plan_memory(shard, formats) for shard in shards)
        return Choice(spread, shards, plans, reason)

    whole = option(SINGLE, 1, "asked for by placement.mode")
    if mode == SINGLE or (mode == AUTO and num_devices in (None, 1) and not _misfit(whole, cards)):
        if misfit := _misfit(whole, cards):
            raise EngineError(misfit)
        if mode == SINGLE:
            return whole
        room = whole.plans[0].num_tokens_in(int(_smallest(cards) * _USABLE_SHARE))
        return option(
            SINGLE, 1, f"it fits on one {cards[0].name} with room for {room:,} tokens, so every card serves a replica"
        )
    spread: SpreadMode = TENSOR if whole.plans[0].weight_bytes >= _TENSOR_FROM_BYTES else PIPELINE
    if mode in (PIPELINE, TENSOR):
        spread = PIPELINE if mode == PIPELINE else TENSOR
    asked = "placement.mode" if mode != AUTO else "placement.num_devices" if num_devices else None
    counts = [num_devices] if num_devices else list(range(2, len(cards) + 1))
    for count in counts:
        try:
            found = option(spread, count, _why(whole, cards, spread, count, asked=asked))
        except EngineError:
            if num_devices:
                raise
            continue  # this many cannot divide its heads
        if not _misfit(found, cards):
            return found
    raise EngineError(_misfit(whole, cards) or f"{config.num_layers} layers cannot be placed over {len(cards)} cards")


def _why(whole: Choice, cards: Sequence[Card], spread: SpreadMode, count: int, *, asked: str | None) -> str:
    if asked:
        return f"asked for by {asked}, over {count} cards"
    return (
        f"{gib(whole.plans[0].needed(MIN_CONTEXT))} do not fit on one card of {gib(_smallest(cards))}; "
        f"{count} are the fewest that hold it, by {spread} parallelism"
    )


def _misfit(choice: Choice, cards: Sequence[Card]) -> str | None:
    """Return the sentence that tells by how much the placement does not fit; None where it does."""
    needed = max(plan.needed(MIN_CONTEXT) for plan in choice.plans)
    there = int(_smallest(cards) * _USABLE_SHARE)
    if needed <= there:
        return None
    where = "one card" if choice.mode == SINGLE else f"each of {len(choice.plans)} cards"
    weights = gib(max(plan.weight_bytes for plan in choice.plans))
    return (
        f"the model needs {gib(needed)} on {where} ({weights} of weights, room to work, {MIN_CONTEXT:,} tokens of "
        f"KV cache), but {cards[0].name} has {gib(there)}, and there are {len(cards)} such: use more or larger cards"
    )


def _smallest(cards: Sequence[Card]) -> int:
    return min(card.usable_bytes for card in cards)
