"""The frame of the pages that studies write: self-contained, without scripts, in the reader's light or dark colours."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

from megabatch.data.clean.report_style import STYLE

_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_PLOT_STYLE = """
.plot { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: .75rem 1rem; }
.plot svg { display: block; width: 100%; height: auto; overflow: visible; }
svg text { fill: var(--quiet); font: 13px system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; }
svg .line { fill: none; stroke: var(--accent); stroke-width: 2.5; stroke-linejoin: round; }
svg .raw { fill: none; stroke: var(--accent); stroke-width: 1; opacity: .4; }
svg .grid { stroke: var(--line); stroke-width: 1; }
svg .mark { stroke: var(--warn); stroke-width: 1.5; stroke-dasharray: 5 4; }
svg .dot { fill: var(--accent); }
svg .lost { fill: var(--warn); }
svg .label { fill: var(--warn); font-weight: 600; paint-order: stroke; stroke: var(--card); stroke-width: 5px; }
pre { overflow-x: auto; background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: .75rem; }
@media (max-width: 40rem) { .plot.wide svg text { font-size: 21px; } .plot { padding: .5rem; } }
"""


def document(title: str, body: str, style: str = "") -> str:
    """Return a whole page; `body` is HTML."""
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}{_PLOT_STYLE}{style}</style>\n</head>\n"
        f"<body>\n{body}\n</body>\n</html>\n"
    )


def header(title: str, figures: Iterable[tuple[str, str]]) -> str:
    """Return the head of a page: title, and pairs of a name and a figure as cards."""
    cards = "".join(f"<div><dt>{escape(name)}</dt><dd>{escape(figure)}</dd></div>" for name, figure in figures)
    return f'<header><h1>{escape(title)}</h1><dl class="figures">{cards}</dl></header>'


def table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Return a table whose first column names the row."""
    names = "".join(f'<th scope="col">{escape(name)}</th>' for name in columns)
    lines = []
    for first, *rest in rows:
        cells = "".join(f"<td>{escape(cell)}</td>" for cell in rest)
        lines.append(f'<tr><th scope="row">{escape(first)}</th>{cells}</tr>')
    return (
        '<div class="scroll" tabindex="0" role="region" aria-label="table"><table>'
        f"<thead><tr>{names}</tr></thead><tbody>{''.join(lines)}</tbody></table></div>"
    )
