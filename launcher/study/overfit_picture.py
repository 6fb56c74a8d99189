"""The gap between training and test accuracy, a row for each technique, as one SVG that stands alone or in a page."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from statistics import fmean

from megabatch.launcher.study.curve import ticks

_WIDTH, _ROW, _TOP, _BOTTOM = 760.0, 34.0, 16.0, 56.0
_LEFT, _RIGHT = 250.0, 690.0
_STYLE = """
.gap-picture { font: 13px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; --ink: #1b1f24; --soft: #5b6470;
  --rule: #d9dee5; --disc: #1f5fbf; --bar: #c9d6ea; }
@media (prefers-color-scheme: dark) {
  .gap-picture { --ink: #e6e9ed; --soft: #9aa4b1; --rule: #333a43; --disc: #82b1ff; --bar: #37475f; }
}
.gap-picture text { fill: var(--ink); } .gap-picture .soft { fill: var(--soft); }
.gap-picture .rule { stroke: var(--rule); stroke-width: 1; }
.gap-picture .bar { stroke: var(--bar); stroke-width: 8; stroke-linecap: round; }
.gap-picture .ring { fill: none; stroke: var(--soft); stroke-width: 2; }
.gap-picture .disc { fill: var(--disc); }
.gap-picture .seed { fill: var(--disc); opacity: .45; } .gap-picture .seed.train { fill: var(--soft); }
"""


def picture(rows: Sequence[tuple[str, Sequence[float], Sequence[float]]]) -> str:
    """Return the picture of (label, training accuracies, test accuracies), as shares from 0 to 1."""
    values = [100 * value for _, train, test in rows for value in (*train, *test)]
    low, high = max(0.0, min(values) - 3), min(100.0, max(values) + 1)
    height = _TOP + _ROW * len(rows) + _BOTTOM

    def x_of(value: float) -> float:
        return _LEFT + (_RIGHT - _LEFT) * (value - low) / (high - low)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" class="gap-picture" viewBox="0 0 {_WIDTH:g} {height:g}" role="img" '
        f'aria-label="Training and test accuracy of each technique"><style>{_STYLE}</style>'
    ]
    floor = _TOP + _ROW * len(rows)
    for tick in ticks(low, high):
        parts.append(f'<path class="rule" d="M{x_of(tick):.1f} {_TOP}V{floor:g}"/>')
        parts.append(
            f'<text class="soft" x="{x_of(tick):.1f}" y="{floor + 20:g}" text-anchor="middle">{tick:g} %</text>'
        )
    for number, (label, train, test) in enumerate(rows):
        y = _TOP + _ROW * (number + 0.5)
        of_train, of_test = (x_of(100 * fmean(found)) for found in (train, test))
        parts += [
            f'<text x="{_LEFT - 14}" y="{y + 4.5:g}" text-anchor="end">{escape(label)}</text>',
            f'<path class="bar" d="M{of_test:.1f} {y:g}H{of_train:.1f}"/>',
            *(f'<circle class="seed train" cx="{x_of(100 * v):.1f}" cy="{y:g}" r="2.5"/>' for v in train),
            *(f'<circle class="seed" cx="{x_of(100 * v):.1f}" cy="{y:g}" r="2.5"/>' for v in test),
            f'<circle class="ring" cx="{of_train:.1f}" cy="{y:g}" r="6"/>',
            f'<circle class="disc" cx="{of_test:.1f}" cy="{y:g}" r="6.5"/>',
            f'<text x="{_WIDTH - 4:g}" y="{y + 4.5:g}" text-anchor="end">{100 * fmean(test):.1f}</text>',
        ]
    parts.append(
        f'<text class="soft" x="{(_LEFT + _RIGHT) / 2:g}" y="{floor + 44:g}" text-anchor="middle">'
        "accuracy: disc on the test split (its number at the right), ring on the training samples</text></svg>"
    )
    return "\n".join(parts)
