"""A dashboard as one SVG: Grafana's grid, its panels, what each query gave.

Stage: after the last answer.
Owns: where panels lie and how values, lines and legends look.
Does not know: where the values come from.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from typing import Any, Final

from load.report.axes import Axis, linear_axis, number, time_axis

_COLUMN: Final = 50
_ROW: Final = 26
_GAP: Final = 8
_HEAD: Final = 54
_COLOURS: Final = ("#2f6fde", "#d2690e", "#8b3fc4", "#17804a", "#c62a33", "#8a93a3", "#0e8a94", "#b8860b")
_THRESHOLDS: Final = {"green": "#17804a", "red": "#c62a33"}
# on the right there is room for half of the last time, which is centred under its tick
_LEFT, _RIGHT, _TOP, _BOTTOM = 66, 28, 36, 66
_LEGEND_CHARACTER: Final = 6.4
_LEGEND_ROW: Final = 16
_LEGEND_ROWS: Final = 2
_MORE_ROOM: Final = 80
_STYLE: Final = (
    "text{font-family:'DejaVu Sans','Liberation Sans',sans-serif;fill:#16191f}"
    ".tick{font-size:11px;fill:#5b6472}.title{font-size:13px;font-weight:600}.name{font-size:20px;font-weight:600}"
    ".value{font-size:28px;font-weight:600;fill:#fff;text-anchor:middle}.value-axis{text-anchor:end}"
    ".grid{stroke:#e6e9ef}.line{fill:none;stroke-width:1.7;stroke-linejoin:round}"
)
_ON_COLOUR: Final = ' style="fill:#fff"'
_PREFIXES: Final = ((1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k"))
_SUFFIXES: Final = {"decbytes": "B", "watt": " W", "joule": " J", "reqps": "/s", "ops": "/s"}

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Line:
    """What one series of a panel's query was: its points, as (seconds since the start, value)."""

    name: str
    points: Sequence[Point]

    @property
    def finite(self) -> list[Point]:
        """The points that are numbers: a quotient without traffic is NaN."""
        return [point for point in self.points if math.isfinite(point[1])]


def draw_dashboard(dashboard: dict[str, Any], lines: Sequence[Sequence[Line]], duration_s: float) -> str:
    """Return the picture as SVG. lines: for each panel, in order, its series."""
    panels = dashboard["panels"]
    bottom = max(panel["gridPos"]["y"] + panel["gridPos"]["h"] for panel in panels)
    width, height = 24 * _COLUMN + _GAP, _HEAD + bottom * _ROW + _GAP
    drawn = [_panel(panel, given, duration_s) for panel, given in zip(panels, lines, strict=True)]
    return "\n".join(
        (
            f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}">',
            f'<style>{_STYLE}</style>\n<rect width="{width}" height="{height}" fill="#f1f3f6"/>',
            f'<text class="name" x="{_GAP + 4}" y="34">{escape(dashboard["title"])}</text>',
            *drawn,
            "</svg>\n",
        )
    )


def told(value: float, unit: str) -> str:
    """Return a value as Grafana would say it in one of the units that the dashboards use."""
    if unit == "percentunit":
        return f"{_short(value * 100)}%"
    if unit in ("s", "µs"):
        return _duration(value if unit == "s" else value / 1e6)
    factor, prefix = next(((f, p) for f, p in _PREFIXES if abs(value) >= f), (1.0, ""))
    space = " " if unit == "decbytes" else ""
    return f"{_short(value / factor)}{space}{prefix}{_SUFFIXES.get(unit, '')}"


def threshold_colour(steps: Sequence[dict[str, Any]], value: float) -> str:
    """Return the colour of the last step that `value` has reached; the first step has no number."""
    reached = [step for step in steps if step["value"] is None or value >= step["value"]]
    return _THRESHOLDS[reached[-1]["color"]]


def _short(value: float) -> str:
    return number(value) if abs(value) >= 10 else f"{value:.3g}"


def _duration(value_s: float) -> str:
    if value_s >= 1 or value_s == 0:
        return f"{_short(value_s)} s"
    return f"{_short(value_s * 1e3)} ms" if value_s >= 1e-3 else f"{_short(value_s * 1e6)} µs"


def _panel(panel: dict[str, Any], lines: Sequence[Line], duration_s: float) -> str:
    grid = panel["gridPos"]
    width, height = grid["w"] * _COLUMN - _GAP, grid["h"] * _ROW - _GAP
    inside = _stat if panel["type"] == "stat" else _time_series
    return (
        f'<g transform="translate({_GAP + grid["x"] * _COLUMN} {_HEAD + grid["y"] * _ROW})">'
        f'<rect width="{width}" height="{height}" rx="5" fill="#fff" stroke="#dfe3ea"/>'
        f"{''.join(inside(panel, lines, width, height, duration_s))}"
        f'<text class="title" x="12" y="22"{_ON_COLOUR if panel["type"] == "stat" else ""}>'
        f"{escape(panel['title'])}</text></g>"
    )


def _stat(panel: dict[str, Any], lines: Sequence[Line], width: int, height: int, _duration_s: float) -> list[str]:
    defaults = panel["fieldConfig"]["defaults"]
    last = next((line.finite[-1][1] for line in lines if line.finite), None)
    fill = "#8a93a3" if last is None else threshold_colour(defaults["thresholds"]["steps"], last)
    text = defaults.get("noValue", "no data") if last is None else told(last, defaults["unit"])
    return [
        f'<rect width="{width}" height="{height}" rx="5" fill="{fill}"/>',
        f'<text x="{width / 2}" y="{height / 2 + 20}" class="value">{escape(text)}</text>',
    ]


def _time_series(panel: dict[str, Any], lines: Sequence[Line], width: int, height: int, duration_s: float) -> list[str]:
    defaults = panel["fieldConfig"]["defaults"]
    shown = [Line(line.name, line.finite) for line in lines if line.finite]
    if not shown:
        return [f'<text class="tick" x="{width / 2}" y="{height / 2}" text-anchor="middle">no data</text>']
    is_stacked = defaults["custom"].get("stacking", {}).get("mode") == "normal"
    levels = _stacked(shown) if is_stacked else [[(at, 0.0, value) for at, value in line.points] for line in shown]
    x = time_axis(duration_s)
    y = _value_axis(defaults, max(top for level in levels for _, _, top in level))
    plot = _Plot(x, y, width, height)
    areas = [plot.level(level, _COLOURS[i % len(_COLOURS)], is_stacked) for i, level in enumerate(levels)]
    return [*plot.grid(), *areas, *plot.limits(defaults), *_legend(shown, width, height)]


def _value_axis(defaults: dict[str, Any], highest: float) -> Axis:
    unit = defaults["unit"]
    return linear_axis("", defaults.get("max", highest), lambda value: told(value, unit))


def _stacked(lines: Sequence[Line]) -> list[list[tuple[float, float, float]]]:
    """Return for each line its (time, from, to), on top of the lines before it."""
    bases: dict[float, float] = {}
    levels = []
    for line in lines:
        level = [(at, bases.get(at, 0.0), bases.get(at, 0.0) + value) for at, value in line.points]
        bases.update({at: top for at, _, top in level})
        levels.append(level)
    return levels


@dataclass(frozen=True, slots=True)
class _Plot:
    """The inside of a panel."""

    x: Axis
    y: Axis
    width: int
    height: int

    def grid(self) -> list[str]:
        right = self.width - _RIGHT
        parts = []
        for tick in self.y.ticks:
            at = self._down(tick)
            parts.append(f'<line class="grid" x1="{_LEFT}" y1="{at:.1f}" x2="{right}" y2="{at:.1f}"/>')
            parts.append(
                f'<text class="tick value-axis" x="{_LEFT - 7}" y="{at + 4:.1f}">{escape(self.y.tell(tick))}</text>'
            )
        low = self.height - _BOTTOM + 16
        for tick in self.x.ticks:
            words = escape(self.x.tell(tick))
            at = self._right(tick)
            parts.append(f'<text class="tick" x="{at:.1f}" y="{low}" text-anchor="middle">{words}</text>')
        return parts

    def level(self, level: Sequence[tuple[float, float, float]], colour: str, is_filled: bool) -> str:
        parts = []
        for piece in _unbroken(level):
            top = " ".join(f"{self._right(at):.1f},{self._down(high):.1f}" for at, _, high in piece)
            if is_filled:
                back = " ".join(f"{self._right(at):.1f},{self._down(low):.1f}" for at, low, _ in reversed(piece))
                parts.append(f'<polygon points="{top} {back}" fill="{colour}" fill-opacity="0.2"/>')
            parts.append(f'<polyline class="line" points="{top}" stroke="{colour}"/>')
        return "".join(parts)

    def limits(self, defaults: dict[str, Any]) -> list[str]:
        """Draw the thresholds that lie in sight."""
        if defaults["custom"].get("thresholdsStyle", {}).get("mode") != "line":
            return []
        levels = [step["value"] for step in defaults["thresholds"]["steps"] if step["value"] is not None]
        return [
            f'<line x1="{_LEFT}" y1="{self._down(level):.1f}" x2="{self.width - _RIGHT}" y2="{self._down(level):.1f}" '
            f'stroke="{_THRESHOLDS["red"]}" stroke-dasharray="5 4"/>'
            for level in levels
            if level <= self.y.high
        ]

    def _right(self, at: float) -> float:
        return _LEFT + self.x.share(at) * (self.width - _LEFT - _RIGHT)

    def _down(self, value: float) -> float:
        return _TOP + (1.0 - self.y.share(value)) * (self.height - _TOP - _BOTTOM)


def _unbroken(level: Sequence[tuple[float, float, float]]) -> list[list[tuple[float, float, float]]]:
    """Cut where points are missing, as Grafana does: three times the usual distance is a gap."""
    usual = min((later[0] - earlier[0] for earlier, later in pairwise(level)), default=0.0)
    pieces = [[level[0]]]
    for earlier, later in pairwise(level):
        if later[0] - earlier[0] > 3 * usual:
            pieces.append([])
        pieces[-1].append(later)
    return pieces


def _legend(lines: Sequence[Line], width: int, height: int) -> list[str]:
    """Name the series in rows under the plot; those there is no room for are counted."""
    parts, left, row = [], 14.0, 0
    for position, line in enumerate(lines):
        room = 34 + len(line.name) * _LEGEND_CHARACTER
        is_last_row = row == _LEGEND_ROWS - 1
        if left + room > width - (_MORE_ROOM if is_last_row else 0) and left > 14.0:
            if is_last_row:
                parts.append(_key(f"+{len(lines) - position} more", "none", left, row, height))
                break
            left, row = 14.0, row + 1
        parts.append(_key(line.name, _COLOURS[position % len(_COLOURS)], left, row, height))
        left += room
    return parts


def _key(name: str, colour: str, left: float, row: int, height: int) -> str:
    y = height - 10 - (_LEGEND_ROWS - 1 - row) * _LEGEND_ROW
    return (
        f'<rect x="{left:.0f}" y="{y - 5}" width="12" height="3" fill="{colour}"/>'
        f'<text class="tick" x="{left + 17:.0f}" y="{y}">{escape(name)}</text>'
    )
