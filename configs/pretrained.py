"""Where the weights of a network come from before its training begins."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from megabatch.configs.base import Frozen, NonNegativeInt

Outputs = Literal["by_class"] | tuple[NonNegativeInt, ...]
SUFFIXES = (".safetensors", ".pt", ".pth", ".bin")
_TIMM = "timm"


class WeightsSource(Frozen):
    """Weights somewhere: a file, a run folder or one of its checkpoints, or timm; and the SHA-256 that they have."""

    source: Annotated[str, Field(min_length=1)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")] | None = None

    @property
    def of_timm(self) -> bool:
        """Return whether timm is asked for the weights."""
        return self.source == _TIMM or self.source.startswith(f"{_TIMM}:")

    @property
    def timm_name(self) -> str | None:
        """Return the name that timm is asked for, or None for that of the model."""
        return self.source.partition(":")[2] or None

    @model_validator(mode="after")
    def _can_be_read(self) -> Self:
        if "://" in self.source:
            raise ValueError("is a URL: fetch the file first, and write its path")
        if self.of_timm and self.sha256 is not None:
            raise ValueError("sha256 is that of a file, and timm chooses its files itself: leave it out")
        return self


class Pretrained(WeightsSource):
    """Where the weights are from that a training begins with.

    A file (.safetensors; .pt, .pth or .bin without Python objects), a run folder or one of its checkpoints, or timm. Of
    a run folder the best checkpoint is taken, with averaged weights where it has some. `timm` stands for timm's own
    weights of `model.name`, `timm:NAME` for those of another model or tag; both are fetched from the internet. The
    launcher writes into job.yaml which checkpoint it is, and the SHA-256 of the file or of the checkpoint's manifest.
    `pretrained: SOURCE` is short for `pretrained: {source: SOURCE}`. `leave_out` has patterns of names in this network
    that begin as new all the same: a head for other classes.

    `outputs` is for a head that grows: it says which output here each output of the source is. `by_class` finds them by
    the names of the classes of a run; the launcher writes the numbers. Other outputs begin as new.
    """

    leave_out: tuple[str, ...] = ()
    outputs: Outputs | None = None

    @model_validator(mode="after")
    def _outputs_are_known(self) -> Self:
        if self.of_timm and self.outputs is not None:
            raise ValueError("outputs: timm's weights are for classes of their own: leave it out")
        _require_distinct(self.outputs)
        return self


def _require_distinct(outputs: Outputs | None) -> None:
    if isinstance(outputs, tuple) and (not outputs or len(set(outputs)) < len(outputs)):
        raise ValueError(f"outputs: {list(outputs)}: write one number for each output of the source, no number twice")


def source_only(value: Any) -> Any:  # Any: whatever stands in the YAML file
    """Let `pretrained: weights.safetensors` stand for `pretrained: {source: weights.safetensors}`."""
    return {"source": value} if isinstance(value, str) else value


StartingWeights = Annotated[Pretrained, BeforeValidator(source_only)]
