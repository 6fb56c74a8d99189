"""The plan of removed channels: which indices of each tensor stay, and what layers then say of their own sizes.

It is made once (channels.py), lies in the run folder as pruning-plan.json, and job.yaml has its SHA-256. Whoever builds
the network cuts it down by the plan alone (`shrink`), without tracing it again: ranks, resume, evaluation, export.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from megabatch.configs.job import Job
from megabatch.configs.pruning import Channels, plan_hash
from megabatch.configs.run_dir import RunDir
from megabatch.trainer.errors import TrainingError

Kept = dict[str, list[int]]  # by dimension, which is text in JSON


@dataclass(frozen=True)
class Plan:
    """`tensors` leads from names of parameters and buffers to the indices that stay in each dimension that is cut.

    `attributes` leads from names of layers to the numbers that change in them (`out_channels`, ...). Sizes are those
    before and after, `flops` of one image.
    """

    tensors: dict[str, Kept]
    attributes: dict[str, dict[str, Any]]  # Any: an integer, or a list of them
    flops: tuple[int, int]
    parameters: tuple[int, int]
    format: str = "megabatch-pruning-plan-1"

    def to_json(self) -> str:
        """Return the plan as JSON text."""
        return json.dumps(asdict(self), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Plan:
        """Return the plan that `to_json` gave."""
        values = json.loads(text)
        return cls(**{**values, "flops": tuple(values["flops"]), "parameters": tuple(values["parameters"])})

    def line(self) -> str:
        """Return in words what the plan does to a network."""
        before, after = self.parameters
        return (
            f"pruning: channels, {after:,} of {before:,} parameters stay and {self.flops[1] / self.flops[0]:.1%} of "
            "the operations"
        )


def plan_of(job: Job, run_dir: RunDir | None = None) -> Plan | None:
    """Return the plan of a job, from its run folder, or before that from the run it inherits it from.

    None if there is none, or if it is still to be made.

    Raises TrainingError if the file is not the one that the job names.
    """
    expected = plan_hash(job.recipe.pruning)
    if expected is None or (run_dir is None and isinstance(job.recipe.pruning, Channels)):
        return None
    file = run_dir.pruning_plan if run_dir is not None else _of_source(job)
    try:
        text = file.read_text(encoding="utf-8")
    except OSError as error:
        raise TrainingError(
            f"{file} cannot be read ({error.strerror}), and without it nobody knows which channels the network of "
            f"{file.parent} has. Put it back"
        ) from error
    if hashlib.sha256(text.encode()).hexdigest() != expected:
        raise TrainingError(f"{file} changed since the job was written: put the old file back")
    return Plan.from_json(text)


def _of_source(job: Job) -> Path:
    pretrained = job.recipe.model.pretrained
    assert pretrained is not None, "launcher/refusals/ refuses it"
    return RunDir((Path(job.working_folder) / pretrained.source).parents[1]).pruning_plan


@torch.no_grad()
def shrink(network: nn.Module, plan: Plan) -> None:
    """Cut the network down to what the plan leaves. Raises TrainingError if the plan is of another network."""
    try:
        for name, kept in plan.tensors.items():
            layer, _, own_name = name.rpartition(".")
            _replace(network.get_submodule(layer), own_name, kept)
        for layer, values in plan.attributes.items():
            module = network.get_submodule(layer)
            for attribute, value in values.items():
                setattr(module, attribute, tuple(value) if isinstance(getattr(module, attribute), tuple) else value)
    except (AttributeError, KeyError, IndexError, RuntimeError) as error:
        raise TrainingError(
            f"the plan of removed channels is of another network ({error}): was model.name, model.options or its code "
            "changed?"
        ) from error


def _replace(layer: nn.Module, name: str, kept: Kept) -> None:
    old = getattr(layer, name)
    new = _cut(old.detach(), kept)
    setattr(layer, name, nn.Parameter(new, old.requires_grad) if isinstance(old, nn.Parameter) else new)


def _cut(tensor: torch.Tensor, kept: Kept) -> torch.Tensor:
    for dimension, indices in kept.items():
        tensor = tensor.index_select(int(dimension), torch.tensor(indices, device=tensor.device))
    return tensor.clone()


def silenced(tensors: dict[str, torch.Tensor], plan: Plan) -> dict[str, torch.Tensor]:
    """Return tensors of the whole network with zeros where the plan removes something: it then predicts alike.

    But for layer and group norms over what was removed, whose statistics the zeros still change.
    """
    quiet = dict(tensors)
    for name, kept in plan.tensors.items():
        quiet[name] = tensors[name].clone()
        for dimension, indices in kept.items():
            gone = sorted(set(range(quiet[name].shape[int(dimension)])) - set(indices))
            quiet[name].index_fill_(int(dimension), torch.tensor(gone, dtype=torch.int64), 0.0)
    return quiet
