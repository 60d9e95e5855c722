"""Several tritonservers as one model server.

Stage: 3 prompt (the replica that has rendered the chat before) and 4 schedule … 6 (that which holds the conversation).
Owns: which replicas there are, the choice among them.
Does not know: HTTP, tensors, what a conversation is (fleet_affinity.py), how names are looked up (fleet_addresses.py).

Each replica has a response cache of its own, so a chat that comes again is rendered where it was before. gRPC's own
`round_robin` cannot do that: with N replicas it found the k-th repeat of a chat cached k − min(k, N) times.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from gptoss_adapter.errors import ServiceUnavailableError
from gptoss_adapter.fleet_addresses import ReplicaNames
from gptoss_adapter.fleet_affinity import choose, conversation_of, rendering
from gptoss_adapter.fleet_replica import FleetStream, Replica
from gptoss_adapter.inference import GenerationStream, ModelServerStatus, PromptIds, ReplicaStatus
from gptoss_backend.contract import CHAT_CODEC, PREPROCESS, ChatRequest, SamplingParams
from gptoss_backend.model_names import ModelName

logger = logging.getLogger(__name__)

LOOK_UP_PERIOD_S: Final = 2.0
PROBE_PERIOD_S: Final = 1.0
_FRESH_S: Final = PROBE_PERIOD_S
"""What the watch has found since is told of, and nobody asked anew."""


class Fleet:
    """A model server. `open` makes one; it keeps itself up to date until it is closed."""

    def __init__(self, names: ReplicaNames, models: Sequence[ModelName], metrics_offset: int) -> None:
        self._names = names
        self._models = models
        self._metrics_offset = metrics_offset
        self._replicas: dict[str, Replica] = {}
        self._leaving: list[Replica] = []  # gone from the names; their requests run on
        self._watches: list[asyncio.Task[None]] = []
        self._probed_at = float("-inf")

    @classmethod
    async def open(cls, names: ReplicaNames, models: Sequence[ModelName], metrics_offset: int = 1) -> Fleet:
        """Return the fleet that the names stand for, asked once how it does, and watched.

        metrics_offset: from a replica's gRPC port to that of its metrics.
        """
        fleet = cls(names, models, metrics_offset)
        await fleet.refresh()
        fleet._watches = [
            asyncio.create_task(_every(LOOK_UP_PERIOD_S, fleet._look_up), name="look-up-replicas"),
            asyncio.create_task(_every(PROBE_PERIOD_S, fleet._probe), name="probe-replicas"),
        ]
        return fleet

    async def refresh(self) -> None:
        """Find out now which replicas there are and how they do."""
        await self._look_up()
        await self._probe()

    @property
    def replicas(self) -> list[Replica]:
        """Those that the names stand for now."""
        return list(self._replicas.values())

    async def preprocess(self, chat: ChatRequest, request_id: str) -> PromptIds:
        """Return the chat's prompt, rendered where it was before; by another if that one is lost. Raises ApiError."""
        raw = CHAT_CODEC.encode(chat)
        first = self._renderer(raw, None)
        try:
            return await first.server.render(raw, request_id)
        except ServiceUnavailableError:
            first.mark_lost()
            if self.replicas == [first]:
                raise
        # a prompt is a function of its chat: rendered a second time it is the same
        other = self._renderer(raw, first)
        logger.warning("the replica %s lost a prompt: %s renders it now", first.address, other.address)
        return await other.server.render(raw, request_id)

    def generate(self, model: ModelName, prompt: PromptIds, sampling: SamplingParams, request_id: str) -> FleetStream:
        """Submit the prompt to the replica that fits best and return its stream. Raises ServiceUnavailableError."""

        def submit(replica: Replica) -> GenerationStream:
            return replica.server.generate(model, prompt, sampling, request_id)

        conversation = conversation_of(prompt)

        def pick(lost: Replica | None) -> Replica:
            return self._pick(model, conversation, lost)

        return FleetStream(pick, submit)

    async def status(self) -> ModelServerStatus:
        """Tell how the replicas do, or did a second ago. The fleet has what one of its replicas has. Never raises."""
        if time.monotonic() - self._probed_at > _FRESH_S:
            await self._probe()
        replicas = self.replicas
        live = [one.status for one in replicas if one.status.live]
        wanted = (PREPROCESS, *(model.triton for model in self._models))
        return ModelServerStatus(
            live=bool(live),
            version=live[0].version if live else None,
            missing_models=tuple(name for name in wanted if all(name in status.missing_models for status in live)),
            replicas=tuple(
                ReplicaStatus(one.address, one.status.live, one.status.missing_models, one.num_in_flight, one.stuck)
                for one in replicas
            ),
        )

    async def close(self) -> None:
        """Stop watching and close every connection."""
        for task in self._watches:
            task.cancel()
        await asyncio.gather(*self._watches, return_exceptions=True)
        for replica in (*self.replicas, *self._leaving):
            await replica.close()

    def _renderer(self, chat: bytes, lost: Replica | None) -> Replica:
        """Return the replica that is to render a chat; never the one that has lost it."""
        able = _able([one for one in self.replicas if one is not lost], lambda one: one.renders)
        return self._replicas[rendering(chat, [one.address for one in able])]

    def _pick(self, model: ModelName, conversation: bytes, lost: Replica | None) -> Replica:
        """Return the replica for a request of `conversation`; never the one that has lost it."""
        able = _able([one for one in self.replicas if one is not lost], lambda one: one.serves(model))
        return self._replicas[choose(conversation, {one.address: one.num_in_flight for one in able})]

    async def _probe(self) -> None:
        asked_at = time.monotonic()
        # a replica that leaves meanwhile has its calls cancelled: no reason to stop watching the others
        outcomes = await asyncio.gather(*(replica.probe() for replica in self.replicas), return_exceptions=True)
        for failure in outcomes:
            if isinstance(failure, Exception):
                logger.error("cannot ask a replica how it does", exc_info=failure)
        self._probed_at = asked_at

    async def _look_up(self) -> None:
        addresses, known = await self._names.look_up(), self._replicas
        if set(addresses) != set(known):
            logger.info("the replicas are %s", ", ".join(addresses) or "none")
            self._leaving += [replica for address, replica in known.items() if address not in addresses]
            self._replicas = {address: known.get(address) or self._replica(address) for address in addresses}
        for replica in [one for one in self._leaving if not one.num_in_flight and not one.server.is_rendering]:
            self._leaving.remove(replica)
            await replica.close()

    def _replica(self, address: str) -> Replica:
        return Replica(address, self._models, self._metrics_offset)


async def _every(period_s: float, action: Callable[[], Awaitable[None]]) -> None:
    while True:
        await asyncio.sleep(period_s)
        try:
            await action()
        except Exception:
            # what was known stands; a watch that ends would leave the fleet as it is for good
            logger.exception("cannot bring the fleet up to date")


def _able(replicas: Sequence[Replica], can: Callable[[Replica], bool]) -> Sequence[Replica]:
    """Return those that can and get on, else those that can, else all: one that cannot answers with the reason.

    Raises ServiceUnavailableError where there are none.
    """
    if not replicas:
        raise ServiceUnavailableError("No model server is available. They may be starting; try again.")
    able = [one for one in replicas if can(one)] or replicas
    return [one for one in able if not one.stuck] or able
