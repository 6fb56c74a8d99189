"""report.html: the findings as one page that opens without a network and without scripts.

File keys and class names come from strangers, so every text passes through `_text`.
"""

from __future__ import annotations

from collections import defaultdict
from html import escape
from pathlib import Path
from typing import Any

from megabatch.data.clean.findings import Mask
from megabatch.data.clean.kinds import KINDS, Finding, Kind
from megabatch.data.clean.pictures import Album, Picture
from megabatch.data.clean.report_style import STYLE
from megabatch.data.clean.scan import Scan
from megabatch.data.clean.write import write_text

_SHOWN_OF_A_KIND = 24
_ROOM_BYTES = 2_400_000  # for pictures; the whole page stays under 3 MB
_LONGEST_TEXT = 120
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def write_report(
    scan: Scan, findings: list[Finding], mask: Mask, head: dict[str, Any], max_pixels: int, path: Path
) -> None:
    """Write the page."""
    by_kind: dict[str, list[Finding]] = defaultdict(list)
    for finding in findings:
        by_kind[finding.kind].append(finding)
    page = _Page(scan, mask, Album(scan, max_pixels, _ROOM_BYTES))
    found = [kind for kind in KINDS if by_kind[kind.name]]
    sections = [page.section(kind, by_kind[kind.name], len(found) - number) for number, kind in enumerate(found)]
    title = _text(f"Data set {scan.shards.folder.absolute().name}")
    body = [
        f"<header><h1>{title}</h1>{_overview(head, findings)}</header>",
        "<main>",
        _summary(head),
        *sections,
        "</main>",
        f"<footer>{_footer(head)}</footer>",
    ]
    write_text(path, _document(title, "\n".join(body)))


def _document(title: str, body: str) -> str:
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n'
        f"<title>{title}: findings</title>\n<style>{STYLE}</style>\n</head>\n<body>\n{body}\n</body>\n</html>"
    )


def _text(value: str) -> str:
    """Escape a text for HTML; cut a long one, and show control and direction characters by their number."""
    cut = value if len(value) <= _LONGEST_TEXT else f"{value[: _LONGEST_TEXT - 1]}…"
    return escape("".join(c if c.isprintable() else f"\\u{ord(c):04x}" for c in cut))


def _overview(head: dict[str, Any], findings: list[Finding]) -> str:
    samples, masked = sum(head["samples"].values()), sum(head["masked"].values())
    figures = (
        (f"{samples:,}", "samples"),
        (f"{len({finding.sample for finding in findings}):,}", "with a finding"),
        (f"{masked:,}", "left out by the mask"),
    )
    items = "".join(f"<div><dt>{name}</dt><dd>{figure}</dd></div>" for figure, name in figures)
    return f'<dl class="figures">{items}</dl>'


def _summary(head: dict[str, Any]) -> str:
    splits = list(head["samples"])
    names = "".join(f'<th scope="col">{_text(split)}</th>' for split in splits)
    rows = []
    for kind in KINDS:
        if counts := head["counts"].get(kind.name):
            cells = "".join(
                f"<td>{counts[split]:,}</td>" if counts[split] else '<td class="quiet">0</td>' for split in splits
            )
            masked = "yes" if kind.name in head["settings"]["mask_kinds"] else "no"
            link = f'<a href="#{kind.name}">{escape(kind.title)}</a>'
            rows.append(f'<tr><th scope="row">{link}</th>{cells}<td>{masked}</td></tr>')
    absent = ", ".join(kind.title[0].lower() + kind.title[1:] for kind in KINDS if kind.name not in head["counts"])
    table = (
        '<div class="scroll" tabindex="0" role="region" aria-labelledby="summary"><table>'
        f'<thead><tr><th scope="col">Finding</th>{names}<th scope="col">Masked</th></tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )
    found = table if rows else "<p>Nothing was found.</p>"
    looked = f'<p class="quiet">Looked for and not found: {escape(absent)}.</p>' if absent else ""
    return f'<section><h2 id="summary">Summary</h2>{found}{looked}</section>'


def _footer(head: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {number}" for name, number in head["versions"].items())
    return f"<p>Every finding: findings.json. Left out in training: mask.json. Made with {escape(versions)}.</p>"


class _Page:
    def __init__(self, scan: Scan, mask: Mask, album: Album):
        self._scan = scan
        self._mask = mask
        self._album = album

    def section(self, kind: Kind, findings: list[Finding], sections_left: int) -> str:
        """Return heading, explanation and cards of one kind; its pictures take an equal share of the room left."""
        reserved = self._album.room_bytes * (sections_left - 1) // sections_left
        cards: list[str] = []
        different = _without_mirrored(findings)
        for finding in different[:_SHOWN_OF_A_KIND]:
            if self._album.room_bytes <= reserved:
                break
            cards.append(self._card(finding))
        more = len(different) - len(cards)
        rest = f'<p class="quiet">{more:,} more in findings.json</p>' if more else ""
        paired = " pairs" if findings[0].partner is not None else ""
        return (
            f'<section id="{kind.name}"><h2>{escape(kind.title)} <span class="count">{len(findings):,}</span></h2>'
            f"<p>{escape(kind.meaning)}</p>"
            f'<ul role="list" class="cards{paired}">{"".join(cards)}</ul>{rest}</section>'
        )

    def _card(self, finding: Finding) -> str:
        samples = [finding.sample] if finding.partner is None else [finding.sample, finding.partner]
        figures = "".join(self._figure(sample) for sample in samples)
        return f'<li><div class="images">{figures}</div><p class="value">{_text(finding.value)}</p></li>'

    def _figure(self, sample: int) -> str:
        scan = self._scan
        key, split, name = _text(scan.keys[sample]), _text(scan.split_of(sample)), _text(scan.class_of(sample))
        masked = '<span class="masked">masked</span>' if sample in self._mask.reasons else ""
        return (
            f"<figure>{_image(self._album.picture(sample), f'{key}, {split}')}{masked}<figcaption>"
            f'<span class="key">{key}</span><span class="quiet">{split} · {name}</span></figcaption></figure>'
        )


def _without_mirrored(findings: list[Finding]) -> list[Finding]:
    """Leave out a pair that was there the other way round."""
    pairs = {(finding.sample, finding.partner) for finding in findings}
    return [f for f in findings if f.partner is None or f.partner > f.sample or (f.partner, f.sample) not in pairs]


def _image(picture: Picture | None, description: str) -> str:
    if picture is None:
        return '<div class="image none">cannot be shown</div>'
    small = ' class="small"' if max(picture.width, picture.height) <= 64 else ""
    size = f'width="{picture.width}" height="{picture.height}"'
    return f'<div class="image"><img{small} src="{picture.uri}" {size} alt="{description}" loading="lazy"></div>'
