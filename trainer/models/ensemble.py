"""The model `ensemble`: several networks whose outputs are put together into those of one.

With `share_until` they share the layers of the first one up to a point and differ above it (branches.py). Either way it
is an ordinary network: it is evaluated, exported, pruned, a teacher, or trained as a whole.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from typing_extensions import override

from megabatch.configs.distillation import Form
from megabatch.configs.ensemble import Average, EnsembleOptions, Member, read_options
from megabatch.configs.errors import ConfigError
from megabatch.configs.normalization import Fixed, scaled_from
from megabatch.trainer.errors import TrainingError
from megabatch.trainer.models.branches import branch, trunk_and_branch
from megabatch.trainer.models.load import load_model
from megabatch.trainer.network import replace_activations, replace_batch_norms
from megabatch.trainer.precision import exact
from megabatch.trainer.pruning.plan import Plan, shrink


def ensemble(num_classes: int, **options: Any) -> nn.Module:  # Any: configs/ensemble.py checks them
    """Return the network of `model.options` (configs/ensemble.py) with random weights. Raises TrainingError."""
    try:
        settings = read_options(options)
    except ConfigError as error:
        raise TrainingError("; ".join(map(str, error.problems))) from error
    networks = [_network(member, num_classes) for member in settings.members]
    if settings.share_until is None:
        return Ensemble(settings, networks)
    whole = trunk_and_branch(networks[0], settings.share_until, "members.0")
    above = [branch(network, settings.share_until, f"members.{n}") for n, network in enumerate(networks[1:], 1)]
    return Fusion(settings, [whole, *above])


def combined(form: Form, average: Average, outputs_NK: Sequence[Tensor], log_weights_M: Tensor) -> Tensor:
    """Return outputs_NK of the whole, with z_m the outputs and w_m the weight of member m.

    logits, or numbers       sum_m w_m z_m
    probabilities, softmax   log sum_m w_m softmax(z_m): softmax of it is the mean probability
    probabilities, sigmoid   log sum_m w_m s(z_m) - log sum_m w_m s(-z_m): its sigmoid is the mean one
    """
    outputs_MNK = torch.stack([exact(outputs) for outputs in outputs_NK])
    log_weights_M11 = log_weights_M.to(outputs_MNK.dtype)[:, None, None]
    if average == "logits" or form == "squared_error":
        return (outputs_MNK * log_weights_M11.exp()).sum(dim=0)
    if form == "softmax":
        return torch.logsumexp(functional.log_softmax(outputs_MNK, dim=2) + log_weights_M11, dim=0)
    yes_NK, no_NK = (
        torch.logsumexp(functional.logsigmoid(outputs) + log_weights_M11, dim=0)
        for outputs in (outputs_MNK, -outputs_MNK)
    )
    return yes_NK - no_NK


class Ensemble(nn.Module):
    """Networks side by side. `log_weights` is no part of the state_dict, unless the weights are learned."""

    def __init__(self, settings: EnsembleOptions, members: Sequence[nn.Module]):
        super().__init__()
        self.members = nn.ModuleList(members)
        self._form, self._average = settings.form, settings.average
        log_weights_M = torch.tensor(settings.shares, dtype=torch.float64).log().float()
        self.log_weights: Tensor
        if settings.learn_weights:
            self.log_weights = nn.Parameter(log_weights_M)
        else:
            self.register_buffer("log_weights", log_weights_M, persistent=False)
        self._scaled = [_register_scaling(self, number, settings) for number in range(len(settings.members))]

    @override
    def forward(self, images_NCHW: Tensor) -> Tensor:
        outputs_NK = self.member_outputs(images_NCHW)
        log_weights_M = functional.log_softmax(self.log_weights, dim=0)  # the sum stays 1 while they are learned
        return combined(self._form, self._average, outputs_NK, log_weights_M)

    @torch.no_grad()
    def set_weights(self, shares: Sequence[float] | NDArray[np.float64]) -> None:
        """Weigh the members anew; with 0 one does not count."""
        self.log_weights.copy_(torch.tensor(shares, dtype=torch.float64).log())

    def member_outputs(self, images_NCHW: Tensor) -> list[Tensor]:
        """Return outputs_NK of each member."""
        return [member(self._rescaled(images_NCHW, number)) for number, member in enumerate(self.members)]

    def _rescaled(self, images_NCHW: Tensor, number: int) -> Tensor:
        """Return the pixels as the member was trained with."""
        if not self._scaled[number]:
            return images_NCHW
        scale_C11, shift_C11 = self.get_buffer(f"scale_{number}"), self.get_buffer(f"shift_{number}")
        return images_NCHW * scale_C11 + shift_C11


class Fusion(Ensemble):
    """Networks that share the layers of the first one up to a point: it returns what is there beside its outputs."""

    @override
    def member_outputs(self, images_NCHW: Tensor) -> list[Tensor]:
        first, *others = self.members
        shared, outputs_NK = first(self._rescaled(images_NCHW, 0))
        return [outputs_NK, *(_passed(member, number, shared) for number, member in enumerate(others, 1))]


def _passed(member: nn.Module, number: int, shared: Tensor) -> Tensor:
    try:
        outputs_NK: Tensor = member(shared)
    except torch.OutOfMemoryError:
        raise
    except RuntimeError as error:
        shape = tuple(shared.shape[1:])
        raise TrainingError(
            f"members.{number} cannot go on from what the shared layers give, {shape} for an image: {error}. "
            "Members of one architecture can, or others cut where they have the same shape"
        ) from error
    return outputs_NK


def _network(member: Member, num_classes: int) -> nn.Module:
    network = load_model(member.model, num_classes)
    if member.activation is not None:
        replace_activations(network, member.activation, image_size=1)
    if member.replace_batch_norm is not None:
        replace_batch_norms(network, member.replace_batch_norm)
    if member.pruning_plan is not None:
        shrink(network, Plan.from_json(member.pruning_plan))
    return network


def _register_scaling(network: nn.Module, number: int, settings: EnsembleOptions) -> bool:
    """Register what makes pixels scaled as they come in those that a member wants; return whether they differ."""
    own, its = settings.normalize, settings.members[number].normalize
    if its is None or its == own:
        return False
    assert isinstance(own, Fixed), "EnsembleOptions refuses others"
    for name, values_C in zip(("scale", "shift"), scaled_from(own, its), strict=True):
        network.register_buffer(f"{name}_{number}", torch.tensor(values_C)[:, None, None], persistent=False)
    return True
