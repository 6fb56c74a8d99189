"""Elastic weight consolidation (Kirkpatrick et al. 2017, "Overcoming catastrophic forgetting in neural networks").

The loss gets the term `strength / 2 * sum_i F_i * (w_i - w0_i)**2` (their equation 3). F is the diagonal of the Fisher
information of the earlier stages, added up over them, and w0 the weights after the last of these: one penalty, as
Huszar (2018, "Note on the quadratic penalties in elastic weight consolidation") derives it, instead of one for each
stage. Weights that a stage did not have, the rows of new classes, have F = 0.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from torch import nn

from megabatch.configs.continual import ElasticWeights
from megabatch.trainer.errors import TrainingError
from megabatch.trainer.pretrained.read import read_weights
from megabatch.trainer.sharding import cut_like, local

FISHER, ANCHOR = "fisher/", "anchor/"
_KEY = "regularization.ewc"
Tensors = dict[str, torch.Tensor]


class ElasticPenalty:
    """Adds the gradient of the penalty. With parameters that ranks share out, each adds that of its part."""

    def __init__(
        self, network: nn.Module, settings: ElasticWeights, folder: Path, outputs: tuple[int, ...] | None
    ) -> None:
        """Read the file of the settings; `outputs` says which output here each output of then is, if there are more.

        Raises TrainingError for a file that is gone, changed, or of another network.
        """
        fisher, anchor = read_fisher(settings, folder)
        self._strength = settings.strength
        self._held: list[tuple[nn.Parameter, torch.Tensor, torch.Tensor]] = []
        parameters = dict(network.named_parameters())
        unknown = fisher.keys() - parameters.keys()
        if unknown or not fisher:
            raise TrainingError(f"{_KEY}: {settings.source} is of another network: {min(unknown, default='empty')}")
        for name, value in fisher.items():
            parameter = parameters[name]
            rows = [
                cut_like(parameter, grown(tensor, parameter.shape, outputs, f"{_KEY}: {name}").to(parameter))
                for tensor in (value, anchor[name])
            ]
            self._held.append((parameter, local(rows[0]), local(rows[1])))

    @torch.no_grad()
    def add_gradient(self) -> None:
        """Add `strength * F * (w - w0)` to the gradient of every parameter that has one."""
        for parameter, fisher, anchor in self._held:
            if parameter.grad is not None:
                moved = local(parameter) - anchor
                local(parameter.grad).addcmul_(moved, fisher, value=self._strength)


def read_fisher(settings: ElasticWeights, folder: Path) -> tuple[Tensors, Tensors]:
    """Return the Fisher information and the weights then, by the names of parameters. Raises TrainingError."""
    tensors = read_weights(settings, folder, _KEY).tensors
    fisher, anchor = (_with_prefix(tensors, prefix) for prefix in (FISHER, ANCHOR))
    if fisher.keys() != anchor.keys():
        raise TrainingError(
            f"{_KEY}: {settings.source} was not written by a stage: its tensors are {min(tensors)}, ..."
        )
    return fisher, anchor


def _with_prefix(tensors: Mapping[str, torch.Tensor], prefix: str) -> Tensors:
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def grown(tensor: torch.Tensor, shape: Sequence[int], outputs: tuple[int, ...] | None, what: str) -> torch.Tensor:
    """Return a tensor of this shape with the rows of another one at the places `outputs`, and zeros elsewhere.

    A tensor that has the shape already is returned as it is. Raises TrainingError for one that cannot become it.
    """
    shape = tuple(shape)
    if tuple(tensor.shape) == shape:
        return tensor
    if outputs is None or tuple(tensor.shape[1:]) != shape[1:] or len(outputs) != tensor.shape[0]:
        raise TrainingError(f"{what} was {tuple(tensor.shape)}, and is {shape} here: it is of another network")
    result = torch.zeros(shape, dtype=tensor.dtype)
    result[torch.tensor(outputs)] = tensor
    return result
