"""What is done to the gradient of a whole step before the update: penalties, then clipping. The same on all ranks."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from megabatch.configs.regularization import Regularization
from megabatch.trainer.sharding import cut_like, in_one_piece, is_sharded, local


@torch.no_grad()
def add_penalties(weights: Sequence[nn.Parameter], l1: float, l2: float) -> None:
    """Add the gradient of `l1 * sum |w| + l2 / 2 * sum w**2` over the weights that have a gradient."""
    trained = [weight for weight in weights if weight.grad is not None]
    gradients: list[Tensor] = [weight.grad for weight in trained if weight.grad is not None]
    if l2:
        torch._foreach_add_(gradients, trained, alpha=l2)  # type: ignore[arg-type]
    if l1:
        torch._foreach_add_(gradients, torch._foreach_sign(trained), alpha=l1)  # type: ignore[arg-type]


def clip(
    parameters: Sequence[nn.Parameter],
    settings: Regularization,
    measured: bool,
    sum_over_ranks: Callable[[Tensor], None] | None = None,
) -> Tensor | None:
    """Clip the gradient as the recipe says; return its norm before, where `measured` or needed for it.

    `sum_over_ranks` is given where the parameters are shards of the network's, and no rank has the whole gradient.

    `clip_norm` scales the whole gradient down to a norm (Pascanu et al. 2013), `clip_value` cuts each element, and
    `clip_adaptive` limits the norm of each row to a share of the norm of its weights (Brock et al. 2021, equation 3).
    """
    norm = _norm(parameters, sum_over_ranks) if measured or settings.clip_norm is not None else None
    if settings.clip_norm is not None and norm is not None:
        nn.utils.clip_grads_with_norm_(parameters, settings.clip_norm, norm)
    if settings.clip_value is not None:
        nn.utils.clip_grad_value_(parameters, settings.clip_value)
    if settings.clip_adaptive is not None:
        _clip_adaptive([p for p in parameters if p.grad is not None], settings.clip_adaptive)
    return norm


def _clip_adaptive(parameters: Sequence[nn.Parameter], share: float) -> None:
    from timm.utils.agc import adaptive_clip_grad

    plain = [_with_whole_rows(parameter) for parameter in parameters]
    adaptive_clip_grad(plain, share)
    for parameter, clipped in zip(parameters, plain, strict=True):
        if is_sharded(parameter) and parameter.ndim <= 1:
            assert parameter.grad is not None
            assert clipped.grad is not None
            parameter.grad.copy_(cut_like(parameter.grad, clipped.grad))


def _with_whole_rows(parameter: nn.Parameter) -> nn.Parameter:
    """Return a parameter as it is; of one that is cut by rows this rank's rows, and a vector, one row, in one piece."""
    if not is_sharded(parameter):
        return parameter
    assert parameter.grad is not None
    part = in_one_piece if parameter.ndim <= 1 else local
    plain = nn.Parameter(part(parameter.detach()))
    plain.grad = part(parameter.grad)
    return plain


def _norm(parameters: Sequence[nn.Parameter], sum_over_ranks: Callable[[Tensor], None] | None) -> Tensor:
    """Return the norm of the whole gradient."""
    norm = in_one_piece(nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None]))
    if sum_over_ranks is None:
        return norm
    square = norm.double().square()
    sum_over_ranks(square)
    return square.sqrt().to(norm.dtype)
