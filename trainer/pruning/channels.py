"""Decides which channels go: torch-pruning knows which layers lose a channel together, their group norm how little
it matters (DepGraph: Fang et al. 2023, sections 3.2 and 3.3).

The importance of a channel is the sum of squares of all weights that would go with it, over the layers of its group,
relative to the group's mean. The smallest share of channels is sought with which the network is small enough.
Shares are rounded to whole multiples here, and torch-pruning is told how many channels of which group are left.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import nn
from torch.nn.modules.conv import _ConvNd

from megabatch.configs.pruning import Channels
from megabatch.trainer.errors import TrainingError, first_line
from megabatch.trainer.pruning.layers import kept_layers, layers_with_weights
from megabatch.trainer.pruning.plan import Plan

_SHARES = 256  # the share of channels that go is a multiple of 1 / 256

History = list[tuple[str, bool, list[int]]]


def make_plan(network: nn.Module, settings: Channels, image_size: int) -> Plan:
    """Return the plan that leaves at most `settings.flops` of the operations of a network on the CPU.

    A function of weights and settings. Raises TrainingError if the network cannot be traced, or not get so small.
    """
    tracing = _Tracing(network, settings, image_size)
    before = flops_of(network, image_size)

    def share_left(gone: int) -> float:
        return flops_of(tracing.pruned(tracing.channels_left(gone / _SHARES))[0], image_size) / before

    fewest = share_left(_SHARES)
    if fewest > settings.flops:
        raise TrainingError(
            f"pruning.flops={settings.flops:g}: even with all channels gone that may go, {fewest:.1%} of the "
            "operations are left: a higher pruning.flops, a smaller pruning.multiple_of, or less in pruning.keep"
        )
    enough, too_few = _SHARES, 0
    while enough - too_few > 1:
        middle = (enough + too_few) // 2
        enough, too_few = (middle, too_few) if share_left(middle) <= settings.flops else (enough, middle)
    return tracing.plan(tracing.channels_left(enough / _SHARES))


def plans_of_layers(
    network: nn.Module, settings: Channels, image_size: int, shares: Sequence[float]
) -> dict[str, list[Plan]]:
    """Return, by the first layer of each group, the plans that take these shares of its channels and nothing else."""
    tracing = _Tracing(network, settings, image_size)
    return {
        layer: [tracing.plan({layer: tracing.channels_left(share)[layer]}) for share in shares]
        for layer in tracing.importance
    }


def flops_of(network: nn.Module, image_size: int) -> int:
    """Return the floating point operations for one image, as torch counts them: multiplying and adding are two."""
    from torch.utils.flop_counter import FlopCounterMode  # takes a second to import, and few need it

    training = network.training
    device = next(network.parameters()).device
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        network.eval()(torch.zeros(1, 3, image_size, image_size, device=device))
    network.train(training)
    return int(counter.get_total_flops())


class _Tracing:
    """Prunes copies of a network, by names, and tells what went. `importance` is by the first layer of each group."""

    def __init__(self, network: nn.Module, settings: Channels, image_size: int):
        self._network, self._settings, self._size = network, settings, image_size
        self._kept = kept_layers(network, settings.keep) | _inside_attention(network)
        self._kept |= self._output_layers()
        self.importance = self._importance()
        if not self.importance:
            raise TrainingError(
                "pruning: no layer has channels that may go: those of the output, of attention and of pruning.keep "
                "stay. Name fewer layers in pruning.keep, or write name: magnitude"
            )

    def channels_left(self, share: float) -> dict[str, int]:
        """Return how many channels each group keeps if a share of all goes, in whole multiples of `multiple_of`."""
        sizes = {layer: len(values) for layer, values in self.importance.items()}
        if self._settings.scope == "layer":
            left = {layer: size * (1 - share) for layer, size in sizes.items()}
        else:
            together = torch.cat(list(self.importance.values())).sort().values
            least = together[min(round(share * len(together)), len(together) - 1)]
            left = {layer: float((values >= least).sum()) for layer, values in self.importance.items()}
        unit = self._settings.multiple_of
        return {layer: min(size, max(unit, int(left[layer] / unit + 0.5) * unit)) for layer, size in sizes.items()}

    def pruned(self, left: Mapping[str, int]) -> tuple[nn.Module, History]:
        """Return a copy in which these groups have so many channels left, and how it became so."""
        import torch_pruning

        copied = _copy(self._network)
        # Half a channel more: torch-pruning multiplies the ratio with the number of channels, and cuts off.
        ratios = {
            copied.get_submodule(layer): 1 - (number + 0.5) / len(self.importance[layer])
            for layer, number in left.items()
            if number < len(self.importance[layer])
        }
        pruner = _or_untraceable(
            lambda: torch_pruning.pruner.BasePruner(
                copied,
                self._images(),
                importance=_group_norm(),
                pruning_ratio=0.0,
                pruning_ratio_dict=ratios,
                ignored_layers=[copied.get_submodule(name) for name in sorted(self._kept)],
                in_channel_groups={},  # its default would be shared by all pruners
                out_channel_groups={},
            )
        )
        _or_untraceable(pruner.step)
        history = [(name, bool(out), [int(i) for i in indices]) for name, out, indices in pruner.pruning_history()]
        _require_runs(copied, self._images())
        return copied, history

    def plan(self, left: Mapping[str, int]) -> Plan:
        """Return the plan that leads to what `pruned` gives."""
        small, history = self.pruned(left)
        return Plan(
            tensors=self._kept_indices(small, history),
            attributes=_changed_attributes(self._network, small),
            flops=(flops_of(self._network, self._size), flops_of(small, self._size)),
            parameters=(_count(self._network), _count(small)),
        )

    def _importance(self) -> dict[str, torch.Tensor]:
        copied = _copy(self._network)
        graph, score = self._graph(copied), _group_norm()
        names = {module: name for name, module in copied.named_modules()}
        ignored = [copied.get_submodule(name) for name in sorted(self._kept)]
        return {
            names[group[0].dep.target.module]: score(group)
            for group in graph.get_all_groups(ignored, (_ConvNd, nn.Linear))
        }

    def _kept_indices(self, small: nn.Module, history: History) -> dict[str, dict[str, list[int]]]:
        """Return what stays of each tensor: a network whose values are their own indices is pruned in the same way."""
        before, after = (dict(one.state_dict()) for one in (self._network, small))
        cut = {
            name: [d for d in range(tensor.ndim) if tensor.shape[d] != after[name].shape[d]]
            for name, tensor in before.items()
        }
        tensors: dict[str, dict[str, list[int]]] = {name: {} for name, dimensions in cut.items() if dimensions}
        for dimension in sorted({d for dimensions in cut.values() for d in dimensions}):
            numbered = _copy(self._network)
            _number(numbered, dimension)
            _or_untraceable(lambda numbered=numbered: self._graph(numbered).load_pruning_history(list(history)))
            for name, tensor in numbered.state_dict().items():
                if dimension in cut[name]:
                    tensors[name][str(dimension)] = _first_of_each(tensor, dimension)
        return tensors

    def _output_layers(self) -> set[str]:
        """Return the layers whose outputs are those of the network, which all stay."""
        import torch_pruning

        copied = _copy(self._network)
        graph = self._graph(copied)
        names = {module: name for name, module in copied.named_modules()}
        ends = {id(module) for module, node in graph.module2node.items() if not node.outputs}
        found: set[str] = set()
        for group in graph.get_all_groups([], (_ConvNd, nn.Linear)):
            targets = [d.target.module for d, _ in group if graph.is_out_channel_pruning_fn(d.handler)]
            if any(id(module) in ends or isinstance(module, torch_pruning.ops._OutputOp) for module in targets):
                found |= {names[module] for module in targets if isinstance(module, nn.Module) and module in names}
        return found

    def _graph(self, network: nn.Module) -> Any:  # Any: a DependencyGraph, which has no types
        import torch_pruning

        return _or_untraceable(
            lambda: torch_pruning.DependencyGraph().build_dependency(network, self._images(), verbose=False)
        )

    def _images(self) -> torch.Tensor:
        return torch.zeros(2, 3, self._size, self._size)


def _copy(network: nn.Module) -> nn.Module:
    """Return a copy in which every parameter has a gradient: they are what the tracing follows."""
    return copy.deepcopy(network).eval().requires_grad_(True)


def _group_norm() -> Any:  # Any: torch-pruning has no types
    import torch_pruning

    return torch_pruning.importance.GroupMagnitudeImportance(p=2)


def _or_untraceable(action: Any) -> Any:  # Any: whatever torch-pruning gives
    """Run what traces the network; whatever it cannot follow has exceptions of many kinds."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of parameters outside layers, which are followed nevertheless
            return action()
    except Exception as error:
        raise TrainingError(
            f"pruning: torch-pruning cannot follow the channels of this network ({first_line(error)}). Instead: "
            "pruning.name=magnitude, or the layers it fails at in pruning.keep"
        ) from error


@torch.no_grad()
def _require_runs(small: nn.Module, images_NCHW: torch.Tensor) -> None:
    try:
        small(images_NCHW)
    except Exception as error:  # a network that knows its own sizes by heart
        raise TrainingError(
            f"pruning: without some channels this network does not run ({first_line(error)}). Instead: the layers "
            "around in pruning.keep, or pruning.name=magnitude"
        ) from error


def _inside_attention(network: nn.Module) -> set[str]:
    """Return the layers inside attention: its heads know their sizes by heart. The MLPs beside it get narrower."""
    heads = [name for name, module in network.named_modules() if hasattr(module, "num_heads")]
    names = layers_with_weights(network)
    return {name for name in names if any(name == head or name.startswith(f"{head}.") for head in heads)}


@torch.no_grad()
def _number(network: nn.Module, dimension: int) -> None:
    """Give each value its own index along a dimension; float32 is exact up to 16 million."""
    for tensor in network.state_dict().values():
        if tensor.ndim > dimension and tensor.is_floating_point():
            shape = [-1 if d == dimension else 1 for d in range(tensor.ndim)]
            tensor.copy_(torch.arange(tensor.shape[dimension]).view(shape).expand_as(tensor))


def _first_of_each(tensor: torch.Tensor, dimension: int) -> list[int]:
    """Return the numbers that `_number` gave."""
    return [int(number) for number in tensor.movedim(dimension, 0).reshape(tensor.shape[dimension], -1)[:, 0]]


def _changed_attributes(before: nn.Module, after: nn.Module) -> dict[str, dict[str, Any]]:
    changed: dict[str, dict[str, Any]] = {}
    for name, module in after.named_modules():
        old = vars(before.get_submodule(name))
        values = {
            key: list(value) if isinstance(value, tuple) else value
            for key, value in vars(module).items()
            if _is_size(value) and key in old and old[key] != value
        }
        if values:
            changed[name] = values
    return changed


def _is_size(value: Any) -> bool:
    """Return whether an attribute is an integer or a tuple of them, and no switch."""
    if isinstance(value, tuple):
        return all(type(one) is int for one in value)
    return type(value) is int


def _count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())
