"""The whole of it: look at a data set, and write findings.json, mask.json and report.html."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megabatch.data.clean.findings import Mask, find, make_mask
from megabatch.data.clean.report import write_report
from megabatch.data.clean.scan import Scan, scan
from megabatch.data.clean.shards import find_shards
from megabatch.data.clean.write import summary, write_findings, write_mask
from megabatch.data.importer import Progress


@dataclass(frozen=True)
class CleanOptions:
    """Which kinds the mask leaves out besides what would stop training, the largest image, and how many threads."""

    mask_kinds: Collection[str]
    max_pixels: int
    threads: int


@dataclass(frozen=True)
class Cleaned:
    """What was seen, what the mask leaves out, and what findings.json begins with."""

    scan: Scan
    mask: Mask
    summary: dict[str, Any]


def clean_dataset(folder: Path, out: Path, options: CleanOptions, progress: Progress) -> Cleaned:
    """Look at every sample of `folder`, which stays as it is, and write what was found into `out`. Raises DataError."""
    shards = find_shards(folder)
    out.mkdir(parents=True, exist_ok=True)
    scanned = scan(shards, options.threads, options.max_pixels, progress)
    findings = find(scanned)
    mask = make_mask(scanned, findings, options.mask_kinds)
    head = summary(scanned, findings, mask, options.mask_kinds, options.max_pixels)
    write_findings(scanned, findings, head, out / "findings.json")
    write_mask(scanned, mask, out / "mask.json")
    write_report(scanned, findings, mask, head, options.max_pixels, out / "report.html")
    return Cleaned(scanned, mask, head)
