"""How many cards so many people need.

Stage: before anything is bought.
Owns: the demand that people make, what a replica does under it, the smallest fleet that keeps its promises.
Does not know: how long a pass takes (plan_roofline), prices, how a plan is told.

People think, ask, read the answer as it comes, and think again. With n replicas each serves users / n of them; how many
it answers at once follows from how long an answer takes (Little's law), which follows from how many it answers at once.
"""

from __future__ import annotations

import math
from bisect import bisect_left
from dataclasses import dataclass
from typing import Final

from gptoss_backend.engine.errors import EngineError
from gptoss_backend.engine.placement.choice import choose_placement
from gptoss_client.errors import UsageError
from gptoss_client.plan_devices import Device
from gptoss_client.plan_models import PlannedModel, published_config
from gptoss_client.plan_roofline import Roofline

MOST_TTFT_S: Final = 7.0
"""The service target, for the 95th percentile."""
MOST_MEAN_TTFT_S: Final = MOST_TTFT_S / 3.0
"""Waiting behind others is taken to be exponential, whose 95th percentile is ln 20 = 3.0 times its mean."""
_PEAK_SIGMAS: Final = 2.0
_MOST_CARDS_OF_ONE: Final = 8
_NUM_HALVINGS: Final = 60


@dataclass(frozen=True, slots=True)
class Demand:
    """What is asked for."""

    users: int
    think_s: float
    prompt_tokens: int
    answer_tokens: int
    tokens_per_user_s: float
    """As fast as an answer has to come, at least."""
    max_num_seqs: int
    """What an engine computes together at most."""

    @property
    def mean_context(self) -> float:
        """Tokens of a sequence, on average over its answer."""
        return self.prompt_tokens + self.answer_tokens / 2


@dataclass(frozen=True, slots=True)
class ReplicaLoad:
    """One replica under its share of the demand. Means."""

    batch: float
    """Answers under way."""
    token_s: float
    """From token to token, prompts of others included."""
    ttft_s: float
    prefill_share: float
    """Of the replica's time."""
    requests_per_s: float

    @property
    def peak_batch(self) -> float:
        """Answers under way that are seldom exceeded: their number is about Poisson's, its variance the mean."""
        return self.batch + _PEAK_SIGMAS * math.sqrt(self.batch)


@dataclass(frozen=True, slots=True)
class Plan:
    """The smallest fleet."""

    demand: Demand
    roofline: Roofline
    num_replicas: int
    load: ReplicaLoad

    @property
    def cards_of_one(self) -> int:
        """Cards of a replica."""
        return len(self.roofline.placement.shards)

    @property
    def num_cards(self) -> int:
        """Cards in all."""
        return self.num_replicas * self.cards_of_one

    @property
    def tokens_per_s(self) -> float:
        """Answered tokens of the whole fleet."""
        return self.num_replicas * self.load.requests_per_s * self.demand.answer_tokens

    def cost_per_million(self, price: float) -> float:
        """Return the cost of a million answered tokens under this demand. price: of a card for an hour."""
        return price * self.num_cards / (self.tokens_per_s * 3600) * 1e6


def plan_fleet(model: PlannedModel, device: Device, demand: Demand) -> Plan:
    """Return the smallest fleet that serves the demand. Raises UsageError, with the reason, where none does."""
    roofline = place(model, device)
    alone_s = roofline.decode_step_s(1, demand.mean_context)
    if alone_s > 1 / demand.tokens_per_user_s:
        raise UsageError(
            f"{device.name} gives a single user {1 / alone_s:.1f} tokens/s, below --tokens-per-user-s "
            f"{demand.tokens_per_user_s:g}: no number of them helps"
        )

    def serves(count: int) -> bool:
        return keeps_promises(roofline, demand, replica_load(roofline, demand, demand.users / count))

    counts = range(1, demand.users + 1)
    found = bisect_left(counts, True, key=serves)  # more replicas serve whomever fewer serve
    if found == len(counts):
        raise UsageError(
            f"{device.name}: not even one for each user answers in time: shorten --prompt, or take a faster card"
        )
    return Plan(demand, roofline, counts[found], replica_load(roofline, demand, demand.users / counts[found]))


def place(model: PlannedModel, device: Device) -> Roofline:
    """Put the model on as few cards as hold it. Raises UsageError where eight do not."""
    config = published_config(model)
    try:
        placement = choose_placement(config, [device.as_card] * _MOST_CARDS_OF_ONE)
    except EngineError as error:
        raise UsageError(str(error)) from error
    return Roofline(config, device, placement)


def replica_load(roofline: Roofline, demand: Demand, users: float) -> ReplicaLoad:
    """Return what a replica does for so many users.

    More answers at once take longer, so that each user asks less often. The two sides meet at the batch that exactly
    these users keep full, which halving finds.
    """
    low, high = 0.0, users
    for _ in range(_NUM_HALVINGS):
        batch = (low + high) / 2
        load = _load_at(roofline, demand, batch)
        cycle_s = demand.think_s + load.ttft_s + demand.answer_tokens * load.token_s
        low, high = (batch, high) if load.requests_per_s * cycle_s < users else (low, batch)
    return _load_at(roofline, demand, high)


def _load_at(roofline: Roofline, demand: Demand, batch: float) -> ReplicaLoad:
    """Return what a replica does that always has `batch` answers under way, and computes prompts in between."""
    prefill_s = roofline.prefill_s(demand.prompt_tokens)
    # an answer is never in a batch of less than itself, however seldom there is one
    step_s = roofline.decode_step_s(max(1.0, batch), demand.mean_context)
    requests_per_s = batch / (demand.answer_tokens * step_s + batch * prefill_s)
    share = requests_per_s * prefill_s
    token_s = step_s / (1 - share)
    return ReplicaLoad(batch, token_s, prefill_s / (1 - share) + token_s, share, requests_per_s)


def keeps_promises(roofline: Roofline, demand: Demand, load: ReplicaLoad) -> bool:
    """Whether answers come fast enough, begin in time, and fit into the engine's batch and into memory."""
    kv_bytes = load.peak_batch * roofline.kv_bytes(demand.prompt_tokens + demand.answer_tokens)
    return (
        load.token_s <= 1 / demand.tokens_per_user_s
        and load.ttft_s <= MOST_MEAN_TTFT_S
        and load.peak_batch <= demand.max_num_seqs
        and kv_bytes <= roofline.kv_room_bytes
    )
