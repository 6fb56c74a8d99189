"""Weights that stay zero while a network trains: masks that are made on a schedule and applied in every step.

A removed weight takes no part any more: its gradient is zero before it is clipped or handed to the optimizer, and when
it is removed, what the optimizer remembers of it (momentum and the like) is forgotten. So the rest trains as if it
were the whole network, under every optimizer. That is a forward pass with masked weights, as in torch.nn.utils.prune
and Zhu and Gupta 2017 (no gradient reaches a masked weight), but for momentum, which there would move the hidden
weight for a while. Masks are part of a checkpoint. All ranks make them from the same weights, so they are the same.
"""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import nn

from megabatch.configs.pruning import Inherited, Magnitude, NOfM
from megabatch.data.steps import Steps
from megabatch.trainer.errors import TrainingError
from megabatch.trainer.pruning.layers import pruned_weights
from megabatch.trainer.pruning.masks import Tensors, magnitude_masks, n_of_m_mask, removed
from megabatch.trainer.pruning.schedule import SparsitySchedule, schedule_of
from megabatch.trainer.sharding import cut_like, in_one_piece, local

ONE_SHOT = SparsitySchedule(final=0.0, begin=0, end=0, every=1)


class WeightMasks:
    """The masks of a network, by the name of the weight; those due before the first step are made at once."""

    def __init__(self, network: nn.Module, settings: Magnitude | NOfM | Inherited, steps: Steps):
        self._settings = settings
        keep = () if isinstance(settings, Inherited) else settings.keep
        self._weights = pruned_weights(network, keep)
        require_possible(self._weights, settings)
        self._schedule = (
            schedule_of(settings.schedule, settings.sparsity, steps) if isinstance(settings, Magnitude) else ONE_SHOT
        )
        self._masks: Tensors = {}
        self._renew(0)
        self._apply(self._weights)

    def complete(self, step: int) -> bool:
        """Return whether the network is as sparse after `step` steps as it gets: before that it counts as no result."""
        return step >= self._schedule.last

    def mask_gradients(self) -> None:
        """Take removed weights out of the gradient, after it was summed over ranks."""
        self._apply({name: weight.grad for name, weight in self._weights.items() if weight.grad is not None})

    def after_step(self, step: int, optimizer: torch.optim.Optimizer, averaged: Tensors) -> None:
        """Make new masks if they are due after `step` steps; then set removed weights to zero, averages too."""
        if self._renew(step):
            self._forget(optimizer)
        self._apply(self._weights)
        self._apply({name: averaged[name] for name in self._masks if name in averaged})

    def tensors(self) -> Tensors:
        """Return the masks, for a checkpoint."""
        return dict(self._masks)

    def load(self, masks: Mapping[str, torch.Tensor]) -> None:
        """Put back what `tensors` gave."""
        self._masks = {name: cut_like(self._weights[name], mask).to(self._device) for name, mask in masks.items()}

    def announce(self) -> str:
        """Return in words what will be pruned."""
        total = sum(weight.numel() for weight in self._weights.values())
        return f"pruning: {self._settings.name}, of {total:,} weights in {len(self._weights)} layers"

    def describe(self) -> str:
        """Return in words what is pruned, how much of it is zero, and which layers have nothing left."""
        whole = {name: in_one_piece(mask) for name, mask in self._masks.items()}
        total = sum(weight.numel() for weight in self._weights.values())
        zero = sum(int((~mask).sum()) for mask in whole.values())
        empty = [name.removesuffix(".weight") for name, mask in whole.items() if not mask.any()]
        warning = f"; warning: nothing is left of {', '.join(empty)}" if empty else ""
        return (
            f"pruning: {self._settings.name}, {zero:,} of {total:,} weights in {len(self._weights)} layers are zero "
            f"({zero / total:.1%}){warning}"
        )

    @property
    def _device(self) -> torch.device:
        return next(iter(self._weights.values())).device

    @torch.no_grad()
    def _renew(self, step: int) -> bool:
        """Make masks anew where they are due; return whether they were."""
        due = self._schedule.due(step)
        if due is None or (due == 0 and isinstance(self._settings, Magnitude)):
            return False
        whole = {name: in_one_piece(weight.detach()) for name, weight in self._weights.items()}
        masks = _masks(whole, self._settings, due)
        self._masks = {name: cut_like(self._weights[name], mask) for name, mask in masks.items()}
        return True

    @torch.no_grad()
    def _apply(self, tensors: Mapping[str, torch.Tensor]) -> None:
        for name, mask in self._masks.items():
            if name in tensors:
                local(tensors[name]).mul_(local(mask))

    @torch.no_grad()
    def _forget(self, optimizer: torch.optim.Optimizer) -> None:
        for name, mask in self._masks.items():
            weight = self._weights[name]
            for value in optimizer.state.get(weight, {}).values():
                if isinstance(value, torch.Tensor) and value.shape == weight.shape:
                    local(value).mul_(local(mask))


def require_possible(weights: Mapping[str, torch.Tensor], settings: Magnitude | NOfM | Inherited) -> None:
    """Raise TrainingError where a layer would have nothing left, or inputs that groups of m do not divide."""
    if isinstance(settings, NOfM):
        uneven = {name: weight.shape[1] for name, weight in weights.items() if weight.shape[1] % settings.m}
        if uneven:
            names = [name.removesuffix(".weight") for name in uneven]
            seen = ", ".join(f"{name} has {inputs}" for name, inputs in zip(names, uneven.values(), strict=True))
            raise TrainingError(
                f"pruning: {settings.n} of {settings.m} weights along the inputs of a layer, but {settings.m} does not "
                f"divide them everywhere: {seen}. Leave those layers as they are: pruning.keep=[{', '.join(names)}]"
            )
    if isinstance(settings, Magnitude):
        sizes = {name: weight.numel() for name, weight in weights.items()}
        parts = sizes if settings.scope == "layer" else {"the network": sum(sizes.values())}
        empty = [(name, size) for name, size in parts.items() if removed(settings.sparsity, size) >= size]
        if empty:
            name, size = empty[0]
            raise TrainingError(
                f"pruning: sparsity {settings.sparsity:g} leaves nothing of {name}, which has {size:,} weights: a "
                "lower pruning.sparsity, or its layer in pruning.keep"
            )


def require_some_left(weights: Mapping[str, torch.Tensor], settings: Magnitude) -> None:
    """Raise TrainingError if all weights of a layer are among the smallest of the network."""
    masks = magnitude_masks(weights, settings.sparsity, settings.scope)
    empty = [name.removesuffix(".weight") for name, mask in masks.items() if not mask.any()]
    if empty:
        raise TrainingError(
            f"pruning: sparsity {settings.sparsity:g} of all weights leaves nothing of {', '.join(empty)}: a lower "
            f"pruning.sparsity, pruning.scope=layer, or pruning.keep=[{', '.join(empty)}]"
        )


def _masks(weights: Tensors, settings: Magnitude | NOfM | Inherited, sparsity: float) -> Tensors:
    if isinstance(settings, Magnitude):
        return magnitude_masks(weights, sparsity, settings.scope)
    if isinstance(settings, NOfM):
        return {name: n_of_m_mask(weight, settings.n, settings.m) for name, weight in weights.items()}
    return {name: weight != 0 for name, weight in weights.items()}
