"""Number formats: what parameters are stored in, what the forward pass computes in, and loss scaling for fp16."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch.autograd.graph import _engine_run_backward

from megabatch.configs.precision import Bf16, Fp8, Fp16, Fp32, Fp64

_NOTHING = nullcontext()


def exact(outputs: torch.Tensor) -> torch.Tensor:
    """Return outputs in float32 at least: what a loss or a mean of predictions is computed from."""
    return outputs.to(torch.promote_types(outputs.dtype, torch.float32))


@dataclass(frozen=True)
class PrecisionPolicy:
    """How one run computes. `scaler` is None except for fp16."""

    device: torch.device
    parameter_dtype: torch.dtype
    autocast_dtype: torch.dtype | None
    scaler: torch.amp.GradScaler | None

    def autocast(self) -> AbstractContextManager[Any]:
        """Return the context of the forward pass and the loss."""
        if self.autocast_dtype is None:
            return _NOTHING
        return torch.autocast(self.device.type, dtype=self.autocast_dtype)

    def backward(self, losses_N: torch.Tensor, factors_N: torch.Tensor) -> None:
        """Add the gradient of `(losses_N * factors_N).sum()`, times the loss scale if there is one.

        What `losses_N.backward(factors_N)` ends in. Its checks on the way (subclasses, symbolic shapes, nested tensors)
        take 10 to 20 microseconds and can find nothing here.
        """
        scaled_N = losses_N if self.scaler is None else self.scaler.scale(losses_N)
        _engine_run_backward((scaled_N,), (factors_N,), False, False, (), allow_unreachable=True, accumulate_grad=True)

    def unscale(self, optimizer: torch.optim.Optimizer) -> None:
        """Divide the gradients by the loss scale, once they are summed over all ranks."""
        if self.scaler is not None:
            self.scaler.unscale_(optimizer)

    def step(self, optimizer: torch.optim.Optimizer) -> None:
        """Let the optimizer step; fp16 skips it when a gradient overflowed, on all ranks alike."""
        if self.scaler is None:
            optimizer.step()
        else:
            self.scaler.step(optimizer)
            self.scaler.update()

    def pass_over(self) -> None:
        """End a step without an update; fp16 still adapts its scale."""
        if self.scaler is not None:
            self.scaler.update()

    @property
    def scale(self) -> float:
        """Return what gradients are multiplied with until they are unscaled; waits for the device."""
        return 1.0 if self.scaler is None else float(self.scaler.get_scale())


def precision_policy(settings: Fp32 | Fp64 | Bf16 | Fp16 | Fp8, device: torch.device) -> PrecisionPolicy:
    """Return the policy that a recipe's `precision` names; what a device cannot do, abilities.py refuses before."""
    if device.type == "cuda":  # not elsewhere: torch.export refuses to begin once they are set
        _set_tf32(isinstance(settings, Fp32) and settings.tf32)
    if isinstance(settings, Fp64):
        return PrecisionPolicy(device, torch.float64, None, None)
    if isinstance(settings, Bf16 | Fp8):
        return PrecisionPolicy(device, torch.float32, torch.bfloat16, None)
    if isinstance(settings, Fp16):
        scaler = torch.amp.GradScaler(
            device.type, init_scale=settings.initial_scale, growth_interval=settings.growth_interval
        )
        return PrecisionPolicy(device, torch.float32, torch.float16, scaler)
    return PrecisionPolicy(device, torch.float32, None, None)


def _set_tf32(allowed: bool) -> None:
    """Set what a GPU does with float32 in matrix products and convolutions; torch's own defaults differ."""
    precision = "tf32" if allowed else "ieee"
    torch.backends.cuda.matmul.fp32_precision = precision
    torch.backends.cudnn.conv.fp32_precision = precision  # type: ignore[attr-defined]
