"""The options of the model `ensemble`: which networks it is made of, and how their outputs become those of one network.

They stand in `model.options` of an ordinary recipe, so whatever knows a network knows an ensemble.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal, Self

from pydantic import Field, model_validator

from megabatch.configs.base import Frozen, PositiveFloat
from megabatch.configs.distillation import Form, TeacherNetwork
from megabatch.configs.job import Job
from megabatch.configs.load import validate
from megabatch.configs.model import Model
from megabatch.configs.normalization import Auto, Fixed, Normalization
from megabatch.configs.yaml_tree import Tree

MODEL = "megabatch.trainer.models.ensemble:ensemble"
Average = Literal["probabilities", "logits"]


class Member(TeacherNetwork):
    """A network of the ensemble: the keys of `model` that build it, and how pixels were scaled for it (`fixed` alone).

    `pruning_plan` is the text of the pruning-plan.json of a network that has lost channels.
    """

    normalize: Fixed | None = None
    pruning_plan: str | None = None


class EnsembleOptions(Frozen):
    """`weights` are shares of the members, made to add up to 1 (default: equal ones).

    `average: probabilities` is the arithmetic mean of what members predict, `logits` that of their outputs. `form` says
    what outputs mean: softmax (one class), sigmoid (labels), squared_error (numbers; their mean either way).
    `normalize` is how the pixels that come in are scaled.
    `share_until` names a layer: up to there all members use the layers of the first one, and each has its own above.
    With `learn_weights` the weights are trained too.
    """

    members: Annotated[tuple[Member, ...], Field(min_length=1)]
    weights: tuple[PositiveFloat, ...] | None = None
    average: Average = "probabilities"
    form: Form = "softmax"
    normalize: Normalization | None = None
    share_until: str | None = None
    learn_weights: bool = False

    @model_validator(mode="after")
    def _fit_together(self) -> Self:
        if self.weights is not None and len(self.weights) != len(self.members):
            raise ValueError(f"weights: {len(self.weights)} of them for {len(self.members)} members")
        if isinstance(self.normalize, Auto):
            raise ValueError("normalize: auto is for data.normalize: write the numbers here")
        scaled = [member.normalize for member in self.members if member.normalize is not None]
        if scaled and not isinstance(self.normalize, Fixed):
            raise ValueError("normalize: members that name theirs need the `fixed` numbers of the pixels that come in")
        return self

    @property
    def shares(self) -> tuple[float, ...]:
        """Return the weights, which add up to 1."""
        weights = self.weights or (1.0,) * len(self.members)
        return tuple(weight / sum(weights) for weight in weights)


def read_options(options: dict[str, Any]) -> EnsembleOptions:  # Any: what stands in model.options
    """Return `model.options` of an ensemble, checked. Raises ConfigError with every problem."""
    return validate(EnsembleOptions, Tree(dict(options), {(): "model.options"}))


def ensemble_model(options: EnsembleOptions) -> Model:
    """Return the network as a recipe has it."""
    values = options.model_dump(mode="json", exclude_none=True)
    return Model(name=MODEL, options={key: value for key, value in values.items() if value is not False})


def with_weights(job: Job, weights: Sequence[float]) -> Job:
    """Return the job of an ensemble with these weights; a member of weight 0 is left out."""
    options = read_options(job.recipe.model.options)
    kept = [number for number, weight in enumerate(weights) if weight > 0]
    changed = {"members": tuple(options.members[n] for n in kept), "weights": tuple(weights[n] for n in kept)}
    model = ensemble_model(options.model_copy(update=changed))
    return job.model_copy(update={"recipe": job.recipe.model_copy(update={"model": model})})
