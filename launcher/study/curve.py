"""One curve over a logarithmic axis, as SVG for a page and as characters for a terminal."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

Points = Sequence[tuple[float, float]]

_WIDTH, _HEIGHT = 760.0, 360.0
_LEFT, _RIGHT, _TOP, _BOTTOM = 66.0, 740.0, 34.0, 300.0
_ROWS = 12


@dataclass(frozen=True)
class Curve:
    """Points with x above 0, in order of x; `faint` lies behind them; `marks` are labelled places on the x axis."""

    points: Points
    x_name: str
    y_name: str
    marks: Sequence[tuple[float, str]] = ()
    faint: Points = ()
    dots: bool = False
    from_zero: bool = False

    def x_span(self) -> tuple[float, float]:
        """Return log10 of the smallest and the largest x."""
        first, last = math.log10(self.points[0][0]), math.log10(self.points[-1][0])
        return (first, last) if last > first else (first - 0.5, first + 0.5)

    def y_span(self) -> tuple[float, float]:
        """Return the lowest and highest y to show; what shoots up beyond twice the span of the start is cut off."""
        values = [y for _, y in self.points]
        low, high = min(values), max(values)
        if not self.from_zero:
            high = min(high, values[0] + max(values[0] - low, 0.1 * abs(values[0])))
        low = 0.0 if self.from_zero else low
        margin = 0.05 * (high - low) or 1.0
        return (low if self.from_zero else low - margin), high + margin


def svg(curve: Curve, title: str) -> str:
    """Return the picture; its colours come from the page's style."""
    x_low, x_high = curve.x_span()
    y_low, y_high = curve.y_span()

    def place(point: tuple[float, float]) -> str:
        return f"{x_of(point[0]):.1f},{y_of(point[1]):.1f}"

    def x_of(x: float) -> float:
        return _LEFT + (_RIGHT - _LEFT) * (math.log10(x) - x_low) / (x_high - x_low)

    def y_of(y: float) -> float:
        part = (min(max(y, y_low), y_high) - y_low) / (y_high - y_low)
        return _BOTTOM - (_BOTTOM - _TOP) * part

    parts = [f'<svg viewBox="0 0 {_WIDTH:g} {_HEIGHT:g}" role="img" aria-label="{escape(title)}">']
    for y in ticks(y_low, y_high):
        parts.append(f'<path class="grid" d="M{_LEFT} {y_of(y):.1f}H{_RIGHT}"/>')
        parts.append(f'<text x="{_LEFT - 8}" y="{y_of(y) + 5:.1f}" text-anchor="end">{_number(y)}</text>')
    for x in _x_ticks(curve):
        parts.append(f'<text x="{x_of(x):.1f}" y="{_BOTTOM + 24}" text-anchor="middle">{x:g}</text>')
    if curve.faint:
        parts.append(f'<polyline class="raw" points="{" ".join(map(place, curve.faint))}"/>')
    parts.append(f'<polyline class="line" points="{" ".join(map(place, curve.points))}"/>')
    if curve.dots:
        parts += [f'<circle class="dot" cx="{x_of(x):.1f}" cy="{y_of(y):.1f}" r="4.5"/>' for x, y in curve.points]
    for number, (x, label) in enumerate(curve.marks):
        parts.append(f'<path class="mark" d="M{x_of(x):.1f} {_TOP}V{_BOTTOM}"/>')
        anchor = "end" if x_of(x) > (_LEFT + _RIGHT) / 2 else "start"
        shift = -6 if anchor == "end" else 6
        y = _TOP + 14 + 24 * number
        parts.append(
            f'<text class="label" x="{x_of(x) + shift:.1f}" y="{y}" text-anchor="{anchor}">{escape(label)}</text>'
        )
    parts.append(f'<text x="{_LEFT}" y="20">{escape(curve.y_name)}</text>')
    parts.append(
        f'<text x="{(_LEFT + _RIGHT) / 2}" y="{_BOTTOM + 52}" text-anchor="middle">{escape(curve.x_name)}</text>'
    )
    return "\n".join([*parts, "</svg>"])


def text(curve: Curve, width: int = 64) -> str:
    """Return the curve as rows of characters; marks stand below the axis."""
    x_low, x_high = curve.x_span()
    y_low, y_high = curve.y_span()
    rows = [[" "] * width for _ in range(_ROWS)]

    def column(x: float) -> int:
        return min(width - 1, max(0, round((math.log10(x) - x_low) / (x_high - x_low) * (width - 1))))

    for x, y in curve.points:
        part = (min(max(y, y_low), y_high) - y_low) / (y_high - y_low)
        rows[_ROWS - 1 - round(part * (_ROWS - 1))][column(x)] = "•"
    labels = {0: _number(y_high), _ROWS - 1: _number(y_low)}
    lines = [f"{labels.get(number, ''):>10} |{''.join(row)}".rstrip() for number, row in enumerate(rows)]
    pointers = [" "] * width
    for x, _ in curve.marks:
        pointers[column(x)] = "^"
    ends = f"{curve.points[0][0]:.3g}"
    lines += (
        [f"{'':10} +{'-' * width}", f"{'':12}{''.join(pointers)}".rstrip()]
        if curve.marks
        else [f"{'':10} +{'-' * width}"]
    )
    lines.append(f"{'':12}{ends}{curve.points[-1][0]:>{width - len(ends)}.3g}")
    return "\n".join([f"{curve.y_name} over {curve.x_name}", *lines])


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"


def ticks(low: float, high: float) -> list[float]:
    """Return four to nine round numbers between the two.

    >>> ticks(0.1, 2.3)
    [0.5, 1.0, 1.5, 2.0]
    """
    rough = (high - low) / 5
    unit = 10.0 ** math.floor(math.log10(rough))
    step = unit * next(factor for factor in (1, 2, 5, 10) if unit * factor >= rough)
    first = math.ceil(low / step)
    return [round(number * step, 12) for number in range(first, math.floor(high / step) + 1)]


def _x_ticks(curve: Curve) -> list[float]:
    """Return the powers of ten in the span; for few whole numbers (sizes) the points themselves."""
    low, high = curve.x_span()
    if curve.dots:
        return [x for x, _ in curve.points if math.log2(x).is_integer()]
    return [10.0**power for power in range(math.ceil(low - 1e-9), math.floor(high + 1e-9) + 1)]
