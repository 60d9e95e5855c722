"""What Triton's metrics page says of the engine, the prompt cache and the GPUs.

Owns: the fetching and reading of the page, the names that /stats needs of it.
Does not know: what it is shown as. A page that cannot be had is an answer, too: it says why.
"""

from __future__ import annotations

import asyncio
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

import httpx
from prometheus_client.parser import text_string_to_metric_families

from gptoss_backend.contract import PREPROCESS

TIMEOUT_S: Final = 1.0
_FRESH_S: Final = 0.5
"""Several pollers share one fetch."""
_CACHE_HITS: Final = "nv_cache_num_hits_per_model"
_CACHE_MISSES: Final = "nv_cache_num_misses_per_model"
_ENGINE: Final = "gptoss_engine_"
_INFO: Final = "gptoss_engine_info"
_MAX_MODEL_LEN: Final = "max_model_len"
_WANTED: Final = (_ENGINE, "nv_gpu_", _CACHE_HITS, _CACHE_MISSES)

Series = dict[str, float]
"""Values by metric name, of things that share their labels."""


@dataclass(frozen=True, slots=True)
class EngineInstance:
    """The metrics of one engine, without their prefix."""

    model: str
    """As Triton names it."""
    instance: str
    values: Series
    info: dict[str, str]
    """What its model is and where, and why, as the backend's ModelInfo names it; empty where it does not tell."""


@dataclass(frozen=True, slots=True)
class TritonFigures:
    """The page, read."""

    engines: tuple[EngineInstance, ...]
    gpus: dict[str, Series]
    """By the GPU's uuid, without the prefix `nv_gpu_`."""
    cache_hits: float | None
    """Prompts that Triton's response cache answered since its start; None: it has no such cache."""
    cache_misses: float | None
    pages: Mapping[str, str] = field(default_factory=dict)
    """The page itself, by the replica's address where there are several."""

    def max_model_len(self, model: str) -> int | None:
        """Return what every engine of the model takes, prompt plus answer; None where none tells. model: Triton's."""
        told = [one.values.get(_MAX_MODEL_LEN) for one in self.engines if one.model == model]
        return min((int(length) for length in told if length), default=None)


class TritonPage:
    """Triton's metrics page, fetched when asked for. Of one event loop."""

    def __init__(self, url: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._url = url
        self._clock = clock
        # a proxy for the web is not for Triton
        self._client = httpx.AsyncClient(timeout=TIMEOUT_S, trust_env=False)
        self._lock = asyncio.Lock()
        self._last: TritonFigures | str = ""
        self._fetched_s = float("-inf")

    async def figures(self) -> TritonFigures | str:
        """Return what the page says, half a second old at most, or a sentence on why it cannot be had."""
        async with self._lock:
            # a replica may leave, its page closed, while somebody waits to ask it
            if self._clock() - self._fetched_s > _FRESH_S and not self._client.is_closed:
                self._last = await self._fetch()
                self._fetched_s = self._clock()
        return self._last

    async def close(self) -> None:
        """Close the connection."""
        await self._client.aclose()

    async def _fetch(self) -> TritonFigures | str:
        try:
            async with asyncio.timeout(TIMEOUT_S):  # httpx's own is for each read
                response = await self._client.get(self._url)
            response.raise_for_status()
            return read_page(response.text)
        except TimeoutError:
            return f"Triton's metrics page {self._url} did not answer within {TIMEOUT_S:g} s."
        except httpx.HTTPStatusError as error:
            return f"Triton's metrics page {self._url} answered {error.response.status_code}."
        except (httpx.HTTPError, httpx.InvalidURL):  # the second is none of the first
            return f"Triton's metrics page {self._url} cannot be reached."
        except ValueError:
            return f"Triton's metrics page {self._url} is not in Prometheus' text format."


def read_page(page: str) -> TritonFigures:
    """Read what /stats needs. Raises ValueError where the page is not in Prometheus' text format."""
    engines: defaultdict[tuple[str, str], Series] = defaultdict(dict)
    gpus: defaultdict[str, Series] = defaultdict(dict)
    about: defaultdict[tuple[str, str], dict[str, str]] = defaultdict(dict)
    cache: Series = {}
    for name, labels, value in _samples(page):
        if name == _INFO:
            about[labels.get("model", ""), labels.get("instance", "")] = labels
        elif name.startswith(_ENGINE):
            engines[labels.get("model", ""), labels.get("instance", "")][name.removeprefix(_ENGINE)] = value
        elif name.startswith("nv_gpu_"):
            gpus[labels.get("gpu_uuid", "")][name.removeprefix("nv_gpu_")] = value
        elif labels.get("model") == PREPROCESS:
            cache[name] = cache.get(name, 0.0) + value  # over its versions
    return TritonFigures(
        engines=tuple(
            EngineInstance(model, instance, values, _without_names(about[model, instance]))
            for (model, instance), values in engines.items()
        ),
        gpus=dict(gpus),
        cache_hits=cache.get(_CACHE_HITS),
        cache_misses=cache.get(_CACHE_MISSES),
        pages={"": page},
    )


def merged(replicas: Mapping[str, TritonFigures]) -> TritonFigures:
    """Return the figures of several replicas, by their addresses, as one server's."""
    every = list(replicas.values())
    return TritonFigures(
        engines=tuple(
            replace(engine, instance=f"{address}/{engine.instance}")
            for address, figures in replicas.items()
            for engine in figures.engines
        ),
        gpus={uuid: values for figures in every for uuid, values in figures.gpus.items()},
        cache_hits=_total(figures.cache_hits for figures in every),
        cache_misses=_total(figures.cache_misses for figures in every),
        pages={address: page for address, figures in replicas.items() for page in figures.pages.values()},
    )


def _total(counts: Iterable[float | None]) -> float | None:
    told = [count for count in counts if count is not None]
    return sum(told) if told else None


def _without_names(labels: dict[str, str]) -> dict[str, str]:
    return {name: value for name, value in labels.items() if name not in ("model", "instance")}


def _samples(page: str) -> Iterable[tuple[str, dict[str, str], float]]:
    # most of the page is Triton's own and buckets, and the parser is slow: 1 ms for 100 lines
    lines = (line for line in page.splitlines() if line.startswith(_WANTED) and "_bucket{" not in line)
    for family in text_string_to_metric_families("\n".join(lines) + "\n"):
        for sample in family.samples:
            yield sample.name, sample.labels, sample.value
