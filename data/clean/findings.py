"""From a data set to findings, and from findings to what the mask leaves out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection
from dataclasses import dataclass

from megabatch.data.clean.duplicates import equal_images, near_images
from megabatch.data.clean.kinds import ALWAYS_MASKED, TRAIN, Finding, in_order
from megabatch.data.clean.outliers import outliers
from megabatch.data.clean.scan import Scan


@dataclass(frozen=True)
class Mask:
    """Why each masked sample is left out. `ambiguous` ones share their key with others of the split.

    A mask file names keys, so it cannot leave out one of several samples with the same key.
    """

    reasons: dict[int, str]
    ambiguous: frozenset[int]


def find(scan: Scan) -> list[Finding]:
    """Return everything that is wrong or unusual, most important kinds first."""
    equal = list(equal_images(scan))
    duplicates = [finding.sample for finding in equal if finding.kind == "duplicate"]
    return in_order([*scan.problems, *equal, *near_images(scan, duplicates), *outliers(scan.rows)])


def make_mask(scan: Scan, findings: list[Finding], kinds: Collection[str]) -> Mask:
    """Choose the samples with a finding of `kinds`, or one at which training would stop.

    Of a leak only the copy in train is left out, so that evaluation stays as it is.
    """
    reasons: dict[int, str] = {}
    for finding in findings:
        leak_elsewhere = finding.kind in ("leak", "near_leak") and scan.split_of(finding.sample) != TRAIN
        if finding.kind in (*ALWAYS_MASKED, *kinds) and not leak_elsewhere:
            reasons.setdefault(finding.sample, reason(scan, finding))
    splits = scan.split_numbers().tolist()
    counts = Counter(zip(splits, scan.keys, strict=True))
    ambiguous = frozenset(sample for sample in reasons if counts[splits[sample], scan.keys[sample]] > 1)
    return Mask(reasons, ambiguous)


def reason(scan: Scan, finding: Finding) -> str:
    """Say a finding in one line: kind, value and partner."""
    partner = ""
    if finding.partner is not None:
        partner = f" (as {scan.split_of(finding.partner)}: {scan.keys[finding.partner]})"
    return f"{finding.kind}: {finding.value}{partner}"
