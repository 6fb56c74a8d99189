"""Loads the networks that teach: whole, for evaluation only, and with the pixels scaled as each was trained with."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import torch
from torch import Tensor, nn

from megabatch.configs.distillation import Teacher
from megabatch.configs.job import Job
from megabatch.configs.normalization import Fixed, Normalization, scaled_from
from megabatch.trainer.errors import TrainingError, first_line
from megabatch.trainer.models.load import load_model
from megabatch.trainer.network import replace_activations, replace_batch_norms
from megabatch.trainer.pretrained.load import load_weights
from megabatch.trainer.pretrained.read import read_weights

Rescale = Callable[[Tensor], Tensor]


class LoadedTeacher(NamedTuple):
    """A teacher's network, its share of what is taught, and its name for messages."""

    network: nn.Module
    share: float
    source: str

    def line(self) -> str:
        """Return it in words, for the plan."""
        parameters = sum(parameter.numel() for parameter in self.network.parameters())
        return f"teacher: {self.source}, {parameters:,} parameters, share {self.share:.3g}"


def load_teachers(job: Job, outputs: int) -> list[LoadedTeacher]:
    """Return the teachers of a job on the CPU, in float32, in evaluation mode and without gradients.

    They have `outputs` outputs, or as many as the recipe says that they know. Draws nothing from torch's generator.
    Raises TrainingError for one that is gone, changed, or does not fit.
    """
    settings = job.recipe.distillation
    if settings is None:
        return []
    if settings.outputs is not None:
        outputs = len(settings.outputs)
    total = sum(teacher.weight for teacher in settings.teachers)
    with torch.random.fork_rng(devices=[]):
        return [
            LoadedTeacher(
                _network(teacher, job, outputs, f"distillation.teachers.{number}"),
                teacher.weight / total,
                teacher.source,
            )
            for number, teacher in enumerate(settings.teachers)
        ]


def _network(teacher: Teacher, job: Job, outputs: int, key: str) -> nn.Module:
    assert teacher.model is not None, "the launcher writes it into the job"
    settings, size = teacher.model.model, job.recipe.data.image_size
    network = load_model(settings, outputs)
    if settings.activation is not None:
        replace_activations(network, settings.activation, size)
    if settings.replace_batch_norm is not None:
        replace_batch_norms(network, settings.replace_batch_norm)
    began = load_weights(network, read_weights(teacher, Path(job.working_folder), key), key)
    if began.missing or began.other_shape:
        raise TrainingError(
            f"{key}: the weights of {teacher.source} do not fit its network, {settings.name} with {outputs} outputs: "
            + "; ".join(line.strip() for line in began.lines()[1:])
        )
    network.eval().requires_grad_(False)
    try:
        with torch.no_grad():
            shape = tuple(network(torch.zeros(2, 3, size, size)).shape)
    except Exception as error:  # a network may do anything with images it was not made for
        raise TrainingError(
            f"{key}: images of {size} x {size} do not pass {teacher.source}: {first_line(error)}"
        ) from error
    if shape != (2, outputs):
        raise TrainingError(f"{key}: the output of {teacher.source} is {shape} for 2 images, not {(2, outputs)}")
    return network


def rescaling(
    own: Normalization, its: Normalization | None, device: torch.device, dtype: torch.dtype
) -> Rescale | None:
    """Return what makes pixels that were scaled by `own` those scaled by `its`; None where that is the same.

    The scaling is linear, so it holds for mixed images too.
    """
    if its in (None, own):
        return None
    assert isinstance(own, Fixed)
    assert isinstance(its, Fixed), "launcher/teachers.py refuses others"
    scale_C11, shift_C11 = (
        torch.tensor(values_C, dtype=torch.float64).to(device, dtype)[:, None, None]
        for values_C in scaled_from(own, its)
    )
    return lambda images_NCHW: images_NCHW * scale_C11 + shift_C11
