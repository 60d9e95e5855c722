"""What /metrics and /stats tell of Triton's replicas, of a fleet's or of the only one.

Owns: the names of the replicas' metrics; that what the replicas say of their engines is told together.
Does not know: the choice among replicas.
"""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Final

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from gptoss_adapter.fleet import Fleet
from gptoss_adapter.inference import ModelServer
from gptoss_adapter.stats_triton import TritonFigures, merged

_LABELS: Final = ("replica",)


class FleetCollector(Collector):
    """Looks at the replicas when the page is read: one that is gone is on it no more."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    def collect(self) -> Iterator[Metric]:
        """Yield a series of each kind for each replica."""
        requests = CounterMetricFamily(
            "gptoss_replica_requests", "Generations submitted to a replica of Triton.", labels=_LABELS
        )
        in_flight = GaugeMetricFamily(
            "gptoss_replica_in_flight", "Generations running or waiting at a replica of Triton.", labels=_LABELS
        )
        ready = _ready_family()
        for replica in self._fleet.replicas:
            requests.add_metric((replica.address,), replica.num_requests)
            in_flight.add_metric((replica.address,), replica.num_in_flight)
            ready.add_metric((replica.address,), float(replica.status.ready))
        yield from (requests, in_flight, ready)


class OnlyReplica(Collector):
    """Tells of a Triton that is no fleet's what the alerts ask: nobody watches it, so it is asked for each page."""

    def __init__(self, address: str, server: ModelServer) -> None:
        self._address = address
        self._server = server
        self._is_ready = False

    async def ask(self) -> None:
        """Ask it whether it is ready."""
        self._is_ready = (await self._server.status()).ready

    def collect(self) -> Iterator[Metric]:
        """Yield what it said last."""
        ready = _ready_family()
        ready.add_metric((self._address,), float(self._is_ready))
        yield ready


def _ready_family() -> GaugeMetricFamily:
    return GaugeMetricFamily("gptoss_replica_ready", "Whether a replica of Triton serves all models.", labels=_LABELS)


class FleetPage:
    """The metrics pages of all replicas as one. Of one event loop."""

    def __init__(self, fleet: Fleet) -> None:
        self._fleet = fleet

    async def figures(self) -> TritonFigures | str:
        """Return what the pages say together; where none can be had, why."""
        replicas = self._fleet.replicas
        answers = await asyncio.gather(*(one.page.figures() for one in replicas))
        told = {
            one.address: answer for one, answer in zip(replicas, answers, strict=True) if not isinstance(answer, str)
        }
        if told:
            return merged(told)
        return next((answer for answer in answers if isinstance(answer, str)), "There is no replica of Triton.")

    async def close(self) -> None:
        """Do nothing: the pages are the replicas', which the fleet closes."""
