"""Counts and quantiles over sliding windows, against exact ones."""

from __future__ import annotations

import math
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gptoss_adapter.stats_windows import NO_SPREAD, RELATIVE_ERROR, WIDEST, WINDOWS, SlidingCounts, SlidingQuantiles

MINUTE = WINDOWS[0]


@given(
    values=st.lists(st.floats(1e-5, 1e4), min_size=1, max_size=200),
    share=st.sampled_from([0.001, 0.5, 0.95, 0.99, 1.0]),
)
def test_quantile_when_compared_with_the_exact_one_then_within_the_error(values: list[float], share: float) -> None:
    sliding = SlidingQuantiles(0.0)
    for value in values:
        sliding.add(value, 0.5)
    exact = sorted(values)[max(1, math.ceil(share * len(values))) - 1]
    assert sliding.over(MINUTE, 0.6).quantile(share) == pytest.approx(exact, rel=RELATIVE_ERROR * (1 + 1e-9))


@given(events=st.lists(st.tuples(st.floats(0, 900), st.integers(1, 5)), max_size=60), start=st.floats(0, 1e6))
def test_counts_when_time_passes_then_each_window_holds_what_lies_in_it(
    events: list[tuple[float, int]], start: float
) -> None:
    """`gap` seconds before each event; what is within a slot of the window's edge may be in or out."""
    counts, now, past = SlidingCounts(1, start), start, []
    for gap, count in events:
        now += gap
        counts.add(0, count, now)
        past.append((now, count))
        for window in WINDOWS:
            told = counts.over(window, now)[0]
            surely = sum(count for at, count in past if at > now - window.span_s + window.slot_s)
            at_most = sum(count for at, count in past if at > now - window.span_s)
            assert surely <= told <= at_most


@given(elapsed=st.floats(0.001, 10_000), start=st.floats(0, 1e6))
def test_rate_when_events_come_evenly_then_it_is_theirs(elapsed: float, start: float) -> None:
    counts = SlidingCounts(1, start)
    for window in WINDOWS:
        covered = counts.covered_s(window, start + elapsed)
        assert min(elapsed, window.span_s - window.slot_s) - 1e-6 <= covered <= min(elapsed, window.span_s) + 1e-6


def test_rate_when_ten_come_each_second_then_ten() -> None:
    counts = SlidingCounts(1, 0.0)
    for tick in range(40_000):
        counts.add(0, 1, tick / 10)
    for window in WINDOWS:
        assert counts.over(window, 4000)[0] / counts.covered_s(window, 4000) == pytest.approx(10, rel=0.005)


def test_quantiles_when_values_repeat_then_each_counts() -> None:
    sliding = SlidingQuantiles(0.0)
    sliding.add(0.010, 0.0, times=99)
    sliding.add(5.0, 0.0)
    spread = sliding.over(MINUTE, 1.0)
    assert spread.count == 100
    assert spread.quantile(0.99) == pytest.approx(0.010, rel=0.01)
    assert spread.quantile(1.0) == pytest.approx(5.0, rel=0.01)


def test_spreads_when_added_then_the_sum_holds_both() -> None:
    sliding = SlidingQuantiles(0.0)
    sliding.add(1.0, 0.0)
    one = sliding.over(WIDEST, 0.0)
    assert (one + one).count == 2
    assert (NO_SPREAD + one).quantile(0.5) == one.quantile(0.5)


def test_quantile_when_nothing_was_seen_then_none() -> None:
    sliding = SlidingQuantiles(0.0)
    assert sliding.over(MINUTE, 0.0).quantile(0.5) is None
    sliding.add(1.0, 0.0)
    assert sliding.over(MINUTE, 61.0).quantile(0.5) is None, "it has left the window"
    assert sliding.over(WIDEST, 61.0).count == 1


@pytest.mark.parametrize("value", [0.0, -1.0, 1e-9])
def test_quantile_when_a_value_is_too_small_then_the_smallest_stands_for_it(value: float) -> None:
    sliding = SlidingQuantiles(0.0)
    sliding.add(value, 0.0)
    sliding.add(1e9, 0.0)
    spread = sliding.over(MINUTE, 0.0)
    assert spread.quantile(0.5) == pytest.approx(1e-5, rel=0.02)
    assert spread.quantile(1.0) == pytest.approx(1e4, rel=0.03)


def test_add_when_called_for_every_token_then_takes_no_time_to_speak_of() -> None:
    def seconds() -> float:
        sliding = SlidingQuantiles(0.0)
        begun = time.thread_time()
        for index in range(20_000):
            sliding.add(0.01 + index * 1e-6, index * 1e-3)
        return (time.thread_time() - begun) / 20_000

    # 0.5 us on an idle machine; ten times that tells a loop over slots or buckets from a noisy neighbour
    assert min(seconds() for _ in range(3)) < 5e-6
