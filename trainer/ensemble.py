"""`megabatch ensemble`, on the ranks: evaluates members and ensemble in one pass, weighs the members, saves it all.

Shapes: N samples of a split, M members, K outputs.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from megabatch.configs.distillation import Form
from megabatch.configs.ensemble import read_options, with_weights
from megabatch.configs.job import Job
from megabatch.configs.targets import ClassTarget, higher_is_better
from megabatch.trainer import checkpoint, mixture
from megabatch.trainer.build import Parts
from megabatch.trainer.errors import TrainingError, first_line
from megabatch.trainer.evaluate import Evaluated, EvaluationResult, plain_loss
from megabatch.trainer.finished_run import write_finished
from megabatch.trainer.metrics import gathered
from megabatch.trainer.models.ensemble import Ensemble
from megabatch.trainer.models.load import load_model
from megabatch.trainer.outputs import read_outputs
from megabatch.trainer.precision import exact
from megabatch.trainer.sharding import Tensors
from megabatch.trainer.sizes import measured

Array = NDArray[np.float64]


def combine(parts: Parts, members: list[str], weights: str) -> dict[str, Any]:
    """Evaluate the ensemble of these checkpoint folders, and save it as the checkpoint of the run folder.

    `weights` is "given" (those of the recipe), "fitted" or "greedy" (chosen on the validation split). Raises
    TrainingError where a network does not fit its recipe.
    """
    network, data = parts.step_parts.engine.network, parts.job.recipe.data
    assert isinstance(network, Ensemble)
    form = read_options(parts.job.recipe.model.options).form
    tensors = _loaded(parts, members)
    shares = np.array(read_options(parts.job.recipe.model.options).shares)
    validation = None
    if data.validation_split is not None:
        validation = _watched(parts, network, data.validation_split, None if weights == "given" else form)
        if validation.scores_RM is not None:
            choose = {"fitted": mixture.fitted, "greedy": mixture.greedy}[weights]
            shares = choose(validation.scores_RM, form == "squared_error")
            network.set_weights(shares)
            validation = _watched(parts, network, data.validation_split, None)
    test = _watched(parts, network, data.test_split, None) if data.test_split is not None else None
    job = with_weights(parts.job, shares.tolist())
    kept = _kept(tensors, np.flatnonzero(shares).tolist())
    write_finished(
        parts, job, kept, validation.ensemble if validation else None, test.ensemble.to_json() if test else None,
        {"ensemble": members},
    )  # fmt: skip
    metric = parts.job.recipe.metric
    return {
        "weights": shares.tolist(),
        "validation": validation.to_json(metric) if validation is not None else None,
        "test": test.to_json(metric) if test is not None else None,
        "sizes": _sizes(parts, tensors, job, kept) if parts.world.is_main else [],
    }


@dataclass
class Seen:
    """What an evaluation of a split found of the ensemble and of each member, with one row for each sample.

    `losses` and `hits` have a column for each member and a last one for the ensemble.
    """

    ensemble: EvaluationResult
    members: list[EvaluationResult]
    losses_NM: Array
    hits_NM: Array | None
    scores_RM: Array | None

    def to_json(self, metric: str) -> dict[str, Any]:
        """Return the results, and how the ensemble compares with its best member."""
        values = [member.value(metric) for member in self.members]
        best = values.index(max(values) if higher_is_better(metric) else min(values))
        return {
            "ensemble": self.ensemble.to_json(),
            "members": [member.to_json() for member in self.members],
            "best_member": best,
            "gain": self._gain(best),
        }

    def _gain(self, best: int) -> dict[str, Any]:
        """Return by how much the ensemble is better than a member on the same samples, and whether by chance."""
        if self.hits_NM is None:
            gain, error = mixture.gain_of(self.losses_NM[:, best] - self.losses_NM[:, -1])
            return {"metric": "loss", "gain": gain, "standard_error": error}
        only_N = self.hits_NM[:, -1] - self.hits_NM[:, best]
        gain, error = mixture.gain_of(only_N)
        right, wrong = int((only_N > 0).sum()), int((only_N < 0).sum())
        return {
            "metric": "top1",
            "gain": gain,
            "standard_error": error,
            "only_ensemble_right": right,
            "only_member_right": wrong,
            "p": mixture.sign_test(right, wrong),
        }


class _Watch:
    """Takes in what the ensemble and, through hooks, its members give for the samples of this rank."""

    def __init__(self, what: Evaluated, members: int, device: torch.device, form: Form | None):
        self._what, self._form, self._loss = what, form, plain_loss(what.target)
        self.outputs: list[Tensor] = [torch.empty(0)] * members  # of the last pass; the hooks put them here
        self.kept = [gathered(what.target, what.samples, what.outputs, device) for _ in range(members)]
        self.has_class = isinstance(what.target, ClassTarget)
        rows, self.scores_a_sample = what.samples, 1 if form == "softmax" else what.outputs
        self.counted_N = torch.zeros(rows, dtype=torch.float64, device=device)
        self.losses_NM = torch.zeros(rows, members + 1, dtype=torch.float64, device=device)
        self.hits_NM = torch.zeros_like(self.losses_NM)
        scored = rows if form is not None else 0
        self.scores_NSM = torch.zeros(scored, self.scores_a_sample, members, dtype=torch.float64, device=device)

    def take_in(self, first: int, outputs_NK: Tensor, targets: Tensor, weights_N: Tensor) -> None:
        """Fill the rows of these samples."""
        rows = slice(first, first + len(outputs_NK))
        self.counted_N[rows] = weights_N
        for number, one_NK in enumerate([*self.outputs, outputs_NK]):
            self.losses_NM[rows, number] = self._loss(exact(one_NK), targets).double()
            if self.has_class:
                self.hits_NM[rows, number] = (one_NK.argmax(dim=1) == targets).double()
        for number, one_NK in enumerate(self.outputs):
            self.kept[number].add(first, one_NK, targets, weights_N)
            if self._form is not None:
                self.scores_NSM[rows, :, number] = scores(self._form, one_NK.double(), targets)

    def sums(self) -> list[Tensor]:
        """Return what is to be added up over the ranks: each has filled rows of its own."""
        tables = [self.counted_N, self.losses_NM, self.hits_NM, self.scores_NSM]
        return [*tables, *(kept.sums for kept in self.kept)]


def scores(form: Form, outputs_NK: Tensor, targets: Tensor) -> Tensor:
    """Return scores_NS of a member (mixture.py): S is 1 for softmax, and K else. Targets are labels_N or targets_NK."""
    if form == "softmax":
        return functional.log_softmax(outputs_NK, dim=1).gather(1, targets[:, None]).exp()
    wanted_NK = functional.one_hot(targets, outputs_NK.shape[1]) if targets.dim() == 1 else targets
    if form == "squared_error":
        return outputs_NK - wanted_NK.to(outputs_NK.dtype)
    return torch.where(wanted_NK > 0, outputs_NK, -outputs_NK).sigmoid()


def _watched(parts: Parts, network: Ensemble, split: str, form: Form | None) -> Seen:
    """Evaluate a split; with `form`, also keep the scores that weights are chosen by."""
    engine, found = parts.step_parts.engine, list[_Watch]()

    def watch(what: Evaluated) -> Any:
        found.append(_Watch(what, len(network.members), parts.step_parts.device, form))
        return found[0].take_in

    with _outputs_go_to(found, network.members):
        result = parts.evaluate_split(split, also=watch)
    (seen,) = found
    for sums in seen.sums():
        engine.sum_over_ranks(sums)
    counted_N = seen.counted_N.cpu().numpy() > 0
    losses_NM, hits_NM, scores_NSM = (table.cpu().numpy() for table in (seen.losses_NM, seen.hits_NM, seen.scores_NSM))
    members = [
        EvaluationResult(split, result.samples, result.skipped_samples, float(losses_N.mean()), kept.metrics())
        for losses_N, kept in zip(losses_NM[counted_N].T, seen.kept, strict=False)
    ]
    return Seen(
        ensemble=result,
        members=members,
        losses_NM=losses_NM[counted_N],
        hits_NM=hits_NM[counted_N] if seen.has_class else None,
        scores_RM=scores_NSM[counted_N].reshape(-1, len(network.members)) if form is not None else None,
    )


@contextmanager
def _outputs_go_to(found: list[_Watch], members: nn.ModuleList) -> Iterator[None]:
    """Have each member's outputs put where the watch finds them, as long as this lasts."""

    def put(number: int) -> Any:
        return lambda _module, _images, outputs_NK: found[0].outputs.__setitem__(number, outputs_NK)

    handles = [member.register_forward_hook(put(number)) for number, member in enumerate(members)]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def _loaded(parts: Parts, members: Sequence[str]) -> Tensors:
    """Load the members' weights into the network, and return them. Raises TrainingError."""
    tensors: Tensors = {}
    for number, folder in enumerate(members):
        own = checkpoint.load_network(Path(folder))
        tensors |= {f"members.{number}.{name}": tensor for name, tensor in own.items()}
    try:
        parts.step_parts.engine.load_network(tensors)
    except RuntimeError as error:
        raise TrainingError(
            f"the weights of a member do not fit the network of its recipe ({first_line(error)}): was the code of its "
            f"model changed? Members: {', '.join(members)}"
        ) from error
    return tensors


def _kept(tensors: Tensors, members: Sequence[int]) -> Tensors:
    """Return the tensors of some members, counted anew."""
    return {
        f"members.{new}{name.removeprefix(f'members.{old}')}": tensor
        for new, old in enumerate(members)
        for name, tensor in tensors.items()
        if name.startswith(f"members.{old}.")
    }


def _sizes(parts: Parts, tensors: Tensors, job: Job, kept: Tensors) -> list[dict[str, Any]]:
    """Return parameters, operations, bytes and milliseconds of each member and of the ensemble, on one CPU thread."""
    outputs, size = read_outputs(parts.run_dir, job).number, job.recipe.data.image_size
    members = _loaded_alone(parts.job, outputs, tensors).members
    return measured([*members, _loaded_alone(job, outputs, kept)], size)


def _loaded_alone(job: Job, outputs: int, tensors: Tensors) -> Ensemble:
    """Return the network of a job on the CPU, in float32, for evaluation only."""
    network = load_model(job.recipe.model, outputs)
    assert isinstance(network, Ensemble)
    network.load_state_dict(tensors)
    return network.float().eval().requires_grad_(False)
