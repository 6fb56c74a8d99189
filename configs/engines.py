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


class Ddp(Choice):
    """torch DistributedDataParallel: a full copy of the model on every rank."""

    implementation: ClassVar[str] = "megabatch.trainer.engines.ddp:DdpEngine"
    name: Literal["ddp"] = "ddp"
    bucket_megabytes: PositiveInt = 25
    find_unused_parameters: bool = False
    together: ClassVar[bool] = False


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
    def together(self) -> bool:
        """Return whether ranks wait for each other in every micro-batch, so that each needs as many as the others."""
        return self.stage >= 2

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

Engine = Annotated[Ddp | DeepSpeed, Field(discriminator="name"), BeforeValidator(name_only)]
