"""The engines a recipe can name: how gradients and parameters are shared among ranks."""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from megabatch.configs.base import (
    Choice,
    EnvironmentText,
    NonNegativeInt,
    PositiveInt,
    name_only,
)

Even = Annotated[int, Field(gt=0, multiple_of=2)]


class DdpOptions(Choice):
    """What torch's DistributedDataParallel can be told, whoever makes it."""

    name: str
    bucket_megabytes: PositiveInt = 25
    find_unused_parameters: bool = False
    static_graph: bool = False
    gradient_compression: Literal["none", "fp16", "bf16"] = "none"

    @model_validator(mode="after")
    def _one_search_is_enough(self) -> Self:
        if self.static_graph and self.find_unused_parameters:
            raise ValueError("static_graph finds unused parameters by itself: leave find_unused_parameters out")
        return self


class Ddp(DdpOptions):
    """torch DistributedDataParallel: a full copy of the model on every rank.

    `static_graph` promises that every micro-batch goes through the same parameters in the same order.
    `gradient_compression` sends gradients in 16 bits: half the bytes, and rounded sums (docs/engines.md).
    """

    implementation: ClassVar[str] = "megabatch.trainer.engines.ddp:DdpEngine"
    name: Literal["ddp"] = "ddp"


class Fsdp(Choice):
    """torch FSDP2: parameters, gradients and the optimizer's state are cut among the ranks, and put together in groups.

    A group is a module with `min_parameters` or more, or one that a pattern of `wrap` names (`blocks.*`).
    `reshard_after_forward: false` keeps the parameters together from the forward to the backward pass: less to send,
    more memory. `reduce_every_micro_batch` sums gradients after each micro-batch instead of once a step: more to send,
    less memory. `parameter_dtype: bf16` sends parameters in 16 bits (beside `precision: bf16`; those of norms stay in
    32), `reduce_dtype` is what gradients are summed in.
    """

    implementation: ClassVar[str] = "megabatch.trainer.engines.fsdp:FsdpEngine"
    name: Literal["fsdp"] = "fsdp"
    min_parameters: PositiveInt = 1_000_000
    wrap: tuple[Annotated[str, Field(min_length=1)], ...] = ()
    reshard_after_forward: bool = True
    reduce_every_micro_batch: bool = False
    parameter_dtype: Literal["bf16"] | None = None
    reduce_dtype: Literal["fp32", "bf16"] | None = None


class Accelerate(DdpOptions):
    """DistributedDataParallel as Hugging Face accelerate prepares it; needs `pip install accelerate`.

    `config_file` names a file that `accelerate config` wrote: it must agree with recipe and cluster (docs/engines.md).
    The other keys are those of `ddp`.
    """

    implementation: ClassVar[str] = "megabatch.trainer.engines.accelerate:AccelerateEngine"
    name: Literal["accelerate"] = "accelerate"
    config_file: str | None = None


class DeepSpeed(Choice):
    """DeepSpeed: each rank keeps a share of the optimizer's state (stage 1), the gradients (2), the weights (3).

    Stage 0 shares nothing. Sizes are in elements; null is DeepSpeed's own default. `offload_optimizer: cpu` keeps the
    optimizer's state and its update on the CPU. `config_file` is a JSON file of DeepSpeed's; the job keeps what it says
    under `config`, where the same can be written instead. `zero_stage: null` is the stage of the file, or 1.
    """

    implementation: ClassVar[str] = "megabatch.trainer.engines.deepspeed:DeepSpeedEngine"
    name: Literal["deepspeed"] = "deepspeed"
    zero_stage: Annotated[int, Field(ge=0, le=3)] | None = None
    offload_optimizer: Literal["cpu"] | None = None
    reduce_bucket_size: PositiveInt | None = None
    allgather_bucket_size: Even | None = None
    sub_group_size: PositiveInt | None = None
    stage3_param_persistence_threshold: NonNegativeInt | None = None
    stage3_prefetch_bucket_size: NonNegativeInt | None = None
    stage3_max_live_parameters: NonNegativeInt | None = None
    stage3_max_reuse_distance: NonNegativeInt | None = None
    config_file: EnvironmentText | None = None
    config: dict[str, Any] = {}  # Any: JSON

    @property
    def stage(self) -> int:
        """Return the stage of ZeRO."""
        if self.zero_stage is not None:
            return self.zero_stage
        stage = self.config.get("zero_optimization", {}).get("stage", 1)
        return stage if isinstance(stage, int) else 1  # "auto"

    @property
    def shown_config(self) -> str:
        """Return where DeepSpeed's own keys stand."""
        return self.config_file or "engine.config"

    @property
    def zero_options(self) -> dict[str, Any]:  # Any: JSON
        """Return what is set of the options that are keys of DeepSpeed's `zero_optimization`, by its names."""
        options = {name: getattr(self, name) for name in (*_OF_ANY_STAGE, *_OF_STAGES_1_2, *_OF_STAGE_3)}
        if self.offload_optimizer is not None:
            options["offload_optimizer"] = {"device": self.offload_optimizer}
        return {name: value for name, value in options.items() if value is not None}

    @model_validator(mode="after")
    def _options_of_the_stage(self) -> Self:
        if self.config_file is not None and not self.config:
            return self  # the file, which may say the stage, is read at the launch
        zero = self.config.get("zero_optimization", {})
        if not isinstance(zero, dict) or zero.get("stage", 1) not in (0, 1, 2, 3, "auto"):
            raise ValueError(f"{self.shown_config}: zero_optimization is a mapping, with a stage of 0 to 3")
        allowed: tuple[str, ...] = () if self.stage == 0 else (*_OF_ANY_STAGE, "offload_optimizer")
        allowed += {0: (), 3: _OF_STAGE_3}.get(self.stage, _OF_STAGES_1_2)
        idle = [name for name in self.zero_options if name not in allowed]
        if idle:
            verb = "does" if len(idle) == 1 else "do"
            raise ValueError(f"{', '.join(idle)} {verb} nothing with zero_stage {self.stage}: leave out")
        return self


_OF_ANY_STAGE = ("reduce_bucket_size",)
_OF_STAGES_1_2 = ("allgather_bucket_size",)
_OF_STAGE_3 = (
    "sub_group_size", "stage3_param_persistence_threshold", "stage3_prefetch_bucket_size",
    "stage3_max_live_parameters", "stage3_max_reuse_distance",
)  # fmt: skip

Engine = Annotated[Ddp | Fsdp | Accelerate | DeepSpeed, Field(discriminator="name"), BeforeValidator(name_only)]
