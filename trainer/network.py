"""Builds the network of a recipe: loads it, then changes in it what the recipe asks for, and says what was changed.

In this order: activations, norms, dropout and stochastic depth, weights, residual blocks, pretrained weights, removed
channels, layers of few bits, whose statistics batch norm uses. All of it is a function of recipe, seed, plan and those
weights. The launcher's inspection and the ranks build with the same function.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from typing import Any

import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from megabatch.configs.errors import nearest
from megabatch.configs.model import Activation, GroupNorm, LayerNorm, LeakyRelu
from megabatch.configs.precision import Fp8
from megabatch.configs.pretrained import Pretrained
from megabatch.configs.pruning import Channels
from megabatch.configs.recipe import Recipe
from megabatch.configs.trained_part import TrainHead
from megabatch.trainer.errors import TrainingError
from megabatch.trainer.fp8 import announce_fp8
from megabatch.trainer.head import train_head_only
from megabatch.trainer.models.functional import called_activations
from megabatch.trainer.models.initialize import initialize_weights
from megabatch.trainer.models.load import load_model
from megabatch.trainer.models.regularize import set_dropout, set_stochastic_depth
from megabatch.trainer.models.residual import zero_residual_blocks
from megabatch.trainer.norms.modes import announce_precise, set_batch_norm
from megabatch.trainer.pretrained.load import Began, load_weights
from megabatch.trainer.pretrained.read import Weights
from megabatch.trainer.pruning.channels import make_plan
from megabatch.trainer.pruning.plan import Plan, shrink
from megabatch.trainer.quantization.layers import quantize_layers

# By name, as timm has activations of its own. Sigmoid and tanh are not among them: in most networks they are gates.
_REPLACED = frozenset(
    {"ReLU", "ReLU6", "LeakyReLU", "PReLU", "ELU", "GELU", "SiLU", "Swish", "Mish", "Hardswish", "HardSwish",
     "GELUTanh", "QuickGELU"}
)  # fmt: skip


@dataclass(frozen=True)
class Built:
    """A network, and one line for each thing that was changed in it."""

    network: nn.Module
    changes: tuple[str, ...]
    began: Began | None = None
    plan: Plan | None = None


def build_network(recipe: Recipe, num_classes: int, weights: Weights | None = None, plan: Plan | None = None) -> Built:
    """Return the recipe's network on the CPU, in float32. Raises TrainingError for what the model does not have.

    `weights` are those that `model.pretrained` names; None if there are none, or if a checkpoint will be loaded. `plan`
    is that of removed channels; where the recipe asks for one and there is none yet, it is made from the weights.
    """
    settings, regularization = recipe.model, recipe.regularization
    torch.manual_seed(recipe.seed)
    network = load_model(settings, num_classes, regularization)
    changes: list[str] = []
    if settings.activation is not None:
        changes.append(replace_activations(network, settings.activation, recipe.data.image_size))
    if settings.replace_batch_norm is not None:
        changes.append(replace_batch_norms(network, settings.replace_batch_norm))
    if settings.precise_statistics is not None:
        changes.append(announce_precise(network, settings.precise_statistics))
    if regularization.dropout is not None:
        changes.append(set_dropout(network, settings.name, regularization.dropout))
    if regularization.stochastic_depth is not None:
        changes.append(set_stochastic_depth(network, settings.name, regularization.stochastic_depth))
    if settings.initialization.name != "default":
        changes.append(initialize_weights(network, settings.initialization, settings.activation, recipe.seed))
    if settings.zero_init_residual:
        changes.append(zero_residual_blocks(network))
    if plan is not None and not isinstance(recipe.pruning, Channels):
        shrink(network, plan)  # the weights are those of the small network
    began = None
    if weights is not None:
        began = load_weights(network, weights, **_how_to_begin(settings.pretrained))
        changes += began.lines()
    if isinstance(recipe.pruning, Channels):
        plan = plan or make_plan(network, recipe.pruning, recipe.data.image_size)
        shrink(network, plan)
    if plan is not None:
        changes.append(plan.line())
    if recipe.quantization is not None:
        changes.append(quantize_layers(network, recipe.quantization, recipe.data.image_size))
    resumed = settings.pretrained is not None and weights is None
    if settings.batch_norm is not None:
        changes.append(set_batch_norm(network, settings.batch_norm, statistics_follow=resumed))
    if isinstance(settings.train, TrainHead):
        changes += train_head_only(network, recipe, settings.train, statistics_follow=resumed)
    if settings.checkpoint_activations:
        changes.append(checkpoint_activations(network, settings.checkpoint_activations))
    if isinstance(recipe.precision, Fp8):
        changes.append(announce_fp8(network, num_classes))
    return Built(network, tuple(changes), began, plan)


def _how_to_begin(settings: Pretrained | None) -> dict[str, Any]:
    if settings is None:
        return {}
    assert settings.outputs != "by_class", "the launcher writes the numbers into the job"
    return {"leave_out": settings.leave_out, "outputs": settings.outputs}


def replace_activations(network: nn.Module, settings: Activation, image_size: int) -> str:
    """Replace every activation module that is no gate. Raises TrainingError if there is none."""
    kinds = [type(module).__name__ for module in network.modules() if type(module).__name__ in _REPLACED]
    if not kinds:
        called = called_activations(network, image_size, _REPLACED)
        raise TrainingError(
            "model.activation: the network has no activation modules. "
            + (f"It calls {called} as functions, which cannot be replaced from outside. " if called else "")
            + "Its own options may choose the activation (model.options)"
        )
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if type(child).__name__ in _REPLACED:
                setattr(parent, name, _activation(settings))
    found = ", ".join(f"{kinds.count(kind)} {kind}" for kind in sorted(set(kinds)))
    return f"activation: {found} replaced by {settings.name}"


def unreplaced_activations(network: nn.Module, recipe: Recipe) -> list[str]:
    """Return a line for the plan if activations that are called as functions stay beside those that were replaced."""
    if recipe.model.activation is None:
        return []
    called = called_activations(network, recipe.data.image_size, _REPLACED)
    return [f"activation: {called} called as functions stay, as they cannot be replaced from outside"] if called else []


def _activation(settings: Activation) -> nn.Module:
    if isinstance(settings, LeakyRelu):
        return nn.LeakyReLU(settings.slope)
    kinds: dict[str, type[nn.Module]] = {
        "sigmoid": nn.Sigmoid, "tanh": nn.Tanh, "relu": nn.ReLU, "gelu": nn.GELU, "silu": nn.SiLU,
    }  # fmt: skip
    return kinds[settings.name]()


def replace_batch_norms(network: nn.Module, settings: GroupNorm | LayerNorm) -> str:
    """Replace every batch norm over images, with the same epsilon. Raises TrainingError if there is none."""
    replaced = 0
    for parent in list(network.modules()):
        for name, child in parent.named_children():
            if type(child) is nn.BatchNorm2d:
                groups = math.gcd(settings.groups, child.num_features) if isinstance(settings, GroupNorm) else 1
                setattr(parent, name, nn.GroupNorm(groups, child.num_features, child.eps, child.affine))
                replaced += 1
            elif isinstance(child, nn.BatchNorm2d):
                raise TrainingError(
                    f"model.replace_batch_norm: {name} is a {type(child).__name__}, which does more than batch norm. "
                    "Ask the model itself for another norm (model.options, norm_layer in timm)"
                )
    if not replaced:
        raise TrainingError("model.replace_batch_norm: the network has no batch norm")
    return f"norm: {replaced} batch norms replaced by {settings.name}"


def checkpoint_activations(network: nn.Module, patterns: tuple[str, ...]) -> str:
    """Compute the insides of the matching modules again in the backward pass (Chen et al. 2016)."""
    names = [name for name, _ in network.named_modules() if name]
    chosen: list[str] = []
    for pattern in patterns:
        matching = [name for name in names if fnmatchcase(name, pattern)]
        if not matching:
            raise TrainingError(
                f"model.checkpoint_activations: no module of the network matches {pattern!r}. {nearest(pattern, names)}"
            )
        chosen += matching
    # Inside a module that is computed again nothing is kept anyway.
    outermost = [name for name in dict.fromkeys(chosen) if not any(name.startswith(f"{other}.") for other in chosen)]
    for name in outermost:
        module = network.get_submodule(name)
        module.forward = partial(checkpoint, module.forward, use_reentrant=False)
    return f"activations: {len(outermost)} modules computed again in the backward pass"
