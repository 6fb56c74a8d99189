"""How pixels are scaled before the network sees them, on the device. Images are RGB on the scale 0 to 1 here."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import BeforeValidator, Field, ValidationError

from megabatch.configs.base import Choice, PositiveFloat, name_only

STATS_FORMAT = "megabatch-stats-1"


class Fixed(Choice):
    """(pixel - mean) / std with the same numbers for all images, for each channel; the default is ImageNet's."""

    implementation: ClassVar[str] = "megabatch.trainer.preprocess:fixed"
    name: Literal["fixed"] = "fixed"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[PositiveFloat, PositiveFloat, PositiveFloat] = (0.229, 0.224, 0.225)


class Auto(Choice):
    """`fixed` with mean and std of the training split, from the stats.json that `megabatch data stats` writes.

    The job has the numbers, so a run goes on with those it began with.
    """

    name: Literal["auto"] = "auto"


class PerImage(Choice):
    """Each image to mean 0 and standard deviation 1, over all channels or each by itself.

    The deviation is at least 1 / sqrt(number of values), as in tf.image.per_image_standardization.
    """

    implementation: ClassVar[str] = "megabatch.trainer.preprocess:per_image"
    name: Literal["per_image"] = "per_image"
    channels: Literal["together", "each"] = "together"


class MinMax(Choice):
    """Each image stretched to 0 to 1, or with `symmetric` to -1 to 1; one without contrast becomes 0."""

    implementation: ClassVar[str] = "megabatch.trainer.preprocess:min_max"
    name: Literal["min_max"] = "min_max"
    channels: Literal["together", "each"] = "together"
    symmetric: bool = False


def scaled_from(own: Fixed, its: Fixed) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Return scale and shift of each channel that make pixels scaled by `own` those scaled by `its`.

    (p - m) / s to (p - m') / s' is x * s / s' + (m - m') / s'.
    """
    scale = tuple(s / its_s for s, its_s in zip(own.std, its.std, strict=True))
    shift = tuple((m - its_m) / its_s for m, its_m, its_s in zip(own.mean, its.mean, its.std, strict=True))
    return scale, shift


Normalization = Annotated[Fixed | Auto | PerImage | MinMax, Field(discriminator="name"), BeforeValidator(name_only)]


def resolved(
    normalization: Fixed | Auto | PerImage | MinMax, stats: Any, split: str, folder: str
) -> Fixed | PerImage | MinMax:
    """Return the normalization with numbers for `auto`: those of `split` in `stats`, the content of stats.json or None.

    Raises ValueError that names the command to run if they are missing or cannot be used.

    >>> resolved(Auto(), {"format": "megabatch-stats-1", "train": {"mean": [0.5] * 3, "std": [0.2] * 3}}, "train", "d")
    Fixed(name='fixed', mean=(0.5, 0.5, 0.5), std=(0.2, 0.2, 0.2))
    """
    if not isinstance(normalization, Auto):
        return normalization
    remedy = f"Run `megabatch data stats {folder}`, or write data.normalize: {{name: fixed, mean: ..., std: ...}}"
    if stats is None:
        raise ValueError(f"data.normalize is auto, but {folder} has no stats.json. {remedy}")
    if not isinstance(stats, dict) or stats.get("format") != STATS_FORMAT:
        raise ValueError(f"data.normalize is auto, but {folder}/stats.json is not of format {STATS_FORMAT!r}. {remedy}")
    try:
        return Fixed(mean=tuple(stats[split]["mean"]), std=tuple(stats[split]["std"]))
    except (KeyError, TypeError, ValidationError):
        raise ValueError(
            f"data.normalize is auto, but {folder}/stats.json has no mean and std above 0 of three channels "
            f"for the split {split!r}. {remedy}"
        ) from None
