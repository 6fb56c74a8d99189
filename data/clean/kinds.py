"""The kinds of findings: what each one means, and whether the mask leaves its samples out."""

from __future__ import annotations

from typing import Literal, NamedTuple

TRAIN = "train"  # the split that gives way when an image lies in two


class Kind(NamedTuple):
    """`masked`: always (training would stop at the sample), by default, or only if asked for."""

    name: str
    title: str
    meaning: str
    masked: Literal["always", "default", "asked"]


KINDS = (
    Kind(
        "leak",
        "The same image in two splits",
        "The pixels are equal. Accuracy on images that were trained on says nothing about new ones. The mask leaves "
        "the copy in train out; evaluation stays as it is.",
        "default",
    ),
    Kind(
        "near_leak",
        "Nearly the same image in two splits",
        "Compressed again, resized or slightly cropped; the fewer bits of the hashes differ, the more alike. "
        "Look at the pairs before you mask them.",
        "asked",
    ),
    Kind(
        "conflict",
        "The same image with different labels",
        "The pixels are equal and at most one of the labels is right. Masking leaves all copies out.",
        "asked",
    ),
    Kind("unreadable", "Unreadable image", "Training would stop at it.", "always"),
    Kind("truncated", "Truncated image", "The file ends too early: a copy was interrupted.", "always"),
    Kind("huge", "Huge image", "More pixels than data.max_image_pixels allows; it was not decoded.", "always"),
    Kind(
        "image_missing",
        "No image in the sample",
        "A sample needs exactly one image that is not empty. The shard cannot be indexed with it.",
        "always",
    ),
    Kind("label_missing", "No label", "The sample has no .cls. The shard cannot be indexed with it.", "always"),
    Kind("label_not_integer", "A label that is no integer", "The content of .cls is not a class number.", "always"),
    Kind("label_outside", "A label outside the classes", "There is no class of this number.", "always"),
    Kind(
        "duplicate",
        "The same image twice in a split",
        "The pixels and labels are equal. The mask keeps the first.",
        "default",
    ),
    Kind(
        "near_duplicate",
        "Nearly the same image twice in a split",
        "Compressed again, resized or slightly cropped; the fewer bits of the hashes differ, the more alike. "
        "The first is kept if you mask them.",
        "asked",
    ),
    Kind("blank", "Blank image", "Nearly one grey level: its standard deviation is below 3 of 255.", "asked"),
    Kind("wrong_extension", "Wrong extension", "The content is another format than the name says.", "asked"),
    Kind("aspect", "Extreme aspect ratio", "One side is more than four times the other.", "asked"),
    Kind("size", "Unusual size", "At least 16 times more or fewer pixels than the median, and far from most.", "asked"),
    Kind("brightness", "Unusual brightness", "The mean grey level is far from that of most images.", "asked"),
    Kind("contrast", "Unusual contrast", "The standard deviation of the grey levels is far from most.", "asked"),
)
BY_NAME = {kind.name: kind for kind in KINDS}
DEFAULT_MASKED = tuple(kind.name for kind in KINDS if kind.masked == "default")
ALWAYS_MASKED = tuple(kind.name for kind in KINDS if kind.masked == "always")


class Finding(NamedTuple):
    """Something about one sample; samples are numbered through the data set, as Scan numbers them."""

    kind: str
    sample: int
    value: str
    partner: int | None = None


def in_order(findings: list[Finding]) -> list[Finding]:
    """Return the findings by kind, most important first, and then by sample."""
    rank = {kind.name: number for number, kind in enumerate(KINDS)}
    return sorted(findings, key=lambda finding: (rank[finding.kind], finding.sample))
