"""The loss of a step with teachers: share * distance to what they say + (1 - share) * the recipe's own loss.

Every rank has every teacher, whole. They see what the student sees, augmented and mixed, in the same number format.
They are loaded when the first micro-batch asks for them, so an evaluation of the student needs none. They are no part
of a checkpoint: job.yaml has their SHA-256. Where they know some of the classes alone, they are compared on those.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property

import torch
from torch import Tensor, nn

from megabatch.configs.distillation import form_of
from megabatch.configs.job import Job
from megabatch.trainer.distillation.losses import distance, teaching
from megabatch.trainer.distillation.teachers import Rescale, load_teachers, rescaling
from megabatch.trainer.precision import PrecisionPolicy


class Distiller:
    """Mixes the distance to the teachers into the losses of a micro-batch, and adds it up over a step."""

    def __init__(self, job: Job, outputs: int, precision: PrecisionPolicy):
        assert job.recipe.distillation is not None
        self._job, self._outputs, self._precision = job, outputs, precision
        self._settings = job.recipe.distillation
        self._form = form_of(job.recipe.data.target, job.recipe.loss)
        known = self._settings.outputs
        assert known != "by_class", "the launcher writes the numbers into the job"
        self._known_J = None if known is None else torch.tensor(known, device=precision.device)
        self._distances_N: Tensor | None = None
        self._sums: list[Tensor] = []

    @cached_property
    def _teachers(self) -> list[tuple[nn.Module, float, Rescale | None]]:
        device, dtype = self._precision.device, self._precision.parameter_dtype
        own = self._job.recipe.data.normalize
        return [
            (network.to(device, dtype), share, rescaling(own, teacher.normalize, device, dtype))
            for (network, share, _), teacher in zip(
                load_teachers(self._job, self._outputs), self._settings.teachers, strict=True
            )
        ]

    def mixed(self, losses_N: Tensor, outputs_NK: Tensor, images_NCHW: Tensor) -> Tensor:
        """Return the losses to train with. Must be called within the autocast of the student."""
        if not len(images_NCHW):  # a filler
            self._distances_N = losses_N.detach()
            return losses_N
        taught_NK = self._taught(images_NCHW)
        known_NJ = outputs_NK if self._known_J is None else outputs_NK.index_select(1, self._known_J)
        distances_N = distance(self._form, known_NJ, taught_NK, self._settings.temperature)
        self._distances_N = distances_N.detach()
        share = self._settings.share
        return distances_N if share == 1 else share * distances_N + (1 - share) * losses_N

    def collect(self, factors_N: Tensor) -> None:
        """Take note of what each sample of the micro-batch counts in the mean over the step."""
        assert self._distances_N is not None
        self._sums.append(self._distances_N.double() @ factors_N.double())

    def of_step(self, step: int, sum_over_ranks: Callable[[Tensor], None]) -> float | None:
        """Return the sum of what was collected, over all ranks, in a step that is logged; begin the next step."""
        sums, self._sums = self._sums, []
        if (step + 1) % self._job.recipe.tracking.every_steps:
            return None
        total = torch.stack(sums).sum()
        sum_over_ranks(total)
        return float(total)

    @torch.no_grad()
    def _taught(self, images_NCHW: Tensor) -> Tensor:
        outputs = [
            network(images_NCHW if rescale is None else rescale(images_NCHW)) for network, _, rescale in self._teachers
        ]
        return teaching(self._form, outputs, [share for _, share, _ in self._teachers], self._settings.temperature)
