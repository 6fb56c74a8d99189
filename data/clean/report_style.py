"""The style sheet of report.html. Colours follow the reader's system; the layout follows the width of the window."""

from __future__ import annotations

STYLE = """
:root {
  --page: #f6f7f9; --card: #ffffff; --text: #1b1f24; --quiet: #5b6470; --line: #d9dee5; --accent: #1f5fbf;
  --warn: #a3320b; --hole: #e9edf2;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #14171b; --card: #1d2127; --text: #e6e9ed; --quiet: #9aa4b1; --line: #333a43; --accent: #82b1ff;
    --warn: #ffa07a; --hole: #272c34;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 1.5rem clamp(1rem, 4vw, 3rem) 3rem; max-width: 84rem; background: var(--page);
  color: var(--text); font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif;
}
h1 { font-size: 1.75rem; line-height: 1.2; margin: 0 0 1rem; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 0 0 .25rem; }
section { margin-top: 2.5rem; }
section > p { margin: 0 0 1rem; max-width: 46rem; }
a { color: var(--accent); }
a:focus-visible, .scroll:focus-visible { outline: 3px solid var(--accent); outline-offset: 2px; border-radius: 4px; }
.quiet, footer { color: var(--quiet); font-size: .875rem; }
section > p.quiet { margin: .75rem 0 0; }
.count {
  color: var(--quiet); font-weight: 400; font-variant-numeric: tabular-nums; margin-left: .35rem; font-size: 1rem;
}
.figures { display: flex; flex-wrap: wrap; gap: .75rem; margin: 0; }
.figures div {
  display: flex; flex-direction: column-reverse; background: var(--card); border: 1px solid var(--line);
  border-radius: 10px; padding: .6rem 1.1rem; min-width: 8.5rem;
}
.figures dt { color: var(--quiet); font-size: .875rem; }
.figures dd { margin: 0; font-size: 1.5rem; font-weight: 600; font-variant-numeric: tabular-nums; }
.scroll { overflow-x: auto; background: var(--card); border: 1px solid var(--line); border-radius: 10px; }
.scroll { margin-top: .75rem; width: fit-content; max-width: 100%; }
table { border-collapse: collapse; }
th, td { padding: .45rem 1rem; text-align: right; border-top: 1px solid var(--line); white-space: nowrap; }
thead th { border-top: 0; color: var(--quiet); font-weight: 500; font-size: .875rem; }
th:first-child { text-align: left; font-weight: 500; white-space: normal; min-width: 11rem; }
td.quiet { font-size: inherit; }
td { font-variant-numeric: tabular-nums; }
.cards {
  list-style: none; margin: 0; padding: 0; display: grid; gap: .75rem;
  grid-template-columns: repeat(auto-fill, minmax(min(11rem, 100%), 1fr));
}
.cards.pairs { grid-template-columns: repeat(auto-fill, minmax(min(21rem, 100%), 1fr)); }
.cards li { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: .75rem; }
.images { display: grid; gap: .75rem; }
.pairs .images { grid-template-columns: 1fr 1fr; }
figure { margin: 0; min-width: 0; position: relative; }
.image {
  aspect-ratio: 1; display: grid; place-items: center; overflow: hidden; background: var(--hole); border-radius: 6px;
}
.image img { max-width: 100%; max-height: 100%; width: 100%; height: 100%; object-fit: contain; }
.image .small { image-rendering: pixelated; }
.none { color: var(--quiet); font-size: .875rem; }
figcaption { margin-top: .5rem; font-size: .8125rem; line-height: 1.35; }
figcaption span { display: block; overflow-wrap: anywhere; }
.key { font-family: ui-monospace, "SF Mono", Menlo, Consolas, monospace; }
figcaption .quiet { font-size: .8125rem; }
.masked {
  position: absolute; top: .4rem; left: .4rem; padding: 0 .45rem; border-radius: 99px; background: var(--warn);
  color: var(--card); font-size: .75rem; font-weight: 600;
}
.value {
  margin: .5rem 0 0; padding-top: .5rem; border-top: 1px solid var(--line); font-size: .8125rem; line-height: 1.4;
  overflow-wrap: anywhere;
}
footer { margin-top: 3rem; border-top: 1px solid var(--line); }
@media (max-width: 30rem) {
  .cards { grid-template-columns: 1fr 1fr; }
  .cards.pairs { grid-template-columns: 1fr; }
  th, td { padding: .45rem .6rem; }
}
@media print { body { background: none; } .cards li, .figures div { break-inside: avoid; } }
"""
