"""Starts residual blocks as the identity: the scale of the last norm of each branch is 0 (Goyal et al. 2017, 5.1).

Only where the norm is the last of its branch, as in ResNets. Behind a ReLU, as in our convnet, no gradient would ever
reach a scale of 0.
"""

from __future__ import annotations

from torch import nn

from megabatch.trainer.errors import TrainingError
from megabatch.trainer.optim.groups import NORMALIZATIONS

_LAST = ("bn3", "norm3", "bn2", "norm2")  # in ResNets of torchvision and timm; the last one that a block has


def zero_residual_blocks(network: nn.Module) -> str:
    """Set the scales to 0. Raises TrainingError if no residual block with a norm at the end of its branch is found."""
    norms = [norm for norm in map(_last_norm, network.modules()) if norm is not None]
    if not norms:
        raise TrainingError(
            "model.zero_init_residual: no residual block was recognised (blocks with a `downsample` and a `bn3` or "
            "`bn2`, as in the ResNets of timm and torchvision). The model may have an option of its own (model.options)"
        )
    for norm in norms:
        nn.init.zeros_(norm.weight)  # type: ignore[arg-type]
    return f"residual blocks: {len(norms)} begin as the identity"


def _last_norm(block: nn.Module) -> nn.Module | None:
    if not hasattr(block, "downsample"):
        return None
    candidates = [getattr(block, name, None) for name in _LAST]
    return next((norm for norm in candidates if isinstance(norm, NORMALIZATIONS)), None)
