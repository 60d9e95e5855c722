"""One tritonserver of several, and a request on it.

Stage: 4 schedule … 6.
Owns: how a replica does and how much it has to do; the second attempt of a request that a replica has lost.
Does not know: which other replicas there are, how one is chosen.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Final

from gptoss_adapter.errors import ServiceUnavailableError
from gptoss_adapter.inference import GenerationStep, GenerationStream, ModelServerStatus
from gptoss_adapter.stats_triton import TritonFigures, TritonPage
from gptoss_adapter.triton_client import TritonModelServer
from gptoss_backend.contract import PREPROCESS, Continued, Started
from gptoss_backend.heartbeat import Heartbeats
from gptoss_backend.model_names import ModelName

logger = logging.getLogger(__name__)

CHANNEL_OPTIONS: Final = (
    # it is TCP's, too: a host that is gone with its network is given up after so long without an acknowledgement
    ("grpc.keepalive_timeout_ms", 5_000),
)
STALLED_AFTER_S: Final = 15.0
"""Of one step. Far below `server.step_timeout_s`, from which on an engine counts as hung: a long prefill on a CPU may
take as long, and whoever is sent elsewhere meanwhile is answered sooner."""


class Replica:
    """One tritonserver of the fleet."""

    def __init__(self, address: str, models: Sequence[ModelName], metrics_offset: int) -> None:
        """metrics_offset: from its gRPC port, which `address` names, to that of its metrics."""
        host, _, port = address.rpartition(":")
        self.address = address
        self.server = TritonModelServer(address, models, CHANNEL_OPTIONS)
        self.page = TritonPage(f"http://{host}:{int(port) + metrics_offset}/metrics")
        self.status = ModelServerStatus(live=False, version=None, missing_models=())
        self.stuck: tuple[str, ...] = ()
        """What of it lives but did not get on when it was last asked, in sentences."""
        self._heartbeats = Heartbeats()
        self.num_in_flight = 0
        self.num_requests = 0

    def serves(self, model: ModelName) -> bool:
        """Whether it has said so when it was last asked."""
        return self.status.live and model.triton not in self.status.missing_models

    @property
    def renders(self) -> bool:
        """Whether it would render a prompt."""
        return self.status.live and PREPROCESS not in self.status.missing_models

    async def probe(self) -> None:
        """Ask it how it does."""
        status, figures = await asyncio.gather(self.server.status(), self.page.figures())
        if status.ready != self.status.ready:
            logger.info("the replica %s is %s", self.address, "ready" if status.ready else "not ready")
        stuck = self._stuck_parts(figures)
        if bool(stuck) != bool(self.stuck):
            logger.warning("the replica %s: %s", self.address, "; ".join(stuck) or "all of it gets on again")
        self.status, self.stuck = status, stuck

    def mark_lost(self) -> None:
        """Pass it over until it answers a probe."""
        self.status = replace(self.status, live=False)

    async def close(self) -> None:
        """Close the connections."""
        await self.server.close()
        await self.page.close()

    def _stuck_parts(self, figures: TritonFigures | str) -> tuple[str, ...]:
        """Return what does not get on; nothing where the page cannot be had: that alone says nothing."""
        pages = {} if isinstance(figures, str) else figures.pages
        return tuple(part for parts in self._heartbeats.stuck_parts(pages, STALLED_AFTER_S).values() for part in parts)


class FleetStream:
    """One request, on a replica. One that is lost before its first token is submitted once more, to another."""

    def __init__(
        self, pick: Callable[[Replica | None], Replica], submit: Callable[[Replica], GenerationStream]
    ) -> None:
        """pick: given the replica that has lost the request, if one has; raises ServiceUnavailableError."""
        self._pick = pick
        self._submit = submit
        self._may_move = True
        self._has_started = False
        self._replica: Replica | None = None
        self._stream = self._submit_to(pick(None))

    def __aiter__(self) -> FleetStream:
        """Return itself."""
        return self

    async def __anext__(self) -> GenerationStep:
        """Wait for the next response. Raises StopAsyncIteration after the last, ApiError."""
        try:
            step = await self._next_step()
        except BaseException:
            self._let_go()
            raise
        if step.token_ids:
            self._may_move = False
        if isinstance(step.event, Started):
            if self._has_started:  # the reader has been told
                return replace(step, event=Continued(step.event.logprobs, prompt_logprobs=step.event.prompt_logprobs))
            self._has_started = True
        return step

    def cancel(self) -> None:
        """Tell the replica to stop."""
        self._let_go()
        self._stream.cancel()

    async def _next_step(self) -> GenerationStep:
        try:
            return await anext(self._stream)
        except ServiceUnavailableError:
            lost = self._replica
            if lost is None or not self._may_move:
                raise
            lost.mark_lost()
            self._let_go()
            self._may_move = False
            with contextlib.suppress(ServiceUnavailableError):
                self._stream = self._submit_to(self._pick(lost))
            if self._replica is None:
                raise
        logger.warning(
            "the replica %s lost a request before its first token: %s has it now", lost.address, self._replica.address
        )
        return await anext(self._stream)

    def _submit_to(self, replica: Replica) -> GenerationStream:
        self._replica = replica
        replica.num_in_flight += 1
        replica.num_requests += 1
        return self._submit(replica)

    def _let_go(self) -> None:
        """Count the request as no longer under way. Again: nothing."""
        if self._replica is not None:
            self._replica.num_in_flight -= 1
            self._replica = None
