"""Charts as inline SVG.

Stage: after the last answer.
Owns: how lines, bars and dots are drawn. Colours are the page's classes (style.css), so a chart follows light and dark.
Does not know: what the values mean.

Plain text rather than a plotting library: matplotlib would bring eight packages, and its pictures keep the colours they
were drawn in, light or dark.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Final

from load.report.axes import Axis

_WIDTH: Final = 560
_HEIGHT: Final = 250
_LEFT, _RIGHT, _TOP, _BOTTOM = 58, 26, 12, 44
_INNER_WIDTH: Final = _WIDTH - _LEFT - _RIGHT
_INNER_HEIGHT: Final = _HEIGHT - _TOP - _BOTTOM

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Series:
    """Points of one kind. `colour` is a class of the page: s1, s2 … or good, bad."""

    name: str
    points: Sequence[Point]
    colour: str


@dataclass(frozen=True, slots=True)
class Limit:
    """A level that is promised."""

    name: str
    value: float


def line_chart(title: str, x: Axis, y: Axis, lines: Sequence[Series], limit: Limit | None = None) -> str:
    """Draw lines, each value under the pointer's tooltip. A limit beyond the axis is named in the caption."""
    marks, note = _across(y, limit)
    marks += [_line(x, y, line) for line in lines]
    marks += [_dot(x, y, point, line, radius=7, extra="hover") for line in lines for point in line.points]
    return _figure(title, x, y, marks, lines, note)


def dot_chart(
    title: str, x: Axis, y: Axis, dots: Sequence[Series], line: Series | None = None, limit: Limit | None = None
) -> str:
    """Draw a dot for each point, and a line through them."""
    marks, note = _across(y, limit)
    marks += [_line(x, y, line)] if line is not None else []
    marks += [_dot(x, y, point, series, radius=4) for series in dots for point in series.points]
    return _figure(title, x, y, marks, [*dots, *([line] if line is not None else [])], note)


def histogram(
    title: str, x: Axis, y: Axis, bars: Sequence[tuple[float, float, float]], limit: Limit | None = None
) -> str:
    """Draw bars of (from, to, height)."""
    marks = [
        _bar(x, y, left, right, 0.0, height, "s1", f"{x.tell(left)} to {x.tell(right)}: {y.tell(height)}")
        for left, right, height in bars
        if height
    ]
    note = ""
    if limit and x.low <= limit.value <= x.high:
        marks.append(_limit_upright(x, limit))
    elif limit:
        note = f"{limit.name} lies beyond"
    return _figure(title, x, y, marks, [], note)


def stacked_bars(title: str, x: Axis, y: Axis, layers: Sequence[Series], width: float) -> str:
    """Draw the layers' points on each other, all at the same x. width: of a bar, in units of x."""
    marks: list[str] = []
    bases: dict[float, float] = {}
    for layer in layers:
        for at, height in layer.points:
            base = bases.get(at, 0.0)
            bases[at] = base + height
            if height:
                label = f"{x.tell(at)}: {y.tell(height)} {layer.name}"
                marks.append(_bar(x, y, at - width / 2, at + width / 2, base, base + height, layer.colour, label))
    return _figure(title, x, y, marks, layers)


def _figure(title: str, x: Axis, y: Axis, marks: Sequence[str], legend: Sequence[Series], note: str = "") -> str:
    keys = [f'<span class="key {s.colour}">{escape(s.name)}</span>' for s in legend] if len(legend) > 1 else []
    if note:
        keys.append(f'<span class="note">{escape(note)}</span>')
    drawn = "\n".join([*_grid(x, y), *marks])
    return (
        f"<figure>\n<figcaption><strong>{escape(title)}</strong>{''.join(keys)}</figcaption>\n"
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" aria-label="{escape(title)}">\n{drawn}\n</svg>\n</figure>'
    )


def _grid(x: Axis, y: Axis) -> list[str]:
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    parts = []
    for tick in y.ticks:
        at = _y(y, tick)
        parts.append(f'<line class="grid" x1="{_LEFT}" y1="{at:.1f}" x2="{right}" y2="{at:.1f}"/>')
        parts.append(f'<text class="tick end" x="{_LEFT - 7}" y="{at + 4:.1f}">{escape(y.tell(tick))}</text>')
    parts.append(f'<line class="base" x1="{_LEFT}" y1="{bottom}" x2="{right}" y2="{bottom}"/>')
    for tick in x.ticks:
        parts.append(f'<text class="tick mid" x="{_x(x, tick):.1f}" y="{bottom + 16}">{escape(x.tell(tick))}</text>')
    parts.append(f'<text class="axis mid" x="{_LEFT + _INNER_WIDTH / 2}" y="{_HEIGHT - 7}">{escape(x.label)}</text>')
    if y.label:
        middle = _TOP + _INNER_HEIGHT / 2
        parts.append(f'<text class="axis mid" transform="translate(12 {middle}) rotate(-90)">{escape(y.label)}</text>')
    return parts


def _line(x: Axis, y: Axis, line: Series) -> str:
    path = " ".join(f"{_x(x, at):.1f},{_y(y, value):.1f}" for at, value in line.points)
    return f'<polyline class="line {line.colour}" points="{path}"/>'


def _dot(x: Axis, y: Axis, point: Point, series: Series, *, radius: float, extra: str = "") -> str:
    at, value = point
    label = f"{series.name}: {y.tell(value)} at {x.tell(at)}"
    return (
        f'<circle class="dot {series.colour} {extra}" cx="{_x(x, at):.1f}" cy="{_y(y, value):.1f}" r="{radius}">'
        f"<title>{escape(label)}</title></circle>"
    )


def _bar(x: Axis, y: Axis, left: float, right: float, low: float, high: float, colour: str, label: str) -> str:
    at, top = _x(x, left), _y(y, high)
    # a pixel of the page shows between neighbours
    width, height = max(_x(x, right) - at - 1, 0.5), _y(y, low) - top
    return (
        f'<rect class="bar {colour}" x="{at:.1f}" y="{top:.1f}" width="{width:.1f}" height="{height:.1f}">'
        f"<title>{escape(label)}</title></rect>"
    )


def _across(y: Axis, limit: Limit | None) -> tuple[list[str], str]:
    """Return the limit's line, or where it lies beyond the axis, what the caption says of it."""
    if limit is None:
        return [], ""
    return ([_limit_line(y, limit)], "") if limit.value <= y.high else ([], f"{limit.name} lies above")


def _limit_line(y: Axis, limit: Limit) -> str:
    at, right = _y(y, limit.value), _WIDTH - _RIGHT
    return (
        f'<line class="limit" x1="{_LEFT}" y1="{at:.1f}" x2="{right}" y2="{at:.1f}"/>'
        f'<text class="limit end" x="{right - 4}" y="{at + 14:.1f}">{escape(limit.name)}</text>'
    )


def _limit_upright(x: Axis, limit: Limit) -> str:
    at = _x(x, limit.value)
    return (
        f'<line class="limit" x1="{at:.1f}" y1="{_TOP}" x2="{at:.1f}" y2="{_HEIGHT - _BOTTOM}"/>'
        f'<text class="limit end" x="{at - 5:.1f}" y="{_TOP + 12}">{escape(limit.name)}</text>'
    )


def _x(axis: Axis, value: float) -> float:
    return _LEFT + axis.share(value) * _INNER_WIDTH


def _y(axis: Axis, value: float) -> float:
    return _TOP + (1.0 - axis.share(value)) * _INNER_HEIGHT
