"""Continual learning: a training in stages, each with new data, and what keeps it from forgetting the earlier ones."""

from __future__ import annotations

from typing import Annotated, Any, Self

from pydantic import Field, model_validator

from megabatch.configs.base import EnvironmentText, Frozen, PositiveFloat, PositiveInt
from megabatch.configs.pretrained import WeightsSource

Share = Annotated[float, Field(gt=0, lt=1)]
# What a stage may change: how it is trained. What is trained, on what, is the same network that goes on.
CHANGEABLE = (
    "batch", "loss", "optimizer", "schedule", "precision", "regularization", "averaging", "stability", "evaluation",
    "checkpoint", "tracking",
)  # fmt: skip


class Stage(Frozen):
    """What a stage brings: some `classes`, or all those of a data set. Without `path` they are of `data.path`.

    `epochs` and `changes` (`optimizer.base_learning_rate: 0.001`, as on the command line) are for this stage alone.
    """

    path: EnvironmentText | None = None
    classes: tuple[str, ...] = ()
    epochs: PositiveInt | None = None
    changes: dict[str, Any] = {}  # Any: the values of any keys

    @model_validator(mode="after")
    def _changes_how_it_trains(self) -> Self:
        wrong = [key for key in self.changes if key.partition(".")[0] not in CHANGEABLE]
        if wrong:
            raise ValueError(f"changes: {wrong[0]}: a stage can change keys of {', '.join(CHANGEABLE)}")
        twice = [name for number, name in enumerate(self.classes) if name in self.classes[:number]]
        if twice:
            raise ValueError(f"classes: {twice[0]} comes twice")
        return self


class Replay(Frozen):
    """A share of what is trained on are samples of earlier stages, out of a buffer of at most `samples` of them.

    The buffer has the same number of each class of each earlier stage.
    """

    samples: PositiveInt
    share: Share = 0.5


class Ewc(Frozen):
    """Elastic weight consolidation: what mattered to earlier stages moves less (Kirkpatrick et al. 2017).

    The Fisher information of a stage is estimated with `samples` of its training samples.
    """

    strength: PositiveFloat
    samples: PositiveInt = 1000


class Lwf(Frozen):
    """Learning without forgetting (Li and Hoiem 2016): the network of the stage before teaches the classes it knows."""

    temperature: PositiveFloat = 2.0
    share: Share = 0.5


class Continual(Frozen):
    """Stages that are trained one after the other, each going on with the network of the one before.

    Every stage is a run of its own in RUN_DIR/stages; docs/continual.md has what is measured after each.
    """

    stages: tuple[Stage, ...]
    replay: Replay | None = None
    ewc: Ewc | None = None
    lwf: Lwf | None = None

    @model_validator(mode="after")
    def _more_than_one(self) -> Self:
        if len(self.stages) < 2:
            raise ValueError("stages: write at least two; one alone is an ordinary run (data.classes, data.sources)")
        return self


class ElasticWeights(WeightsSource):
    """The penalty `strength / 2 * sum F * (w - w0)**2` (Kirkpatrick et al. 2017, equation 3); its gradient is added.

    `source` is a file with F and w0 that a stage wrote (`ewc.safetensors`); the launcher writes its SHA-256.
    """

    strength: PositiveFloat
