"""Dropout and stochastic depth in networks that have the modules for it. Which modules drop depends on the library.

timm's models take their rates as they are built (trainer/models/load.py); in others the modules that are there are set.
"""

from __future__ import annotations

from torch import nn

from megabatch.trainer.errors import TrainingError

_DROPOUTS = (nn.Dropout, nn.Dropout1d, nn.Dropout2d, nn.Dropout3d)


def set_dropout(network: nn.Module, model: str, rate: float) -> str:
    """Set the rate of every dropout module (Srivastava et al. 2014). Raises TrainingError if there is none."""
    if model.startswith("timm/"):
        return f"dropout: {rate:g}, as timm applies drop_rate"
    modules = [module for module in network.modules() if isinstance(module, _DROPOUTS)]
    if not modules:
        raise TrainingError(f"regularization.dropout: {model} has no dropout modules: leave it out, or add them")
    for module in modules:
        module.p = rate
    return f"dropout: {len(modules)} modules with rate {rate:g}"


def set_stochastic_depth(network: nn.Module, model: str, rate: float) -> str:
    """Set the rates of the l-th of L blocks to `rate * l / L` (Huang et al. 2016, equation 4)."""
    if model.startswith("timm/"):
        return f"stochastic depth: up to {rate:g}, as timm applies drop_path_rate"
    from torchvision.ops import StochasticDepth

    modules = [module for module in network.modules() if isinstance(module, StochasticDepth)]
    if not modules:
        raise TrainingError(
            f"regularization.stochastic_depth: {model} has no torchvision.ops.StochasticDepth modules. Leave it out, "
            "or take a model that has them (timm's, torchvision's convnext, efficientnet, swin)"
        )
    for number, module in enumerate(modules, 1):
        module.p = rate * number / len(modules)
    return f"stochastic depth: {len(modules)} modules with rates up to {rate:g}"
