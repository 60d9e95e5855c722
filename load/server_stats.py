"""What a server tells of itself at GET /stats, as far as a run needs it.

Stage: beside a request's way.
Owns: which of its figures are taken, and what they say over a run.
Does not know: how the page is fetched.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from gptoss_adapter.stats_targets import WEIGHTS_PER_GPU


@dataclass(frozen=True, slots=True)
class ServerStats:
    """A server's counters at one moment. Each is None where the server does not tell it."""

    prompt_cache_hits: float | None = None
    """Prompts answered from Triton's response cache, since the server's start."""
    prompt_cache_misses: float | None = None
    weights_per_gpu: float | None = None
    """Bytes; None also where there is no GPU."""

    @classmethod
    def of(cls, document: Mapping[str, Any]) -> ServerStats:
        """Read the document of GET /stats. One of another server says nothing."""
        cache = document.get("prompt_cache") or {}
        targets = {target.get("target"): target.get("value") for target in document.get("targets") or ()}
        return cls(cache.get("hits"), cache.get("misses"), targets.get(WEIGHTS_PER_GPU.name))

    def hit_share_since(self, earlier: ServerStats) -> float | None:
        """Return the share of hits among the look-ups since `earlier`; None where there were none or it is not told."""
        if self.prompt_cache_hits is None or self.prompt_cache_misses is None:
            return None
        hits = self.prompt_cache_hits - (earlier.prompt_cache_hits or 0.0)
        lookups = hits + self.prompt_cache_misses - (earlier.prompt_cache_misses or 0.0)
        return hits / lookups if lookups > 0 else None
