"""Pictures of dashboards: what is asked of Prometheus, what of its answer is drawn."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import httpx
import pytest
from load.dashboard_drawing import Line, draw_dashboard, threshold_colour, told
from load.dashboard_pictures import Recording, legend, picture

from support.dashboards import DASHBOARDS, dashboard

SVG = "{http://www.w3.org/2000/svg}"
START_S = 1_000.0


class FakePrometheus:
    """Answers every query with the same series, and keeps the queries."""

    def __init__(self, *series: dict[str, Any]) -> None:
        self.queries: list[httpx.QueryParams] = []
        self._series = series

    def __call__(self, request: httpx.Request) -> httpx.Response:
        assert request.url.path == "/api/v1/query_range"
        self.queries.append(request.url.params)
        return httpx.Response(200, json={"status": "success", "data": {"resultType": "matrix", "result": self._series}})

    def recording(self) -> Recording:
        client = httpx.Client(transport=httpx.MockTransport(self), base_url="http://prometheus")
        return Recording(client, START_S, START_S + 60)


def series(*values: str, **labels: str) -> dict[str, Any]:
    return {"metric": labels, "values": [[START_S + 5 * step, value] for step, value in enumerate(values)]}


def board(**more: Any) -> dict[str, Any]:  # noqa: ANN401
    """A dashboard of one panel."""
    defaults = {"unit": "s", "custom": {}} | more
    panel = {"type": "timeseries", "title": "Time", "gridPos": {"x": 0, "y": 0, "w": 12, "h": 8}}
    return {"title": "Board", "panels": [panel | {"fieldConfig": {"defaults": defaults}}]}


def lines_drawn(svg: str) -> list[list[tuple[float, float]]]:
    found = ElementTree.fromstring(svg).iter(f"{SVG}polyline")
    return [[(float(x), float(y)) for x, y in (p.split(",") for p in one.attrib["points"].split())] for one in found]


def words(svg: str) -> list[str]:
    return [text.text or "" for text in ElementTree.fromstring(svg).iter(f"{SVG}text")]


@pytest.mark.parametrize("path", DASHBOARDS, ids=lambda path: path.stem)
def test_picture_when_prometheus_answers_then_every_panel_is_drawn_where_the_dashboard_has_it(path: Path) -> None:
    prometheus = FakePrometheus(series("1", "2", "3"))
    svg = picture(path, prometheus.recording())
    panels = dashboard(path)["panels"]

    assert {panel["title"] for panel in panels} <= set(words(svg))
    assert "no data" not in words(svg)
    assert len(prometheus.queries) == sum(len(panel["targets"]) for panel in panels)
    places = [group.attrib["transform"] for group in ElementTree.fromstring(svg).iter(f"{SVG}g")]
    assert len(set(places)) == len(panels)


def test_queries_when_asked_then_they_are_of_the_time_wanted_and_hold_no_variable_of_grafana() -> None:
    prometheus = FakePrometheus()
    for path in DASHBOARDS:
        picture(path, prometheus.recording())

    assert {(query["start"], query["end"]) for query in prometheus.queries} == {("1000.0", "1060.0")}
    assert [query["query"] for query in prometheus.queries if "$" in query["query"]] == []


def test_query_when_prometheus_refuses_it_then_that_is_an_error_and_no_empty_panel() -> None:
    client = httpx.Client(transport=httpx.MockTransport(lambda _: httpx.Response(400)), base_url="http://prometheus")

    with pytest.raises(httpx.HTTPStatusError):
        picture(DASHBOARDS[0], Recording(client, 0.0, 60.0))


def test_legend_when_a_series_lacks_a_label_then_its_place_is_empty() -> None:
    assert legend("running: {{engine}} {{instance}}", {"engine": "e"}) == "running: e"


def test_panel_when_a_value_is_not_a_number_then_the_line_breaks_there() -> None:
    values = [1.0, 1.0, 1.0, *[math.nan] * 4, 1.0, 1.0]
    line = Line("p95", [(5.0 * step, value) for step, value in enumerate(values)])
    svg = draw_dashboard(board(), [[line]], 60.0)

    assert [len(part) for part in lines_drawn(svg)] == [3, 2]


def test_panel_when_there_is_no_number_then_it_says_so() -> None:
    assert "no data" in words(draw_dashboard(board(), [[Line("p95", [(0.0, math.nan)])]], 60.0))


def test_panel_when_stacked_then_a_line_lies_on_top_of_the_one_before() -> None:
    custom = {"stacking": {"mode": "normal"}}
    both = [Line("a", [(0.0, 1.0), (60.0, 1.0)]), Line("b", [(0.0, 2.0), (60.0, 2.0)])]
    lower, upper = lines_drawn(draw_dashboard(board(custom=custom), [both], 60.0))
    alone, beside = lines_drawn(draw_dashboard(board(max=3.0), [both], 60.0))

    assert upper[0][1] < beside[0][1]
    assert lower == alone


def test_panel_when_its_limit_is_in_sight_then_it_is_drawn_and_else_not() -> None:
    steps = [{"color": "green", "value": None}, {"color": "red", "value": 7}]
    limited = board(custom={"thresholdsStyle": {"mode": "line"}}, thresholds={"steps": steps})

    def drawn(highest: float) -> bool:
        return "stroke-dasharray" in draw_dashboard(limited, [[Line("p95", [(0.0, 1.0), (60.0, highest)])]], 60.0)

    assert drawn(8.0)
    assert not drawn(2.0)


def test_legend_when_there_are_more_series_than_room_then_the_rest_is_counted() -> None:
    many = [Line(f"a rather long name of series {number}", [(0.0, 1.0)]) for number in range(9)]
    said = words(draw_dashboard(board(), [many], 60.0))

    named = sum(word.startswith("a rather long") for word in said)
    assert 0 < named < 9
    assert f"+{9 - named} more" in said


def test_stat_when_its_value_reaches_a_threshold_then_it_has_its_colour() -> None:
    (panel,) = (p for p in dashboard(DASHBOARDS[2])["panels"] if p["title"] == "First token, p95")
    steps = panel["fieldConfig"]["defaults"]["thresholds"]["steps"]

    assert threshold_colour(steps, 6.99) != threshold_colour(steps, 7)
    one = {"title": "Board", "panels": [panel]}
    svg = draw_dashboard(one, [[Line("", [(0.0, 1.0), (5.0, 7.5)])]], 60.0)
    assert "7.5 s" in words(svg)
    assert f'fill="{threshold_colour(steps, 7.5)}"' in svg
    assert panel["fieldConfig"]["defaults"]["noValue"] in words(draw_dashboard(one, [[]], 60.0))


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.0, "s", "0 s"),
        (0.0042, "s", "4.2 ms"),
        (250.0, "µs", "250 µs"),
        (0.28, "percentunit", "28%"),
        (15e9, "decbytes", "15 GB"),
        (2.5, "reqps", "2.5/s"),
        (1200.0, "short", "1.2k"),
    ],
)
def test_value_when_told_then_it_has_its_unit(value: float, unit: str, text: str) -> None:
    assert told(value, unit) == text


def test_units_when_the_dashboards_use_one_then_it_can_be_told() -> None:
    used = {panel["fieldConfig"]["defaults"]["unit"] for path in DASHBOARDS for panel in dashboard(path)["panels"]}

    assert used <= {"s", "µs", "percentunit", "decbytes", "watt", "joule", "reqps", "ops", "short", "none"}
