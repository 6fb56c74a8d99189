"""Linear layers that multiply in float8, with torchao: forward in e4m3, gradients in e5m2, one scale for a tensor.

Micikevicius et al. 2022, "FP8 formats for deep learning". The scales follow from the tensors of the moment, so there is
no state to save, and the names in a checkpoint stay as they are. Everything else is as in bf16.
"""

from __future__ import annotations

from torch import nn

from megabatch.trainer.errors import TrainingError

_MULTIPLE = 16  # of the sizes of a layer: what the hardware multiplies at once


def announce_fp8(network: nn.Module, num_classes: int) -> str:
    """Return in words what `convert_to_fp8` will do. Raises TrainingError if no layer fits."""
    count = sum(_fits(module, num_classes) for module in network.modules())
    if count == 0:
        raise TrainingError(
            f"precision=fp8: the model has no linear layer, but for the head, whose sizes are multiples of {_MULTIPLE} "
            "(convolutions stay in bf16). Instead: precision=bf16"
        )
    return f"precision: {count} linear layers multiply in float8"


def convert_to_fp8(network: nn.Module, num_classes: int, emulate: bool = False) -> None:
    """Convert the layers in place. `emulate` computes the same numbers without hardware for them, for tests.

    Left out, as torchao advises, are the head and layers whose sizes the hardware cannot multiply. The other size, that
    of the micro-batch, is padded with zeros where it has to be.
    """
    from torchao.float8 import Float8LinearConfig, convert_to_float8_training

    config = Float8LinearConfig(pad_inner_dim=True, emulate=emulate)
    convert_to_float8_training(network, config=config, module_filter_fn=lambda module, name: _fits(module, num_classes))


def _fits(module: nn.Module, num_classes: int) -> bool:
    if type(module) is not nn.Linear or module.out_features == num_classes:
        return False
    return module.in_features % _MULTIPLE == 0 and module.out_features % _MULTIPLE == 0
