"""How deep a parameter lies in its network, for learning rates that fall towards the input. Knows no optimizer.

With a `group_matcher` (all networks of timm) the layers are timm's. Without one they are the children of the network in
the order in which they were assigned; a Sequential or a ModuleList stands for its members; what belongs to no child
(class tokens, positions) is in the first layer with a parameter.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from torch import nn


def layer_of_parameters(network: nn.Module) -> dict[str, int]:
    """Return the layer of every parameter by name: 0 is the first, the highest is the head."""
    matcher: Callable[..., Any] | None = getattr(network, "group_matcher", None)
    if matcher is not None:
        from timm.models import group_parameters

        layers: dict[str, int] = group_parameters(network, matcher(coarse=False), reverse=True)
        return layers
    layers = {name: 0 for name, _ in network.named_parameters()}
    with_parameters = [block for block in _blocks(network, "") if any(name.startswith(block) for name in layers)]
    for layer, block in enumerate(with_parameters):
        layers |= {name: layer for name in layers if name.startswith(block)}
    return layers


def layer_factors(network: nn.Module, decay: float) -> dict[str, float]:
    """Return decay ** (layers above it) for every parameter by name.

    Clark et al. 2020 (ELECTRA), appendix A; Bao et al. 2022 (BEiT) for images.
    """
    layers = layer_of_parameters(network)
    top = max(layers.values(), default=0)
    return {name: decay ** (top - layer) for name, layer in layers.items()}


def _blocks(module: nn.Module, prefix: str) -> Iterator[str]:
    """Yield the name prefix of every block, in order."""
    for name, child in module.named_children():
        if isinstance(child, nn.Sequential | nn.ModuleList):
            yield from _blocks(child, f"{prefix}{name}.")
        else:
            yield f"{prefix}{name}."
