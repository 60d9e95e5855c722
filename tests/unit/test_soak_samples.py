"""What a soak calls flat."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from load.soak_samples import MIB, Sample, held, render, trends

NUM_SAMPLES = 40


def samples(name: str, value_at: Callable[[int], float]) -> list[Sample]:
    """Return looks ten seconds apart at one figure."""
    return [Sample(10.0 * number, {name: value_at(number)}) for number in range(NUM_SAMPLES)]


@pytest.mark.parametrize(
    ("name", "value_at", "flat"),
    [
        pytest.param("RSS adapter", lambda n: 150 * MIB + min(n, 15) * MIB, True, id="it settles in the first half"),
        pytest.param("RSS adapter", lambda n: 150 * MIB + n * MIB, False, id="it grows all the time"),
        pytest.param("RSS stub", lambda n: 900 * MIB + n * MIB // 2, True, id="by less than a fiftieth of it"),
        pytest.param("fds adapter", lambda n: 30 + n % 3, True, id="files come and go"),
        pytest.param("fds adapter", lambda n: 30 + n, False, id="files stay open"),
        pytest.param("kv_cache_blocks_used", lambda n: 30 + 5 * n, True, id="more is under way at the end"),
    ],
)
def test_trend_when_a_figure_was_watched_then_growth_in_the_second_half_counts(
    name: str, value_at: Callable[[int], float], flat: bool
) -> None:
    [trend] = trends(samples(name, value_at))

    assert trend.is_flat is flat
    assert ("NOT FLAT" in render([trend])) is not flat


def test_held_when_a_block_is_left_then_it_is_told() -> None:
    left = {"num_requests_running": 0.0, "num_requests_waiting": 0.0, "kv_cache_blocks_used": 1.0}

    assert held(Sample(0.0, {"RSS adapter": 5.0} | left)) == left
