"""Axes and the marks along them."""

from __future__ import annotations

import re

import pytest
from load.report.axes import linear_axis, log_axis, number, time_axis
from load.report.summary import seconds
from load.report.svg import Limit, Series, dot_chart, histogram, line_chart, stacked_bars

X = linear_axis("x", 10.0, number)
Y = linear_axis("y", 100.0, number)


def heights(svg: str, mark: str) -> list[float]:
    return [float(value) for value in re.findall(rf'<{mark} class="bar[^>]* height="([\d.]+)"', svg)]


@pytest.mark.parametrize(
    ("highest", "high"), [(0.0, 1.0), (0.07, 0.08), (1.0, 1.0), (7.3, 8.0), (41.0, 60.0), (999.0, 1000.0)]
)
def test_linear_axis_when_made_then_it_holds_the_highest_and_ends_at_a_round_tick(highest: float, high: float) -> None:
    axis = linear_axis("", highest, number)

    assert axis.high == pytest.approx(high)
    assert axis.ticks[0] == 0.0
    assert axis.ticks[-1] == axis.high


@pytest.mark.parametrize(("lowest", "highest"), [(0.003, 0.09), (0.5, 0.5), (1e-6, 400.0), (0.02, 20.0)])
def test_log_axis_when_made_then_it_holds_both_ends_and_few_ticks(lowest: float, highest: float) -> None:
    axis = log_axis("", lowest, highest, seconds)

    assert axis.low <= lowest <= highest < axis.high
    assert 2 <= len(axis.ticks) <= 12
    assert axis.share(axis.low) == 0.0
    assert axis.share((axis.low * axis.high) ** 0.5) == pytest.approx(0.5)


def test_axis_when_a_value_lies_beyond_then_it_is_drawn_at_the_end() -> None:
    assert (X.share(-1.0), X.share(5.0), X.share(99.0)) == (0.0, 0.5, 1.0)


@pytest.mark.parametrize("duration_s", [1.0, 20.0, 300.0, 7200.0, 90_000.0])
def test_time_axis_when_made_then_its_ticks_fit_and_are_within_the_run(duration_s: float) -> None:
    axis = time_axis(duration_s)

    assert 1 < len(axis.ticks) <= 14
    assert axis.ticks[-1] <= duration_s


def test_line_chart_when_the_limit_is_in_sight_then_it_is_drawn_else_it_is_named() -> None:
    lines = [Series("p95", [(1.0, 50.0), (2.0, 100.0)], "s1")]

    assert 'line class="limit"' in line_chart("t", X, Y, lines, Limit("target", 80.0))
    above = line_chart("t", X, Y, lines, Limit("target", 800.0))
    assert 'line class="limit"' not in above
    assert "target lies above" in above


def test_line_chart_when_drawn_then_higher_values_are_higher_up() -> None:
    svg = line_chart("t", X, Y, [Series("a", [(0.0, 0.0), (10.0, 100.0)], "s1")])
    [points] = re.findall(r'polyline class="line s1" points="([^"]+)"', svg)
    (left, bottom), (right, top) = (tuple(map(float, point.split(","))) for point in points.split())

    assert left < right
    assert top < bottom


def test_dot_chart_when_drawn_then_each_point_says_what_it_is() -> None:
    svg = dot_chart("t", X, Y, [Series("a < b", [(2.5, 30.0)], "good")], Series("line", [(0, 0), (1, 1)], "s1"))

    assert "<title>a &lt; b: 30 at 2.5</title>" in svg
    assert svg.count("<circle") == 1


def test_histogram_when_drawn_then_bars_are_as_high_as_their_counts() -> None:
    tall, short = heights(histogram("t", X, Y, [(0, 1, 100.0), (1, 2, 25.0), (2, 3, 0.0)]), "rect")

    assert tall == pytest.approx(4 * short, rel=0.01)


def test_stacked_bars_when_drawn_then_the_second_layer_stands_on_the_first() -> None:
    svg = stacked_bars("t", X, Y, [Series("a", [(5.0, 40.0)], "s1"), Series("b", [(5.0, 60.0)], "bad")], 1.0)
    (first_y, first), (second_y, second) = (
        tuple(map(float, found)) for found in re.findall(r'<rect[^>]* y="([\d.]+)"[^>]* height="([\d.]+)"', svg)
    )

    assert second_y + second == pytest.approx(first_y, abs=0.2)
    assert second == pytest.approx(1.5 * first, rel=0.01)
