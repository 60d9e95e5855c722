"""How often Triton answered a prompt from its response cache.

Stage: beside 3 prompt.
Owns: the names of Triton's cache counters, and the little of the Prometheus text format that they need.
Does not know: how the page is fetched.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

from gptoss_backend.contract import PREPROCESS

HITS: Final = "nv_cache_num_hits_per_model"
MISSES: Final = "nv_cache_num_misses_per_model"
_SAMPLE: Final = re.compile(r'^(?P<name>\w+)\{[^}]*\bmodel="(?P<model>[^"]*)"[^}]*\}\s+(?P<value>\S+)', re.MULTILINE)


@dataclass(frozen=True, slots=True)
class CacheCounts:
    """Look-ups of `preprocess` in the response cache since the server started."""

    hits: float = 0.0
    misses: float = 0.0

    def hit_share_since(self, earlier: CacheCounts) -> float | None:
        """Return the share of hits among the look-ups since `earlier`; None where there were none."""
        hits = self.hits - earlier.hits
        lookups = hits + self.misses - earlier.misses
        return hits / lookups if lookups > 0 else None


def parse_cache_counts(page: str, model: str = PREPROCESS) -> CacheCounts | None:
    """Read the counters of `model` from a metrics page, summed over its versions; None where the page has none."""
    totals = {HITS: 0.0, MISSES: 0.0}
    found = False
    for sample in _SAMPLE.finditer(page):
        if sample["name"] in totals and sample["model"] == model:
            totals[sample["name"]] += float(sample["value"])
            found = True
    return CacheCounts(totals[HITS], totals[MISSES]) if found else None
