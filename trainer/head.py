"""Linear probes: trains the head of a network and nothing else (`model.train: head`).

What is below the head is frozen, and its batch norms normalize with the statistics that the weights came with, so it
computes the features it was trained for (Kornblith, Shlens and Le 2019, "Do better ImageNet models transfer better?",
compare networks by a classifier on such features).
"""

from __future__ import annotations

from collections.abc import Sequence
from fnmatch import fnmatchcase

from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from megabatch.configs.errors import nearest
from megabatch.configs.norms import FrozenNorm
from megabatch.configs.recipe import Recipe
from megabatch.configs.trained_part import TrainHead
from megabatch.trainer.errors import TrainingError
from megabatch.trainer.norms.modes import set_batch_norm

_SHOWN = 4


def train_head_only(network: nn.Module, recipe: Recipe, settings: TrainHead, statistics_follow: bool) -> list[str]:
    """Freeze all but the head; return what was done in words. Raises TrainingError if no head is found.

    `statistics_follow`: trained ones come later, with the checkpoint that a run goes on from.
    """
    head = set(_head(network, settings))
    lines = []
    if recipe.model.batch_norm is None and any(isinstance(module, _BatchNorm) for module in network.modules()):
        lines.append(set_batch_norm(network, FrozenNorm(affine="trained"), statistics_follow))
    for name, parameter in network.named_parameters():
        parameter.requires_grad_(name in head)
    for rule in recipe.optimizer.groups:
        if not rule.frozen and not any(fnmatchcase(name, rule.match) for name in head):
            raise TrainingError(
                f"optimizer.groups: match {rule.match!r} fits nothing of the head, and model.train: head trains "
                "nothing else. Leave the rule out"
            )
    return [f"train: the head alone, {', '.join(sorted(head))}", *lines]


def _head(network: nn.Module, settings: TrainHead) -> list[str]:
    """Return the names of the head's parameters, in the order of the network."""
    names = [name for name, _ in network.named_parameters()]
    if settings.match is not None:
        found = [name for name in names if fnmatchcase(name, settings.match)]
        if not found:
            raise TrainingError(
                f"model.train: match {settings.match!r} fits no parameter. {nearest(settings.match, names)}"
            )
        return found
    found = [name for name in names if any(name.startswith(f"{layer}.") for layer in _classifiers(network))]
    if not found:
        raise TrainingError(
            "model.train: head: the network does not say which of its layers is the head. Write model.train: "
            f"{{name: head, match: PATTERN}}; its last parameters are {', '.join(names[-_SHOWN:])}"
        )
    return found


def _classifiers(network: nn.Module) -> Sequence[str]:
    """Return the names of the layers that timm knows as the classifier; a distilled transformer has two."""
    known = getattr(network, "pretrained_cfg", None) or {}
    named = known.get("classifier") or ()
    return (named,) if isinstance(named, str) else tuple(named)
