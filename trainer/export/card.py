"""What a user of exported weights has to know, as plain JSON: the network, what it is fed, and what comes out."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from importlib.metadata import version
from typing import Any, Literal

import torch

from megabatch.configs.job import Job
from megabatch.configs.load import validate
from megabatch.configs.model import Model
from megabatch.configs.yaml_tree import Tree
from megabatch.trainer.outputs import Outputs
from megabatch.trainer.pruning.plan import Plan

KEY = "megabatch"  # of the metadata of safetensors and ONNX files
FILE = "megabatch.json"  # in the archive of TorchScript and of exported programs, and in the folder of timm


@dataclass(frozen=True)
class Card:
    """Goes with every exported network. `normalize` is what was done to pixels before the network saw them."""

    run: str
    checkpoint: str
    weights: Literal["averaged", "raw"]
    model: dict[str, Any]  # Any: plain JSON values, here and below
    image_size: int
    normalize: dict[str, Any]
    evaluation_transforms: list[dict[str, Any]]
    target: dict[str, Any]
    outputs: int
    names: tuple[str, ...]
    trained_in: str
    versions: dict[str, str]
    input: str = "float32 images (N, 3, image_size, image_size), RGB, scaled as `normalize` says; any N"
    output: str = "float32 (N, outputs): logits of classes, or numbers; names has theirs in this order"
    pruning: dict[str, Any] | None = None  # the plan of removed channels (trainer/pruning/plan.py)
    quantization: dict[str, Any] | None = None  # as in the recipe; weights in a file are already so
    format: Literal["megabatch-model-1"] = "megabatch-model-1"

    @property
    def settings(self) -> Model:
        """Return the network as a recipe would write it."""
        return validate(Model, Tree(self.model, {(): FILE}))

    def to_json(self) -> str:
        """Return the card as JSON text."""
        return json.dumps(asdict(self), indent=1)

    @classmethod
    def from_json(cls, text: str) -> Card:
        """Return the card that `to_json` gave."""
        values = json.loads(text)
        return cls(**{**values, "names": tuple(values["names"])})


def card_of(
    job: Job, outputs: Outputs, checkpoint: str, weights: Literal["averaged", "raw"], plan: Plan | None = None
) -> Card:
    """Return the card of a checkpoint of a run."""
    recipe = job.recipe
    values, model = recipe.model_dump(mode="json"), recipe.model.without_weights().model_dump(mode="json")
    data = values["data"]
    return Card(
        run=recipe.name,
        checkpoint=checkpoint,
        weights=weights,
        model={key: model[key] for key in ("name", "options", "activation", "replace_batch_norm")},
        image_size=recipe.data.image_size,
        normalize=data["normalize"],
        evaluation_transforms=data["evaluation_transforms"],
        target=data["target"],
        outputs=outputs.number,
        names=outputs.names,
        trained_in=recipe.precision.name,
        pruning=asdict(plan) if plan is not None else None,
        quantization=values["quantization"],
        versions={"megabatch": version("megabatch"), "torch": torch.__version__},
    )
