"""Small SVG scatter plots that a page holds inline: its style sheet colours them, in the light and in the dark.

    scatter([Point(62.0, 0.724, "fp16", "street-lite", "accuracy-2")], "ms", "mIoU", "CamVid val")

Points of one series are joined by a line. Each point links to the row that it is of.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

WIDTH, HEIGHT = 380, 270
LEFT, RIGHT, TOP, BOTTOM = 44, 14, 26, 40  # around the axes
COLOURS = 4  # classes s0, s1, … of the style sheet; the marker's form differs as well
NEAR = 26, 12  # pixels, across and down, within which labels would lie on each other
STEPS = (1, 2, 5)  # of ticks, times a power of ten


@dataclass(frozen=True)
class Point:
    x: float
    y: float
    label: str
    series: str
    anchor: str  # of the row


@dataclass(frozen=True)
class Axis:
    low: float
    high: float
    start: float  # in pixels
    end: float
    ticks: tuple[float, ...]
    logarithmic: bool = False

    def place(self, value: float) -> float:
        low, high = self.low, self.high
        if self.logarithmic:
            low, high, value = math.log(low), math.log(high), math.log(value)
        return self.start + (value - low) / (high - low) * (self.end - self.start)


def scatter(points: Sequence[Point], x_label: str, y_label: str, title: str, published: bool = False) -> str:
    """An <svg> element: x logarithmic, y from about the lowest value to about the highest."""
    x = _log_axis([point.x for point in points])
    y = _linear_axis([point.y for point in points])
    series = list(dict.fromkeys(point.series for point in points))
    described = "; ".join(f"{p.series} {p.label}: {p.x:.4g} {x_label}, {y_label} {p.y:.3f}" for p in points)
    parts = [
        f'<svg class="plot{" published" if published else ""}" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'aria-label="{escape(f"{title}. {described}", quote=True)}">',
        *_grid(x, y),
        f'<text class="axis" x="{(x.start + x.end) / 2:.0f}" y="{HEIGHT - 4}" text-anchor="middle">'
        f"{escape(x_label)}</text>",
        f'<text class="axis" x="4" y="11">{escape(y_label)}</text>',
    ]
    for index, name in enumerate(series):
        parts += _series([point for point in points if point.series == name], index, x, y)
    return "\n".join([*parts, "</svg>"])


def _grid(x: Axis, y: Axis) -> list[str]:
    lines = []
    for value in x.ticks:
        at = x.place(value)
        lines.append(f'<path class="grid" d="M{at:.1f} {TOP}V{HEIGHT - BOTTOM}"/>')
        lines.append(f'<text x="{at:.1f}" y="{HEIGHT - BOTTOM + 15}" text-anchor="middle">{value:g}</text>')
    for value in y.ticks:
        at = y.place(value)
        lines.append(f'<path class="grid" d="M{LEFT} {at:.1f}H{WIDTH - RIGHT}"/>')
        lines.append(f'<text x="{LEFT - 6}" y="{at + 4:.1f}" text-anchor="end">{value:g}</text>')
    return lines


def _series(points: Sequence[Point], index: int, x: Axis, y: Axis) -> list[str]:
    """The line, then the marks with their labels: above, or below for every other series, which often lie close, and
    the other way where the label before is too near.
    """
    points = sorted(points, key=lambda point: point.x)
    places = [(x.place(point.x), y.place(point.y)) for point in points]
    line = "L".join(f"{a:.1f} {b:.1f}" for a, b in places)
    parts = [f'<g class="s{index % COLOURS}">']
    if len(points) > 1:
        parts.append(f'<path class="line" d="M{line}"/>')
    usual = above = index % 2 == 0
    for position, (point, (a, b)) in enumerate(zip(points, places, strict=True)):
        told = escape(f"{point.series} {point.label}: {point.x:.4g} ms, {point.y:.4f}")
        before = places[position - 1] if position else (-WIDTH, -HEIGHT)
        near = abs(a - before[0]) < NEAR[0] and abs(b - before[1]) < NEAR[1]
        above = not above if near else usual
        shift = -8 if above else 17
        parts.append(
            f'<a href="#{point.anchor}">{_mark(a, b, index)}'
            f'<text x="{a:.1f}" y="{b + shift:.1f}" text-anchor="middle">{escape(point.label)}</text>'
            f"<title>{told}</title></a>"
        )
    return [*parts, "</g>"]


def _mark(a: float, b: float, index: int) -> str:
    form = index % COLOURS
    if form == 0:
        return f'<circle class="mark" cx="{a:.1f}" cy="{b:.1f}" r="4.5"/>'
    if form == 1:
        return f'<rect class="mark" x="{a - 4:.1f}" y="{b - 4:.1f}" width="8" height="8"/>'
    if form == 2:
        return f'<path class="mark" d="M{a:.1f} {b - 5.5:.1f}l5 9h-10z"/>'
    return f'<path class="mark" d="M{a:.1f} {b - 5.5:.1f}l5.5 5.5l-5.5 5.5l-5.5 -5.5z"/>'


def _log_axis(values: Sequence[float]) -> Axis:
    low, high = min(values) / 1.25, max(values) * 1.25
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    ticks = tuple(step * 10.0**power for power in powers for step in STEPS if low <= step * 10.0**power <= high)
    return Axis(low, high, LEFT, WIDTH - RIGHT, ticks, logarithmic=True)


def _linear_axis(values: Sequence[float]) -> Axis:
    spread = max(max(values) - min(values), 0.01)
    low, high = min(values) - 0.15 * spread, max(values) + 0.15 * spread
    rough = (high - low) / 5
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(step * power for step in (*STEPS, 10) if step * power >= rough)
    first = math.ceil(low / step)
    ticks = tuple(round(n * step, 10) for n in range(first, math.floor(high / step) + 1))
    return Axis(low, high, HEIGHT - BOTTOM, TOP, ticks)
