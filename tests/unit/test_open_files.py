"""How many files the adapter has open where the engines are full."""

from __future__ import annotations

import pytest

from gptoss_backend.open_files import files_wanted
from gptoss_backend.settings_sources import load_settings

ONE = 2 * (64 + 512)
"""Connections that an engine as shipped makes: answers and as many idle."""


@pytest.mark.parametrize(
    ("settings", "num_connections"),
    [
        ({}, ONE),
        ({"models": ["20b", "120b"]}, ONE + 2 * (32 + 512)),
        ({"server": {"num_replicas": 4}}, 4 * ONE),
        ({"server": {"triton_replicas": ["a:8001", "b:8001"]}}, 2 * ONE),
        ({"engine": {"max_num_seqs": 8, "max_queue": 2}}, 20),
        ({"profile": "latency_first", "engine": {"max_num_seqs": 8, "max_queue": 2}}, 2 * (16 + 2)),
    ],
)
def test_files_when_engines_are_full_then_each_answer_of_each_replica_and_model_counts_and_as_many_idle(
    settings: dict[str, object], num_connections: int
) -> None:
    assert files_wanted(load_settings(settings, environ={})) == num_connections + 64
