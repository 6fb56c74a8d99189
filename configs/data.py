"""What is trained on: which shards, which of their samples, and what becomes of an image on its way into a batch."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from megabatch.configs.base import (
    Choice,
    EnvironmentText,
    Frozen,
    PositiveInt,
    name_only,
)
from megabatch.configs.batch_transforms import BatchTransform
from megabatch.configs.normalization import Fixed, Normalization
from megabatch.configs.sampling import HashSplit, Sampling, Source, TrainStream, Uniform
from megabatch.configs.targets import ClassTarget, Target
from megabatch.configs.transforms import Transform

SplitName = Annotated[str, Field(max_length=200)]


class Shuffle(Frozen):
    """How samples are mixed within an epoch (data/order.py draws it)."""

    streams: PositiveInt = 64
    window_shards: PositiveInt = 16
    block_samples: PositiveInt = 16


class StopOnError(Choice):
    """The first sample that cannot be read or decoded ends the run, with a message that names it."""

    name: Literal["stop"] = "stop"

    @property
    def max_samples(self) -> int:
        """Return how many samples may be skipped: none."""
        return 0


class SkipErrors(Choice):
    """A sample that cannot be used gets weight 0; more than `max_samples` different ones end the run.

    Each is counted in metrics.jsonl and listed in RUN_DIR/data-errors.jsonl. The gradient is the mean over the rest.
    """

    name: Literal["skip"] = "skip"
    max_samples: PositiveInt


OnError = Annotated[StopOnError | SkipErrors, Field(discriminator="name"), BeforeValidator(name_only)]


class Data(Frozen):
    """Which shards, which of their samples, and what becomes of an image on its way into a batch.

    Several data sets are given as `sources` instead of `path`. `classes` names those to keep, as if there were no
    others: output 0 is the first of them. `subset` is a file with one key of a training sample a line; `mask` one with
    the keys to leave out; `repeats` is how often each sample comes, side by side, in an epoch.
    """

    path: EnvironmentText | None = None
    sources: tuple[Source, ...] = ()
    train_stream: TrainStream | None = None
    target: Target = ClassTarget()
    classes: tuple[str, ...] = ()
    image_size: PositiveInt
    subset: EnvironmentText | None = None
    mask: EnvironmentText | None = None
    hash_split: HashSplit | None = None
    sampling: Sampling = Uniform()
    repeats: PositiveInt = 1
    train_split: SplitName = "train"
    validation_split: SplitName | None = "validation"
    test_split: SplitName | None = "test"
    train_transforms: tuple[Transform, ...] = ()
    evaluation_transforms: tuple[Transform, ...] = ()
    normalize: Normalization = Fixed()
    batch_transforms: tuple[BatchTransform, ...] = ()
    shuffle: Shuffle = Shuffle()
    max_image_pixels: PositiveInt = 100_000_000
    on_error: OnError = StopOnError()

    @model_validator(mode="after")
    def _one_way_to_name_data(self) -> Self:
        if (self.path is None) == (not self.sources):
            raise ValueError("write either path or sources (`path: null` undoes the path of a base recipe)")
        if len({source.weight is None for source in self.sources if source.trains}) > 1:
            raise ValueError("sources: some have a weight and some have none: give one to all of them, or to none")
        return self

    @model_validator(mode="after")
    def _classes_are_those_of_the_target(self) -> Self:
        by_class = self.classes or any(s.classes or s.train_samples is not None for s in self.sources)
        if by_class and not isinstance(self.target, ClassTarget):
            raise ValueError("classes chooses by the class of a sample: leave it out with another target")
        for names in (self.classes, *(source.classes for source in self.sources)):
            twice = [name for number, name in enumerate(names) if name in names[:number]]
            if twice:
                raise ValueError(f"classes: {twice[0]} comes twice")
        return self

    @model_validator(mode="after")
    def _sources_have_some_of_the_classes(self) -> Self:
        others = [name for source in self.sources for name in source.classes if name not in self.classes]
        if self.classes and others:
            raise ValueError(f"sources: {others[0]} is not among data.classes: write it there too")
        return self

    @model_validator(mode="after")
    def _nothing_is_chosen_of_a_stream(self) -> Self:
        chosen = {
            "sources": self.sources, "classes": self.classes, "subset": self.subset, "hash_split": self.hash_split,
            "sampling": not isinstance(self.sampling, Uniform), "repeats": self.repeats > 1,
        }  # fmt: skip
        wrong = [name for name, used in chosen.items() if used]
        if self.train_stream is not None and wrong:
            raise ValueError(f"train_stream has no order to choose from: leave out {', '.join(wrong)}")
        return self
