"""The recipe: everything that decides what is trained and with which result. Knows nothing of machines."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import Field, model_validator

from megabatch.configs.averaging import Averaging
from megabatch.configs.base import Frozen, NonNegativeInt, PositiveInt
from megabatch.configs.batch import Batch
from megabatch.configs.continual import Continual
from megabatch.configs.data import Data
from megabatch.configs.distillation import Distillation
from megabatch.configs.engines import Ddp, Engine
from megabatch.configs.evaluation import Checkpoint, Evaluation
from megabatch.configs.losses import CrossEntropy, Loss
from megabatch.configs.model import Model
from megabatch.configs.optimizers import Optimizer
from megabatch.configs.precision import Fp32, Precision
from megabatch.configs.pruning import Pruning
from megabatch.configs.quantization import Quantization
from megabatch.configs.regularization import Regularization
from megabatch.configs.schedules import Cosine, Schedule
from megabatch.configs.stability import Stability
from megabatch.configs.targets import ClassTarget, main_metric
from megabatch.configs.tracking import Tracking

Name = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_.\-]{0,79}$")]


class Recipe(Frozen):
    """What a run is. Two runs of one recipe on different clusters take the same steps over the same samples."""

    name: Name
    seed: NonNegativeInt = 0
    epochs: PositiveInt
    data: Data
    model: Model
    batch: Batch
    loss: Loss = CrossEntropy()
    distillation: Distillation | None = None
    optimizer: Optimizer
    schedule: Schedule = Cosine()
    precision: Precision = Fp32()
    engine: Engine = Ddp()
    regularization: Regularization = Regularization()
    averaging: Averaging | None = None
    pruning: Pruning | None = None
    quantization: Quantization | None = None
    continual: Continual | None = None
    stability: Stability = Stability()
    evaluation: Evaluation = Evaluation()
    checkpoint: Checkpoint = Checkpoint()
    tracking: Tracking = Tracking()
    deterministic: bool = True

    @model_validator(mode="after")
    def _stages_say_what_is_new(self) -> Self:
        if self.continual is None:
            return self
        data = self.data
        taken = {
            "data.sources": data.sources, "data.classes": data.classes, "data.train_stream": data.train_stream,
            "distillation": self.distillation, "pruning": self.pruning, "regularization.ewc": self.regularization.ewc,
            "loss.class_weights": getattr(self.loss, "class_weights", None),
        }  # fmt: skip
        wrong = [key for key, value in taken.items() if value]
        if wrong:
            raise ValueError(f"continual: the stages say what is trained on, and from whom: leave out {wrong[0]}")
        if not isinstance(data.target, ClassTarget):
            raise ValueError(f"continual: stages are told apart by classes: leave out data.target={data.target.name}")
        if data.test_split is None and data.validation_split is None:
            raise ValueError("continual: forgetting is measured: write data.test_split or data.validation_split")
        return self

    @property
    def kept_checkpoints(self) -> int:
        """Return how many checkpoints a run keeps: the last, the best, those it may go back to, those kept for good."""
        for_good = sum(self.kept_for_good(epoch) for epoch in range(1, self.epochs + 1))
        return self.checkpoint.keep_last + (3 if self.stability.rolls_back else 1) + for_good

    def kept_for_good(self, epoch: int) -> bool:
        """Return whether the checkpoint after `epoch` whole epochs is never deleted."""
        return self.checkpoint.kept_for_good(epoch) or self.schedule.ends_cycle(epoch, self.epochs)

    @property
    def metric(self) -> str:
        """Return the metric by which checkpoints are compared, a key of configs/targets.py:METRICS."""
        return self.evaluation.metric or main_metric(self.data.target)
