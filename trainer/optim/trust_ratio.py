"""The trust ratio that LARS and LAMB share, as a pure function of two norms.

Stays on the device: nothing here may read a value back to the host, which would stall the GPU once per parameter.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def norms(tensors: Sequence[Tensor]) -> Tensor:
    """Return the Euclidean norms as one vector; float32 for bfloat16 and float16, else the tensors' own dtype."""
    dtype = torch.promote_types(tensors[0].dtype, torch.float32)
    return torch.stack(torch._foreach_norm(list(tensors), 2, dtype=dtype))


def norm(tensor: Tensor) -> float:
    """Return the Euclidean norm of a tensor on the CPU, as a number on the host."""
    length: Tensor = torch.linalg.vector_norm(tensor)
    return length.item()


def trust_ratio(parameter_norm: Tensor, update_norm: Tensor, coefficient: float = 1.0, epsilon: float = 0.0) -> Tensor:
    """Return coefficient * ||w|| / (||u|| + epsilon), and 1 where ||w|| or ||u|| is 0; element by element.

    LARS (You, Gitman and Ginsburg 2017, algorithm 1): ||u|| is ||g|| + weight_decay * ||w||, the variant `separate`,
    or ||g + weight_decay * w||, the variant `joint`. LAMB (You et al. 2020, algorithm 2): u is Adam's update plus the
    decay, coefficient 1. Neither paper defines the ratio at a zero norm; 1 is the choice of optax. A parameter that
    starts at 0 therefore takes its first step at the whole learning rate, without the coefficient.

    >>> trust_ratio(torch.tensor(5.0), torch.tensor(2.0), coefficient=0.5)
    tensor(1.2500)
    """
    defined = (parameter_norm > 0) & (update_norm > 0)
    return torch.where(defined, coefficient * parameter_norm / (update_norm + epsilon), 1.0)


def host_trust_ratio(
    parameter_norm: float, update_norm: float, coefficient: float = 1.0, epsilon: float = 0.0
) -> float:
    """Return what `trust_ratio` does, of numbers on the host.

    >>> host_trust_ratio(5.0, 2.0, coefficient=0.5)
    1.25
    """
    defined = parameter_norm > 0 and update_norm > 0
    return coefficient * parameter_norm / (update_norm + epsilon) if defined else 1.0
