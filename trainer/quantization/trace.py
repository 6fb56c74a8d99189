"""How layers follow one another in a network: seen in one pass, by the tensors that go from module to module.

An int8 kernel takes in and gives out 8 bits, and computes the batch norm and the ReLU behind a convolution along with
it. So activations are rounded behind such a group, and where a layer takes in what none of them gave.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.modules.conv import _ConvNd

from megabatch.trainer.pruning.layers import layers_with_weights

_FUSED = (nn.ReLU, nn.ReLU6)


@dataclass
class Traced:
    """Names of modules. `called` has the layers with weights in the order in which they are first called.

    `sources` leads from a layer to the module that gave its input, None if it was a function; `ends` from a convolution
    to the last module of the group of convolution, batch norm and ReLU.
    """

    called: list[str] = field(default_factory=list)
    sources: dict[str, str | None] = field(default_factory=dict)
    ends: dict[str, str] = field(default_factory=dict)


@torch.no_grad()
def trace(network: nn.Module, image_size: int) -> Traced:
    """Pass two empty images through the network, in evaluation mode, and return what was seen."""
    tracer = _Tracer(network)
    modules = list(network.named_modules())
    handles = [module.register_forward_hook(tracer.hook(name)) for name, module in modules if name]
    training = {module: module.training for _, module in modules}
    try:
        network.eval()(torch.zeros(2, 3, image_size, image_size))
    finally:
        for handle in handles:
            handle.remove()
        for module, was in training.items():
            module.training = was
    return tracer.found


class _Tracer:
    def __init__(self, network: nn.Module):
        self.found = Traced()
        self._layers = layers_with_weights(network)
        self._alive: list[torch.Tensor] = []  # so that no id is used again
        self._of: dict[tuple[int, int], str] = {}  # who gave a tensor in this state: an in-place operation changes it
        self._group: dict[tuple[int, int], str] = {}  # of which convolution it is the output, or that of its batch norm

    def hook(self, name: str):  # type: ignore[no-untyped-def]  # a hook has a type of torch's own
        """Return a forward hook for the module of this name."""

        def seen(module: nn.Module, inputs: tuple[object, ...], output: object) -> None:
            if inputs and isinstance(inputs[0], torch.Tensor) and isinstance(output, torch.Tensor):
                self._see(name, module, inputs[0], output)

        return seen

    def _see(self, name: str, module: nn.Module, taken: torch.Tensor, given: torch.Tensor) -> None:
        self._alive += [taken, given]
        state = (id(given), given._version)
        if name in self._layers and name not in self.found.called:
            self.found.called.append(name)
            self.found.sources[name] = self._of.get((id(taken), taken._version))
        self._of.setdefault(state, name)  # the innermost module: it is done first
        in_place = taken is given and isinstance(module, _FUSED) and module.inplace
        before = (id(taken), taken._version - 1) if in_place else (id(taken), taken._version)
        group = self._group.get(before)
        if isinstance(module, _ConvNd):
            self.found.ends[name], self._group[state] = name, name
        elif group is not None and isinstance(module, (_BatchNorm, *_FUSED)):
            self.found.ends[group] = self._of[state]
            if isinstance(module, _BatchNorm):
                self._group[state] = group
