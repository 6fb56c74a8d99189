"""Which activations a forward pass calls as functions (`F.relu(x)`): nothing outside of its code can replace them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode
from typing_extensions import override

# Of torch.nn.functional, torch and Tensor. Sigmoid and tanh are not among them: in most networks they are gates.
_FUNCTIONS = frozenset(
    {"relu", "relu_", "relu6", "leaky_relu", "leaky_relu_", "elu", "elu_", "selu", "celu", "prelu", "rrelu", "gelu",
     "silu", "mish", "hardswish", "softplus"}
)  # fmt: skip


def called_activations(network: nn.Module, image_size: int, modules: Iterable[str]) -> str:
    """Return the activations called as functions when an image passes, as in "2 relu, 1 gelu"; "" if there are none.

    `modules` are the class names of activation modules: what these call is theirs. The network is left as it was.
    """
    watch = _Watch(frozenset(modules))
    hooks = [hook for module in network.modules() for hook in watch.hooks(module)]
    training = [module for module in network.modules() if module.training]
    try:
        with torch.no_grad(), watch:
            network.eval()(torch.zeros(1, 3, image_size, image_size))
    except Exception:  # the plan says elsewhere if images do not pass through a network
        return ""
    finally:
        for hook in hooks:
            hook.remove()
        for module in training:
            module.training = True
    return ", ".join(f"{count} {name}" for name, count in sorted(watch.counts.items()))


class _Watch(TorchFunctionMode):
    """Counts calls of activations, outside of the modules that are activations themselves."""

    def __init__(self, modules: frozenset[str]):
        super().__init__()
        self.counts: Counter[str] = Counter()
        self._modules = modules
        self._inside: list[str] = []

    def hooks(self, module: nn.Module) -> list[Any]:  # Any: torch's handles
        name = type(module).__name__
        return [
            module.register_forward_pre_hook(lambda *_: self._inside.append(name)),
            module.register_forward_hook(lambda *_: self._leave()),
        ]

    @override
    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        name = getattr(func, "__name__", "")
        if name in _FUNCTIONS and not (self._inside and self._inside[-1] in self._modules):
            self.counts[name.rstrip("_")] += 1
        return func(*args, **(kwargs or {}))

    def _leave(self) -> None:
        self._inside.pop()
