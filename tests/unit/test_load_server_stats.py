"""What the load test takes from GET /stats."""

from __future__ import annotations

from typing import Any

from load.server_stats import ServerStats


def document(hits: float, misses: float, weights: float | None = None) -> dict[str, Any]:
    return {
        "prompt_cache": {"hits": hits, "misses": misses, "hit_rate": None},
        "targets": [{"target": "ttft_p95", "value": 1.0}, {"target": "weights_per_gpu", "value": weights}],
    }


def test_stats_when_read_twice_then_only_the_look_ups_between_count() -> None:
    before, after = ServerStats.of(document(90, 10)), ServerStats.of(document(93, 17))

    assert after.hit_share_since(before) == 0.3
    assert after.hit_share_since(ServerStats()) == 93 / 110


def test_stats_when_nothing_was_looked_up_between_then_there_is_no_share() -> None:
    assert ServerStats.of(document(5, 5)).hit_share_since(ServerStats.of(document(5, 5))) is None


def test_stats_when_there_is_a_gpu_then_its_weights_are_told() -> None:
    assert ServerStats.of(document(0, 0, 13.8e9)).weights_per_gpu == 13.8e9
    assert ServerStats.of(document(0, 0)).weights_per_gpu is None


def test_stats_when_the_cache_is_off_or_the_server_another_then_nothing_is_known() -> None:
    assert ServerStats.of({"prompt_cache": None, "targets": []}) == ServerStats()
    assert ServerStats.of({"detail": "Not Found"}).hit_share_since(ServerStats()) is None
