"""Draws the learning rate of a plan over its steps: as text for a terminal, or as a picture (SVG)."""

from __future__ import annotations

from collections.abc import Sequence

Points = Sequence[tuple[int, float]]  # (step, learning rate)

_EIGHTHS = " ▁▂▃▄▅▆▇█"
_LEFT, _RIGHT, _TOP, _BOTTOM = 80.0, 700.0, 40.0, 300.0  # the area of the picture that the line is in


def text_plot(points: Points, width: int = 60, height: int = 10) -> str:
    """Return rows of block characters, as high as the learning rate, with the steps below and the rate to the left.

    >>> print(text_plot([(0, 0.0), (1, 0.5), (2, 1.0)], width=3, height=2))
               1 |  █
                 | ██
                 +---
                  0 to 2 steps
    """
    peak = max(rate for _, rate in points) or 1.0
    columns = [points[number * len(points) // width][1] / peak for number in range(width)]
    rows = []
    for row in range(height, 0, -1):
        cells = (_EIGHTHS[min(8, max(0, round((value * height - row + 1) * 8)))] for value in columns)
        label = f"{peak:.4g}" if row == height else ""
        rows.append(f"{label:>12} |{''.join(cells)}".rstrip())
    return "\n".join([*rows, f"{'':12} +{'-' * width}", f"{'':14}{points[0][0]:,} to {points[-1][0]:,} steps"])


def svg_plot(points: Points, title: str) -> str:
    """Return a picture of the learning rate over the steps."""
    from html import escape

    last = max(points[-1][0], 1)
    peak = max(rate for _, rate in points) or 1.0
    places = [
        f"{_LEFT + (_RIGHT - _LEFT) * step / last:.1f},{_BOTTOM - (_BOTTOM - _TOP) * rate / peak:.1f}"
        for step, rate in points
    ]
    grid = []
    for quarter in range(5):
        y = _BOTTOM - (_BOTTOM - _TOP) * quarter / 4
        x = _LEFT + (_RIGHT - _LEFT) * quarter / 4
        grid.append(f'<path d="M{_LEFT} {y:.1f}H{_RIGHT}" stroke="#8884"/>')
        grid.append(f'<text x="{_LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{peak * quarter / 4:.4g}</text>')
        grid.append(f'<text x="{x:.1f}" y="{_BOTTOM + 20}" text-anchor="middle">{round(last * quarter / 4):,}</text>')
    return "\n".join(
        [
            '<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 720 350" font-family="sans-serif" font-size="12">',
            '<rect width="720" height="350" fill="#fff"/><g fill="#333">',
            f'<text x="{_LEFT}" y="24" font-size="15" font-weight="bold">{escape(title)}</text>',
            *grid,
            f'<text x="{(_LEFT + _RIGHT) / 2}" y="{_BOTTOM + 40}" text-anchor="middle">optimizer steps</text></g>',
            f'<polyline points="{" ".join(places)}" fill="none" stroke="#0072b2" stroke-width="2.5"/>',
            "</svg>\n",
        ]
    )
