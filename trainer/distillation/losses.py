"""How far outputs are from what teachers say, one number for each sample. Pure functions of tensors.

Shapes: N samples, K outputs. `outputs` are the student's, `taught` what `teaching` made of the teachers' outputs. All
arithmetic is in float32 at least. Teachers' weights add up to 1.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from megabatch.configs.distillation import Form
from megabatch.trainer.precision import exact


def teaching(form: Form, outputs_NK: Sequence[Tensor], weights: Sequence[float], temperature: float) -> Tensor:
    """Return the weighted mean of what teachers predict: softened probabilities, or the outputs themselves.

    The mean is one of probabilities, not of logits (Hinton, Vinyals and Dean 2015, section 5: the arithmetic mean).
    """
    predicted = [
        _predicted(form, exact(outputs), temperature) * w for outputs, w in zip(outputs_NK, weights, strict=True)
    ]
    return torch.stack(predicted).sum(dim=0) if len(predicted) > 1 else predicted[0]


def distance(form: Form, outputs_NK: Tensor, taught_NK: Tensor, temperature: float) -> Tensor:
    """Return distances_N, with p what is taught, z the outputs and T the temperature.

    softmax        T**2 * sum_k p_k (log p_k - log softmax(z / T)_k)        Hinton, Vinyals and Dean 2015, section 2
    sigmoid        T**2 * mean_k KL(Bernoulli(p_k) || Bernoulli(s(z_k / T)))        s the sigmoid
    squared_error  mean_k (z_k - p_k)**2
    """
    outputs_NK = exact(outputs_NK)
    taught_NK = taught_NK.to(outputs_NK.dtype)
    if form == "squared_error":
        return functional.mse_loss(outputs_NK, taught_NK, reduction="none").mean(dim=1)
    softened_NK = outputs_NK / temperature
    if form == "sigmoid":
        crossed_NK = functional.binary_cross_entropy_with_logits(softened_NK, taught_NK, reduction="none")
        entropy_NK: Tensor = torch.special.entr(taught_NK) + torch.special.entr(1 - taught_NK)
        return (crossed_NK - entropy_NK).mean(dim=1) * (temperature * temperature)
    log_NK = functional.log_softmax(softened_NK, dim=1)
    return functional.kl_div(log_NK, taught_NK, reduction="none").sum(dim=1) * (temperature * temperature)


def _predicted(form: Form, outputs_NK: Tensor, temperature: float) -> Tensor:
    if form == "squared_error":
        return outputs_NK
    softened_NK = outputs_NK / temperature
    return softened_NK.sigmoid() if form == "sigmoid" else softened_NK.softmax(dim=1)
