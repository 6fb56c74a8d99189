"""Teachers: trained networks whose predictions a training follows beside its own targets."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import BeforeValidator, Field, model_validator

from megabatch.configs.base import Frozen, Options, PositiveFloat
from megabatch.configs.losses import BinaryCrossEntropy, Focal, Huber, Loss, MeanAbsoluteError, MeanSquaredError
from megabatch.configs.model import Activation, Model, ModelName, ReplaceBatchNorm
from megabatch.configs.normalization import Auto, Normalization
from megabatch.configs.pretrained import Outputs, WeightsSource, source_only
from megabatch.configs.targets import LabelsTarget, NumbersTarget, Target

Form = Literal["softmax", "sigmoid", "squared_error"]


class TeacherNetwork(Frozen):
    """What builds a teacher: the keys of `model` that make a network what it is."""

    name: ModelName
    options: Options = {}  # the keyword arguments of somebody else's model
    activation: Activation | None = None
    replace_batch_norm: ReplaceBatchNorm | None = None

    @property
    def model(self) -> Model:
        """Return it as a recipe has it."""
        return Model(**{key: getattr(self, key) for key in TeacherNetwork.model_fields})

    @classmethod
    def of(cls, model: Model) -> TeacherNetwork:
        """Return what builds the network of a recipe."""
        return cls(**{key: getattr(model, key) for key in cls.model_fields})


class Teacher(WeightsSource):
    """A run folder, one of its checkpoints, or a file of weights with `model`, the network that it fits.

    A run says itself how its network is built and how pixels are scaled for it: the launcher writes both into job.yaml.
    Of a file you write them; without `normalize` it is `data.normalize`. `weight` is its share among several teachers.
    """

    weight: PositiveFloat = 1.0
    model: TeacherNetwork | None = None
    normalize: Normalization | None = None

    @model_validator(mode="after")
    def _is_a_network_of_known_classes(self) -> Self:
        if self.of_timm:
            raise ValueError("timm's weights are for classes of their own: fine-tune them first, and name that run")
        if isinstance(self.normalize, Auto):
            raise ValueError(
                "normalize: auto is for data.normalize: write the numbers that the teacher was trained with"
            )
        return self


class Distillation(Frozen):
    """The loss is `share * T**2 * KL(teachers || student) + (1 - share) * loss` (Hinton, Vinyals and Dean 2015).

    Both distributions are softened: softmax of logits / T, T the temperature; that of several teachers is their
    weighted mean. docs/distillation.md has the formulas for other losses and targets.

    Teachers that know only some of the classes need `outputs: by_class`: student and teachers are then compared on the
    outputs of those classes alone (Li and Hoiem 2016, learning without forgetting). The launcher writes the numbers.
    With `loss_over: other` the recipe's own loss is over the other classes alone, of which all samples must then be.
    """

    teachers: Annotated[tuple[Annotated[Teacher, BeforeValidator(source_only)], ...], Field(min_length=1)]
    outputs: Outputs | None = None
    loss_over: Literal["all", "other"] = "all"
    temperature: PositiveFloat = 4.0
    share: Annotated[float, Field(gt=0, le=1)] = 0.9

    @model_validator(mode="after")
    def _there_are_other_classes(self) -> Self:
        if self.loss_over == "other" and self.outputs is None:
            raise ValueError("loss_over: other is for teachers that know some of the classes: write outputs: by_class")
        return self


def other_outputs(settings: Distillation | None, number: int) -> tuple[int, ...] | None:
    """Return the outputs that the recipe's own loss is over; None for all of them."""
    if settings is None or settings.loss_over == "all":
        return None
    assert isinstance(settings.outputs, tuple), "the launcher writes the numbers into the job"
    return tuple(output for output in range(number) if output not in settings.outputs)


def form_of(target: Target, loss: Loss) -> Form:
    """Return how outputs are compared with the teachers': as the recipe's loss reads them."""
    if isinstance(target, NumbersTarget) or isinstance(loss, MeanSquaredError | Huber | MeanAbsoluteError):
        return "squared_error"
    if isinstance(target, LabelsTarget) or isinstance(loss, BinaryCrossEntropy | Focal):
        return "sigmoid"
    return "softmax"
