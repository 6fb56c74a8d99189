"""Equal and nearly equal images: in a split, across splits, and with different labels. Works on hashes alone."""

from __future__ import annotations

from collections.abc import Collection, Iterator

import numpy as np
from numpy.typing import NDArray

from megabatch.data.clean.inspect import NO_LABEL
from megabatch.data.clean.kinds import Finding
from megabatch.data.clean.outliers import is_blank
from megabatch.data.clean.perceptual_hash import MIN_SIDE, distance, near_pairs
from megabatch.data.clean.scan import Scan

Splits = NDArray[np.int64]  # for each sample the number of its split


def equal_images(scan: Scan) -> Iterator[Finding]:
    """Yield leaks, conflicts and duplicates: samples with the same pixels (or bytes, where they do not decode)."""
    splits = scan.split_numbers()
    for group in _groups(scan):
        yield from _conflicts(scan, group)
        yield from _leaks(scan, group, splits)
        yield from _duplicates(scan, group, splits)


def _groups(scan: Scan) -> list[list[int]]:
    """Return the samples of each image that comes more than once, in order."""
    samples = np.flatnonzero(scan.rows["size"] > 0)
    digests = scan.rows["pixels"][samples]
    order = np.lexsort((digests[:, 1], digests[:, 0]))  # stable: equal ones stay in order
    samples, digests = samples[order], digests[order]
    changes = np.flatnonzero((digests[1:] != digests[:-1]).any(axis=1)) + 1
    edges = np.concatenate([[0], changes, [len(samples)]])
    repeated = np.flatnonzero(np.diff(edges) > 1)
    return sorted(samples[edges[group] : edges[group + 1]].tolist() for group in repeated)


def _conflicts(scan: Scan, group: list[int]) -> Iterator[Finding]:
    """Every copy is one: none is known to be right. The partner is the first with another label."""
    labels = scan.rows["label"][group].tolist()
    first: dict[int, int] = {}  # for each label its first sample
    for sample, label in zip(group, labels, strict=True):
        if label != NO_LABEL:
            first.setdefault(label, sample)
    if len(first) < 2:
        return
    one, another = list(first.values())[:2]
    for sample, label in zip(group, labels, strict=True):
        if label != NO_LABEL:
            other = another if first[label] == one else one
            yield Finding("conflict", sample, f"{scan.class_of(sample)}, also {scan.class_of(other)}", other)


def _leaks(scan: Scan, group: list[int], splits: Splits) -> Iterator[Finding]:
    """The partner is the first copy in a later split; so it is the one in train that gives way."""
    first: dict[int, int] = {}  # for each split its first sample; samples are in the order of the splits
    for sample in group:
        first.setdefault(int(splits[sample]), sample)
    later = dict(zip(first, list(first.values())[1:], strict=False))
    for sample in group:
        if (other := later.get(int(splits[sample]))) is not None:
            yield Finding("leak", sample, _sameness(scan, sample, other), other)


def _duplicates(scan: Scan, group: list[int], splits: Splits) -> Iterator[Finding]:
    """The partner is the first copy with the same split and label."""
    first: dict[tuple[int, int], int] = {}
    for sample in group:
        place = (int(splits[sample]), int(scan.rows["label"][sample]))
        if place in first:
            yield Finding("duplicate", sample, _sameness(scan, sample, first[place]), first[place])
        else:
            first[place] = sample


def _sameness(scan: Scan, one: int, other: int) -> str:
    same_bytes = bool((scan.rows["payload"][one] == scan.rows["payload"][other]).all())
    return "the same file" if same_bytes else "the same pixels, stored differently"


def near_images(scan: Scan, known: Collection[int]) -> Iterator[Finding]:
    """Yield nearly equal images, but not blank or very small ones (all are alike), nor the `known` duplicates.

    In a split the partner of an image is the first one near it. Across splits it is the first in a later split.
    """
    large = np.minimum(scan.rows["width"], scan.rows["height"]) >= MIN_SIDE
    usable = np.setdiff1d(np.flatnonzero(scan.rows["decoded"] & large & ~is_blank(scan.rows)), list(known))
    splits = scan.split_numbers()[usable]
    hashes = np.ascontiguousarray(scan.rows["hash"][usable])
    earlier = np.full(len(usable), len(usable))  # in the same split
    later = earlier.copy()  # in a later split
    for pairs in near_pairs(hashes):
        pairs = pairs[
            (scan.rows["pixels"][usable[pairs[:, 0]]] != scan.rows["pixels"][usable[pairs[:, 1]]]).any(axis=1)
        ]
        same = splits[pairs[:, 0]] == splits[pairs[:, 1]]
        np.minimum.at(earlier, pairs[same, 0], pairs[same, 1])
        np.minimum.at(later, pairs[~same, 1], pairs[~same, 0])
    for kind, partners in (("near_leak", later), ("near_duplicate", earlier)):
        for sample in np.flatnonzero(partners < len(usable)).tolist():
            partner = int(partners[sample])
            bits = distance(hashes[sample], hashes[partner])
            yield Finding(kind, *_near(scan, int(usable[sample]), int(usable[partner]), bits))


def _near(scan: Scan, sample: int, partner: int, bits: int) -> tuple[int, str, int]:
    label, other = scan.rows["label"][[sample, partner]]
    labels = "" if label == other else f"; {scan.class_of(sample)}, but {scan.class_of(partner)}"
    return sample, f"{bits} of 256 bits differ{labels}", partner
