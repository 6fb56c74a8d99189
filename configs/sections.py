"""The smaller sections of a recipe: data, batch, model, precision, engine and what is kept of a run."""

from __future__ import annotations

from typing import Annotated, Any, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from megabatch.configs.base import (
    Choice,
    EnvironmentText,
    Frozen,
    PositiveFloat,
    PositiveInt,
    name_only,
)
from megabatch.configs.batch_transforms import BatchTransform
from megabatch.configs.normalization import Fixed, Normalization
from megabatch.configs.sampling import HashSplit, Sampling, Source, TrainStream, Uniform
from megabatch.configs.transforms import Transform

# `{width:3}` without a space is a key "width:3" in YAML; timm would ignore it without a word.
OptionName = Annotated[str, Field(pattern=r"^[A-Za-z]\w*$")]


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

    Several data sets are given as `sources` instead of `path`. `subset` is a file with one key of a training sample a
    line; `mask` one with the keys to leave out; `repeats` is how often each sample comes, side by side, in an epoch.
    """

    path: EnvironmentText | None = None
    sources: tuple[Source, ...] = ()
    train_stream: TrainStream | None = None
    image_size: PositiveInt
    subset: EnvironmentText | None = None
    mask: EnvironmentText | None = None
    hash_split: HashSplit | None = None
    sampling: Sampling = Uniform()
    repeats: PositiveInt = 1
    train_split: str = "train"
    validation_split: str | None = "validation"
    test_split: str | None = "test"
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
        if len({source.weight is None for source in self.sources}) > 1:
            raise ValueError("sources: some have a weight and some have none: give one to all of them, or to none")
        return self

    @model_validator(mode="after")
    def _nothing_is_chosen_of_a_stream(self) -> Self:
        chosen = {
            "sources": self.sources, "subset": self.subset, "hash_split": self.hash_split,
            "sampling": not isinstance(self.sampling, Uniform), "repeats": self.repeats > 1,
        }  # fmt: skip
        wrong = [name for name, used in chosen.items() if used]
        if self.train_stream is not None and wrong:
            raise ValueError(f"train_stream has no order to choose from: leave out {', '.join(wrong)}")
        return self


class Batch(Frozen):
    """One optimizer step takes `global_batch` samples, in forward/backward passes of `micro_batch` samples."""

    global_batch: PositiveInt
    micro_batch: PositiveInt
    last_batch: Literal["short", "drop"] = "short"


class Model(Frozen):
    """`timm/NAME`, `torchvision/NAME`, or `package.module:callable`, called with num_classes and the options."""

    name: Annotated[str, Field(pattern=r"^(timm/[\w.\-]+|torchvision/\w+|[\w.]+:\w+)$")]
    options: dict[OptionName, Any] = {}  # Any: the keyword arguments of somebody else's model


class Fp32(Choice):
    """Everything in float32."""

    name: Literal["fp32"] = "fp32"


class Fp64(Choice):
    """Everything in float64: for exact comparisons, not for speed."""

    name: Literal["fp64"] = "fp64"


class Bf16(Choice):
    """Forward under autocast to bfloat16, parameters and optimizer in float32."""

    name: Literal["bf16"] = "bf16"


class Fp16(Choice):
    """Forward under autocast to float16 with dynamic loss scaling (Micikevicius et al. 2018, section 3.2)."""

    name: Literal["fp16"] = "fp16"
    initial_scale: PositiveFloat = 65536.0
    growth_interval: PositiveInt = 2000


Precision = Annotated[Fp32 | Fp64 | Bf16 | Fp16, Field(discriminator="name"), BeforeValidator(name_only)]


class Ddp(Choice):
    """torch DistributedDataParallel: a full copy of the model on every rank."""

    name: Literal["ddp"] = "ddp"
    bucket_megabytes: PositiveInt = 25
    find_unused_parameters: bool = False


Engine = Annotated[Ddp, BeforeValidator(name_only)]


class Regularization(Frozen):
    """What keeps the network from fitting too closely, beside weight decay (which belongs to the optimizer)."""

    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    clip_norm: PositiveFloat | None = None


class Evaluation(Frozen):
    """When the validation split is evaluated. The best checkpoint is the one with the best `metric` there."""

    every_epochs: PositiveInt = 1
    micro_batch: PositiveInt = 256
    metric: Literal["top1", "loss"] = "top1"


class Checkpoint(Frozen):
    """When state is written to the run folder and how much of it stays."""

    every_epochs: PositiveInt = 1
    every_steps: PositiveInt | None = None
    keep_last: Annotated[int, Field(ge=2)] = 2


class Wandb(Frozen):
    """Weights & Biases. `auto` is online with a key and offline without."""

    project: EnvironmentText
    entity: EnvironmentText | None = None
    group: EnvironmentText | None = None
    mode: Literal["auto", "online", "offline"] = "auto"


class Tracking(Frozen):
    """Where results go besides RUN_DIR/metrics.jsonl, which is always written."""

    print_every_seconds: PositiveFloat = 5.0
    sample_log: bool = False
    wandb: Wandb | None = None
