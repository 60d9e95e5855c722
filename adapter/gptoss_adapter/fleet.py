"""Several tritonservers as one model server.

Stage: 3 prompt (any replica, in turn) and 4 schedule … 6 (the replica that holds the conversation).
Owns: which replicas there are, the choice among them, the channel over all of them.
Does not know: HTTP, tensors, what a conversation is (fleet_affinity.py), how names are looked up (fleet_addresses.py).

Rendering a prompt leaves nothing behind, so it goes through one channel with gRPC's own `round_robin`. That cannot send
a conversation to where its prefix is cached: a generation goes through the channel of the replica chosen for it.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

from gptoss_adapter.errors import ServiceUnavailableError
from gptoss_adapter.fleet_addresses import ReplicaNames, grpc_target
from gptoss_adapter.fleet_affinity import choose, conversation_of
from gptoss_adapter.fleet_replica import CHANNEL_OPTIONS, FleetStream, Replica
from gptoss_adapter.inference import GenerationStream, ModelServerStatus, PromptIds, ReplicaStatus
from gptoss_adapter.triton_client import PREPROCESS_TIMEOUT_S, TritonModelServer
from gptoss_backend.contract import PREPROCESS, ChatRequest, ModelName, SamplingParams

logger = logging.getLogger(__name__)

LOOK_UP_PERIOD_S: Final = 2.0
PROBE_PERIOD_S: Final = 1.0
_ROUND_ROBIN: Final = json.dumps(
    {
        "loadBalancingConfig": [{"round_robin": {}}],
        "methodConfig": [
            {
                "name": [{"service": "inference.GRPCInferenceService", "method": "ModelInfer"}],
                # a prompt is a function of its chat: rendered a second time it is the same
                "retryPolicy": {
                    "maxAttempts": 2,
                    "initialBackoff": "0.01s",
                    "maxBackoff": "0.1s",
                    "backoffMultiplier": 2,
                    "retryableStatusCodes": ["UNAVAILABLE"],
                },
            }
        ],
    }
)


class Fleet:
    """A model server. `open` makes one; it keeps itself up to date until it is closed."""

    def __init__(self, names: ReplicaNames, models: Sequence[ModelName]) -> None:
        self._names = names
        self._models = models
        self._replicas: dict[str, Replica] = {}
        self._leaving: list[Replica] = []  # gone from the names; their requests run on
        self._any: TritonModelServer | None = None  # the channel over all that can render a prompt
        self._any_target = ""
        self._connecting = asyncio.Lock()
        self._watches: list[asyncio.Task[None]] = []
        self._retiring: set[asyncio.Task[None]] = set()

    @classmethod
    async def open(cls, names: ReplicaNames, models: Sequence[ModelName]) -> Fleet:
        """Return the fleet that the names stand for, asked once how it does, and watched."""
        fleet = cls(names, models)
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

    def addresses(self) -> list[str]:
        """Return the gRPC addresses of `replicas`."""
        return list(self._replicas)

    async def preprocess(self, chat: ChatRequest, request_id: str) -> PromptIds:
        """Return the chat's prompt, rendered by any replica. Raises ApiError."""
        if self._any is None:
            raise _no_replica()
        return await self._any.preprocess(chat, request_id)

    def generate(self, model: ModelName, prompt: PromptIds, sampling: SamplingParams, request_id: str) -> FleetStream:
        """Submit the prompt to the replica that fits best and return its stream. Raises ServiceUnavailableError."""

        def submit(replica: Replica) -> GenerationStream:
            return replica.server.generate(model, prompt, sampling, request_id)

        conversation = conversation_of(prompt)

        def pick(lost: Replica | None) -> Replica:
            return self._pick(model, conversation, lost)

        return FleetStream(pick, submit)

    async def status(self) -> ModelServerStatus:
        """Ask every replica. The fleet has what one of its replicas has. Never raises."""
        await self._probe()
        replicas = self.replicas
        live = [one.status for one in replicas if one.status.live]
        wanted = (PREPROCESS, *(model.triton for model in self._models))
        return ModelServerStatus(
            live=bool(live),
            version=live[0].version if live else None,
            missing_models=tuple(name for name in wanted if all(name in status.missing_models for status in live)),
            replicas=tuple(
                ReplicaStatus(one.address, one.status.live, one.status.missing_models, one.num_in_flight)
                for one in replicas
            ),
        )

    async def close(self) -> None:
        """Stop watching and close every connection."""
        for task in [*self._watches, *self._retiring]:
            task.cancel()
        await asyncio.gather(*self._watches, *self._retiring, return_exceptions=True)
        for server in (self._any, *(one.server for one in (*self.replicas, *self._leaving))):
            if server is not None:
                await server.close()

    def _pick(self, model: ModelName, conversation: bytes, lost: Replica | None) -> Replica:
        """Return the replica for a request of `conversation`; never the one that has lost it."""
        others = [one for one in self.replicas if one is not lost]
        # where none is known to serve the model, one that does not answers with the reason
        able = [one for one in others if one.serves(model)] or others
        if not able:
            raise _no_replica()
        return self._replicas[choose(conversation, {one.address: one.num_in_flight for one in able})]

    async def _probe(self) -> None:
        # a replica that leaves meanwhile has its calls cancelled: no reason to stop watching the others
        outcomes = await asyncio.gather(*(replica.probe() for replica in self.replicas), return_exceptions=True)
        for failure in outcomes:
            if isinstance(failure, Exception):
                logger.error("cannot ask a replica how it does", exc_info=failure)
        able = [one.address for one in self.replicas if one.renders]
        await self._spread_over(able or self.addresses())

    async def _look_up(self) -> None:
        addresses, known = await self._names.look_up(), self._replicas
        if set(addresses) != set(known):
            logger.info("the replicas are %s", ", ".join(addresses) or "none")
            self._leaving += [replica for address, replica in known.items() if address not in addresses]
            self._replicas = {address: known.get(address) or Replica(address, self._models) for address in addresses}
        for replica in [one for one in self._leaving if not one.num_in_flight]:
            self._leaving.remove(replica)
            await replica.server.close()

    async def _spread_over(self, addresses: Sequence[str]) -> None:
        """Have prompts rendered at these addresses in turn."""
        target = grpc_target(addresses) if addresses else ""
        async with self._connecting:
            if target == self._any_target:
                return
            server = None
            if target:
                options = (*CHANNEL_OPTIONS, ("grpc.service_config", _ROUND_ROBIN))
                server = TritonModelServer(target, self._models, options)
                await server.status()  # connects: a first burst would all go to whoever is connected first
            if self._any is not None:
                self._retire(self._any)
            self._any, self._any_target = server, target

    def _retire(self, server: TritonModelServer) -> None:
        """Close a channel that is used no more, when all that is under way on it has ended."""

        async def close_later() -> None:
            try:
                await asyncio.sleep(PREPROCESS_TIMEOUT_S)
            finally:
                await server.close()

        task = asyncio.create_task(close_later(), name="retire-channel")
        self._retiring.add(task)
        task.add_done_callback(self._retiring.discard)


async def _every(period_s: float, action: Callable[[], Awaitable[None]]) -> None:
    while True:
        await asyncio.sleep(period_s)
        try:
            await action()
        except Exception:
            # what was known stands; a watch that ends would leave the fleet as it is for good
            logger.exception("cannot bring the fleet up to date")


def _no_replica() -> ServiceUnavailableError:
    return ServiceUnavailableError("No model server is available. They may be starting; try again.")
