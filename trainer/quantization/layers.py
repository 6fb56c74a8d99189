"""Makes layers compute with weights of few bits: the class of a layer changes, its parameters stay what they are.

The full-precision weights keep their names, and are what the optimizer, checkpoints, engines and averages have. In
every pass they are quantized anew, and the gradient goes straight through to them.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, cast

import torch
from torch import nn
from torch.nn import functional
from torch.nn.modules.conv import _ConvNd
from typing_extensions import override

from megabatch.configs.quantization import AnyQuantization, Int8
from megabatch.trainer.errors import TrainingError, first_line
from megabatch.trainer.pruning.layers import kept_layers, layers_with_weights
from megabatch.trainer.quantization.ranges import ActivationRange, round_input, round_output
from megabatch.trainer.quantization.trace import Traced, trace
from megabatch.trainer.quantization.weights import num_values, quantized, straight_through
from megabatch.trainer.sharding import local

Tensors = dict[str, torch.Tensor]
_SHOWN = 6
_CONVOLUTIONS = (nn.Conv1d, nn.Conv2d, nn.Conv3d)


class QuantizedLayer(nn.Module):
    """What is added to the class of a layer."""

    quantization: AnyQuantization
    weight: nn.Parameter

    @property
    def plain_class(self) -> type[nn.Module]:
        """Return the class that the layer had."""
        own = next(kind for kind in type(self).__mro__ if kind.__name__.startswith("Quantized"))
        return own.__bases__[1]


class _Convolution(QuantizedLayer):
    @override
    def forward(self, features: torch.Tensor) -> torch.Tensor:
        convolution = cast(Any, self)
        result: torch.Tensor = convolution._conv_forward(
            features, straight_through(self.weight, self.quantization), convolution.bias
        )
        return result


class _Linear(QuantizedLayer):
    @override
    def forward(self, features: torch.Tensor) -> torch.Tensor:
        return functional.linear(features, straight_through(self.weight, self.quantization), cast(Any, self).bias)


def quantize_layers(network: nn.Module, settings: AnyQuantization, image_size: int) -> str:
    """Quantize all layers but those that stay, in place; return it in words. Raises TrainingError.

    The network is on the CPU in float32, and its weights do not matter.
    """
    try:
        traced = trace(network, image_size)
    except Exception as error:  # a network may do anything with images it was not made for
        raise TrainingError(
            f"quantization: {image_size} x {image_size} images do not pass the network: {first_line(error)}"
        ) from error
    kept = _kept(network, settings, traced)
    layers = layers_with_weights(network)
    chosen = {name: layers[name] for name in traced.called if name not in kept}
    if not chosen:
        raise TrainingError(
            "quantization: every convolution and linear layer is kept, so there is nothing to quantize: name fewer in "
            "quantization.keep, write keep_ends: false, or quantization: null"
        )
    _require_plain(chosen)
    for layer in chosen.values():
        _change_class(layer, settings)
    if isinstance(settings, Int8):
        _round_activations(network, list(chosen), traced)
    staying = [name for name in layers if name not in chosen]
    staying_told = f"; in full precision: {_first(staying)}" if staying else ""
    return f"quantization: {settings.name}, {_values(settings)} in {len(chosen)} layers{staying_told}"


def quantized_layers(network: nn.Module) -> dict[str, QuantizedLayer]:
    """Return the layers that compute with weights of few bits, by name."""
    return {name: module for name, module in network.named_modules() if isinstance(module, QuantizedLayer)}


def make_plain(network: nn.Module) -> None:
    """Let layers compute with their full-precision weights again; activations stay rounded."""
    for layer in quantized_layers(network).values():
        layer.__class__ = layer.plain_class  # type: ignore[assignment]


@torch.no_grad()
def folded(network: nn.Module) -> Tensors:
    """Return the network's tensors with quantized weights in place of those behind them, and without bounds."""
    bounds = tuple(f"{name}." for name, module in network.named_modules() if isinstance(module, ActivationRange))
    tensors = {name: tensor for name, tensor in network.state_dict().items() if not name.startswith(bounds or "\n")}
    for name, layer in quantized_layers(network).items():
        tensors[f"{name}.weight" if name else "weight"] = quantized(layer.weight, layer.quantization).values()
    return tensors


@torch.no_grad()
def clip_weights(network: nn.Module) -> None:
    """Keep the full-precision weights of quantized layers within [-1, 1] (Courbariaux et al. 2015, section 2.4)."""
    for layer in quantized_layers(network).values():
        local(layer.weight).clamp_(-1.0, 1.0)


def _kept(network: nn.Module, settings: AnyQuantization, traced: Traced) -> set[str]:
    kept = kept_layers(network, settings.keep, "quantization.keep")
    return kept | {traced.called[0], traced.called[-1]} if settings.keep_ends and traced.called else kept


def _require_plain(layers: Mapping[str, nn.Module]) -> None:
    """Raise TrainingError for layers that do more with their weights than a convolution or a product."""
    others = [name for name, layer in layers.items() if not _is_plain(layer)]
    if others:
        kinds = sorted({type(layers[name]).__name__ for name in others})
        raise TrainingError(
            f"quantization: {_first(others)} of class {', '.join(kinds)} have a forward pass of their own, so nobody "
            "knows what they do with their weights. Leave them in full precision: "
            f"quantization.keep=[{', '.join(others)}]"
        )


def _is_plain(layer: nn.Module) -> bool:
    kind: Any = type(layer)
    if isinstance(layer, nn.Linear):
        return bool(kind.forward is nn.Linear.forward)
    return any(
        kind.forward is plain.forward and kind._conv_forward is plain._conv_forward
        for plain in _CONVOLUTIONS
        if isinstance(layer, plain)
    )


def _change_class(layer: nn.Module, settings: AnyQuantization) -> None:
    added = _Convolution if isinstance(layer, _ConvNd) else _Linear
    plain = type(layer)
    layer.__class__ = type(f"Quantized{plain.__name__}", (added, plain), {})
    layer.quantization = settings  # type: ignore[assignment]  # no module and no tensor


def _round_activations(network: nn.Module, chosen: list[str], traced: Traced) -> None:
    outputs = {traced.ends[name] for name in chosen if name in traced.ends}
    outputs |= {source for name in chosen if (source := traced.sources[name]) is not None}
    for name in (name for name, _ in list(network.named_modules()) if name in outputs):
        round_output(network.get_submodule(name))
    for name in chosen:
        if traced.sources[name] is None:
            round_input(network.get_submodule(name))


def _values(settings: AnyQuantization) -> str:
    if isinstance(settings, Int8):
        return "8-bit weights and activations"
    return f"weights of {num_values(settings)} values"


def _first(names: list[str]) -> str:
    more = f" and {len(names) - _SHOWN} more" if len(names) > _SHOWN else ""
    return ", ".join(names[:_SHOWN]) + more
