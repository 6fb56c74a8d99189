"""What comes out as files: findings.json, mask.json, and clean shards without the masked samples."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Collection
from importlib.metadata import version
from pathlib import Path
from typing import Any

from megabatch.configs.new_file import write_whole
from megabatch.data.clean.findings import Mask
from megabatch.data.clean.inspect import content_kind, payload_of
from megabatch.data.clean.kinds import KINDS, Finding
from megabatch.data.clean.outliers import BLANK_DEVIATION, MAX_ASPECT, MAX_SCORE
from megabatch.data.clean.perceptual_hash import COARSE_LIMIT, FINE_LIMIT
from megabatch.data.clean.scan import Scan
from megabatch.data.clean.shards import open_shard
from megabatch.data.dataset import Dataset, Shard, Split
from megabatch.data.errors import DataError
from megabatch.data.importer import Progress, require_room, write_folder, write_shard
from megabatch.data.tar_index import IMAGE_EXTENSIONS, LABEL_EXTENSION, Sample, index_tar

FINDINGS_FORMAT = "megabatch-clean-1"
MASK_FORMAT = "megabatch-mask-1"
_SPLIT_NAME = re.compile(r"[A-Za-z][\w-]*")
_PACKAGES = ("megabatch", "numpy", "pillow", "simplejpeg")


def summary(scan: Scan, findings: list[Finding], mask: Mask, kinds: Collection[str], max_pixels: int) -> dict[str, Any]:
    """Return what findings.json begins with: versions, settings, and how many samples, findings and masked ones."""
    samples = Counter(scan.split_of(sample) for sample in range(len(scan.keys)))
    masked = Counter(scan.split_of(sample) for sample in mask.reasons)
    return {
        "format": FINDINGS_FORMAT,
        "dataset": str(scan.shards.folder),
        "versions": {package: version(package) for package in _PACKAGES},
        "settings": {
            "max_image_pixels": max_pixels,
            "near_bits": {"first_64": COARSE_LIMIT, "all_256": FINE_LIMIT},
            "blank_deviation": BLANK_DEVIATION,
            "max_aspect": MAX_ASPECT,
            "max_robust_score": MAX_SCORE,
            "mask_kinds": [kind.name for kind in KINDS if kind.masked == "always" or kind.name in kinds],
        },
        "samples": {split: samples[split] for split in scan.shards.splits},
        "counts": counts(scan, findings),
        "masked": {split: masked[split] for split in scan.shards.splits},
        "masked_ambiguous": len(mask.ambiguous),
    }


def counts(scan: Scan, findings: list[Finding]) -> dict[str, dict[str, int]]:
    """Return how many findings of each kind each split has; kinds without findings are left out."""
    found = Counter((finding.kind, scan.split_of(finding.sample)) for finding in findings)
    return {
        kind.name: {split: found[kind.name, split] for split in scan.shards.splits}
        for kind in KINDS
        if any(found[kind.name, split] for split in scan.shards.splits)
    }


def write_findings(scan: Scan, findings: list[Finding], head: dict[str, Any], path: Path) -> None:
    """Write findings.json: the summary and every finding."""
    listed = [
        {
            "kind": finding.kind,
            **_place(scan, finding.sample),
            "value": finding.value,
            **({} if finding.partner is None else {"partner": _place(scan, finding.partner)}),
        }
        for finding in findings
    ]
    write_text(path, json.dumps({**head, "findings": listed}, indent=1))


def _place(scan: Scan, sample: int) -> dict[str, str]:
    return {"split": scan.split_of(sample), "shard": scan.shard_of(sample), "key": scan.keys[sample]}


def write_mask(scan: Scan, mask: Mask, path: Path) -> None:
    """Write mask.json: the keys to leave out of each split, and why."""
    excluded: dict[str, dict[str, str]] = {}
    for sample, reason in sorted(mask.reasons.items()):
        if sample not in mask.ambiguous:
            excluded.setdefault(scan.split_of(sample), {})[scan.keys[sample]] = reason
    write_text(path, json.dumps({"format": MASK_FORMAT, "excluded": excluded}, indent=1))


def write_text(path: Path, text: str) -> None:
    """Write a file that is there whole or not at all."""
    write_whole(path, text + "\n")


def write_clean_shards(scan: Scan, mask: Mask, out: Path, progress: Progress) -> Dataset:
    """Write shards without the masked samples, with index and dataset.json, into an empty folder.

    Members keep their bytes; an image is called by what it is. Raises DataError if a split would be empty.
    """
    require_room(out)
    left = [sample for sample in range(len(scan.keys)) if sample not in mask.reasons]
    labels = Counter((scan.split_of(sample), int(scan.rows["label"][sample])) for sample in left)
    for split in scan.shards.splits:
        if not _SPLIT_NAME.fullmatch(split):
            raise DataError(f"{scan.shards.folder}: split {split!r} cannot be part of a file name: rename it")
        if not any(found == split for found, _ in labels):
            raise DataError(f"{out}: nothing would be left of split {split!r}: look at the report first")
    numbered = tuple(str(label) for label in range(max(label for _, label in labels) + 1))
    written = iter(range(1, len(left) + 1))

    def write_splits(folder: Path) -> tuple[Split, ...]:
        shards: dict[str, list[Shard]] = {split: [] for split in scan.shards.splits}
        for number, (split, file) in enumerate(scan.shards.files):
            if samples := _kept(scan, mask, number):
                path = folder / f"{split}-{len(shards[split]):06d}.tar"
                content = open_shard(scan.shards.folder / file)
                members = (_members(sample, content) for sample in samples)
                shards[split].append(write_shard(path, members, lambda: progress(next(written), len(left))))
        return tuple(
            Split(split, tuple(members), {label: count for (of, label), count in labels.items() if of == split})
            for split, members in shards.items()
        )

    return write_folder(out, scan.shards.classes or numbered, write_splits)


def _kept(scan: Scan, mask: Mask, shard: int) -> list[Sample]:
    """Return the samples of a shard that are not masked."""
    first, end = scan.rows["shard"].searchsorted([shard, shard + 1]).tolist()
    samples = index_tar(scan.shards.folder / scan.shards.files[shard][1])
    return [samples[number - first] for number in range(first, end) if number not in mask.reasons]


def _members(sample: Sample, content: memoryview) -> dict[str, str | bytes]:
    members: dict[str, str | bytes] = {"__key__": sample.key}
    for member in sample.members:
        payload = bytes(payload_of(member, content))
        is_image = member.extension in IMAGE_EXTENSIONS
        members[(content_kind(payload) or member.extension) if is_image else member.extension] = payload
    assert LABEL_EXTENSION in members, "a sample without a label is always masked"
    return members
