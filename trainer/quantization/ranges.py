"""Activations of 8 bits: where they are rounded, and between which bounds; the same for any number of ranks.

The bounds follow the lowest and highest value of every micro-batch, averaged over a step's samples on all ranks, in an
exponential moving average (Jacob et al. 2018, section 3.1). Until the first step has ended there are none, and nothing
is rounded. Bounds are buffers: in checkpoints, and in the average of weights, as the statistics of batch norm are.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import nn
from typing_extensions import override

MOST = 255  # of an unsigned byte
_MOMENTUM = 0.1


class ActivationRange(nn.Module):
    """Rounds a tensor to 256 evenly spaced values, of which 0 is one, and passes gradients where it does not clip.

    As ONNX's QuantizeLinear and DequantizeLinear have it: x is `scale * (q - zero_point)`, q from 0 to 255.
    """

    bounds: torch.Tensor
    scale: torch.Tensor  # these two only when it is written as ONNX
    zero_point: torch.Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("bounds", torch.zeros(2))  # lowest, at most 0, and highest; both 0: not known yet
        self.seen: torch.Tensor | None = None
        self._known = False
        self._in_onnx = False

    @override
    def forward(self, activations: torch.Tensor) -> torch.Tensor:
        if self._in_onnx:
            return _in_onnx(activations, self.scale, self.zero_point)
        if self.training and activations.numel():
            self._look(activations.detach())
        if not (self._known or self._become_known()):
            return activations
        scale, zero_point = scale_and_zero_point(self.bounds)
        exact = activations if activations.dtype == torch.float64 else activations.float()
        rounded = torch.fake_quantize_per_tensor_affine(exact, scale.float(), zero_point, 0, MOST)
        return rounded.to(activations.dtype)

    def _look(self, activations: torch.Tensor) -> None:
        low, high = torch.aminmax(activations)
        seen = torch.stack([low.clamp(max=0.0), high.clamp(min=0.0)]).to(self.bounds.dtype)
        if self.seen is not None:  # called twice in a pass, or computed again in the backward pass
            seen = torch.stack([torch.minimum(seen[0], self.seen[0]), torch.maximum(seen[1], self.seen[1])])
        self.seen = seen

    def _become_known(self) -> bool:
        self._known = not self.bounds.is_meta and bool(self.bounds.any())
        return self._known

    def write_as_onnx(self) -> None:
        """Stand for ONNX's operators from now on, when the network is translated."""
        scale, zero_point = scale_and_zero_point(self.bounds)
        self.register_buffer("scale", scale.float())
        self.register_buffer("zero_point", zero_point.to(torch.uint8))
        self._in_onnx = True

    @override
    def _load_from_state_dict(self, *arguments: Any) -> None:  # Any: as torch has it
        super()._load_from_state_dict(*arguments)
        self.forget()

    def forget(self) -> None:
        """Look again whether there are bounds: a run that goes back to its beginning has none."""
        self._known = False


def scale_and_zero_point(bounds: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """Return scale and zero point of 256 values from bounds[0], at most 0, to bounds[1], at least 0.

    >>> scale, zero_point = scale_and_zero_point(torch.tensor([-1.0, 4.1]))
    >>> round(float(scale), 4), int(zero_point)
    (0.02, 50)
    """
    low, high = bounds.unbind()
    scale = ((high - low) / MOST).clamp(min=1e-12)
    return scale, (-low / scale).round().clamp(0, MOST).to(torch.int32)


def _in_onnx(activations: torch.Tensor, scale: torch.Tensor, zero_point: torch.Tensor) -> torch.Tensor:
    shape = activations.shape
    inputs = (activations, scale, zero_point)
    whole = torch.onnx.ops.symbolic("::QuantizeLinear", inputs, dtype=torch.uint8, shape=shape, version=20)
    return torch.onnx.ops.symbolic(
        "::DequantizeLinear", (whole, scale, zero_point), dtype=torch.float32, shape=shape, version=20
    )


def _after(module: nn.Module, inputs: object, output: torch.Tensor) -> torch.Tensor:
    rounded: torch.Tensor = cast(ActivationRange, module.output_range)(output)
    return rounded


def _before(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    return (cast(ActivationRange, module.input_range)(inputs[0]), *inputs[1:])


def round_output(module: nn.Module) -> None:
    """Round what a module gives, from now on."""
    module.add_module("output_range", ActivationRange())
    module.register_forward_hook(_after)


def round_input(module: nn.Module) -> None:
    """Round what a module takes, from now on."""
    module.add_module("input_range", ActivationRange())
    module.register_forward_pre_hook(_before)


def ranges_of(network: nn.Module) -> list[ActivationRange]:
    """Return all of a network, in its order."""
    return [module for module in network.modules() if isinstance(module, ActivationRange)]


class StepRanges:
    """The bounds of all activations of a network, over one step after the other (trainer/batch_norm.py)."""

    def __init__(self, ranges: Sequence[ActivationRange]):
        self._ranges = ranges
        self._before = [one.bounds.clone() for one in ranges]

    @property
    def numbers(self) -> int:
        """Return how many numbers a micro-batch has."""
        return 2 * len(self._ranges)

    def begin(self) -> None:
        """Remember the bounds before a step; forget what was seen before it."""
        for one, before in zip(self._ranges, self._before, strict=True):
            one.seen = None
            before.copy_(one.bounds)

    def seen(self) -> list[torch.Tensor]:
        """Return and forget the lowest and highest values of the micro-batch just passed through; [] of a filler."""
        found = [one.seen for one in self._ranges if one.seen is not None]
        for one in self._ranges:
            one.seen = None
        assert len(found) in (0, len(self._ranges)), "a pass reaches all of them, or the trace had not seen them"
        return found

    @torch.no_grad()
    def finish(self, sums: torch.Tensor, samples: int) -> None:
        """Move the bounds towards the mean over the step's `samples`; where there are none yet they become it."""
        for one, before, total in zip(self._ranges, self._before, sums.view(-1, 2), strict=True):
            mean = (total / samples).to(before.dtype)
            moved = torch.where(before.any(), before.lerp(mean, _MOMENTUM), mean)
            one.bounds.copy_(torch.where(moved.isfinite().all(), moved, before))  # fp16 overflows now and then

    @torch.no_grad()
    def undo(self) -> None:
        """Put back the bounds from before the step."""
        for one, before in zip(self._ranges, self._before, strict=True):
            one.bounds.copy_(before)
            one.forget()
