"""Triton's cache counters out of its metrics page."""

from __future__ import annotations

import pytest
from load.triton_metrics import CacheCounts, parse_cache_counts

# as tritonserver 2.51 prints them
PAGE = """\
# HELP nv_cache_num_hits_per_model Number of cache hits per model
# TYPE nv_cache_num_hits_per_model counter
nv_cache_num_hits_per_model{model="preprocess",version="1"} 30
# TYPE nv_cache_num_misses_per_model counter
nv_cache_num_misses_per_model{model="preprocess",version="1"} 10
nv_cache_num_misses_per_model{model="preprocess",version="2"} 1.000000
nv_cache_num_misses_per_model{model="other",version="1"} 999
nv_cache_hit_duration_per_model{model="preprocess",version="1"} 77
nv_energy_consumption{gpu_uuid="GPU-0"} 5
"""


def test_cache_counts_when_the_page_has_several_versions_then_they_are_added() -> None:
    assert parse_cache_counts(PAGE) == CacheCounts(hits=30, misses=11)


def test_cache_counts_when_the_model_is_not_on_the_page_then_there_are_none() -> None:
    assert parse_cache_counts("") is None
    assert parse_cache_counts(PAGE, "absent") is None


def test_hit_share_when_the_server_ran_before_then_only_the_run_counts() -> None:
    assert CacheCounts(130, 70).hit_share_since(CacheCounts(100, 0)) == pytest.approx(0.3)


def test_hit_share_when_nothing_was_looked_up_then_there_is_none() -> None:
    assert CacheCounts(5, 5).hit_share_since(CacheCounts(5, 5)) is None
