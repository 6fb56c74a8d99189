"""Rounded activations: which values they have, and how their bounds follow the training."""

from __future__ import annotations

import math

import pytest
import torch

from megabatch.trainer.quantization.ranges import ActivationRange, StepRanges, scale_and_zero_point

CPU = torch.device("cpu")


def with_bounds(low: float, high: float) -> ActivationRange:
    made = ActivationRange()
    made.bounds.copy_(torch.tensor([low, high]))
    return made


@pytest.mark.parametrize("bounds", [(-1.0, 4.1), (0.0, 3.0), (-2.0, 0.0)])
def test_values_are_those_of_onnx_and_zero_is_one_of_them(bounds: tuple[float, float]) -> None:
    made = with_bounds(*bounds).eval()
    values = torch.linspace(-3, 5, 999).requires_grad_()
    scale, zero_point = scale_and_zero_point(made.bounds)
    expected = scale * ((values / scale).round().add(zero_point).clamp(0, 255) - zero_point)
    rounded = made(values)
    assert torch.allclose(rounded, expected, atol=1e-6)
    assert made(torch.zeros(1)) == 0
    rounded.sum().backward()
    assert values.grad is not None
    inside = (values > bounds[0] + scale) & (values < bounds[1] - scale)
    assert values.grad[inside].eq(1).all()
    assert values.grad[(values < bounds[0] - scale) | (values > bounds[1] + scale)].eq(0).all()


@pytest.mark.parametrize("dtype", [torch.float64, torch.bfloat16])
def test_activations_keep_their_dtype(dtype: torch.dtype) -> None:
    assert with_bounds(0.0, 2.55)(torch.tensor([1.004], dtype=dtype)).dtype == dtype


def steps_of(made: ActivationRange, ranges: StepRanges, *micro_batches: list[float]) -> None:
    ranges.begin()
    sums, samples = torch.zeros(2, dtype=torch.float64), 0
    for values in micro_batches:
        made(torch.tensor(values))
        sums += torch.cat(ranges.seen()).double() * len(values)
        samples += len(values)
    ranges.finish(sums, samples)


def test_bounds_begin_with_the_first_step_and_follow_the_mean_of_micro_batches() -> None:
    made = ActivationRange().train()
    ranges = StepRanges([made])
    assert torch.equal(made(torch.tensor([0.123])), torch.tensor([0.123])), "not known yet"
    steps_of(made, ranges, [-1.0, 3.0], [2.0, 5.0, 1.0, 1.0])
    assert made.bounds.tolist() == pytest.approx([-1 / 3, 3 * 2 / 6 + 5 * 4 / 6])
    assert made(torch.tensor([0.123])) != 0.123
    steps_of(made, ranges, [0.0, 8.0])
    assert made.bounds.tolist() == pytest.approx([-0.9 / 3, 0.9 * 26 / 6 + 0.8])


def test_a_step_that_is_passed_over_leaves_no_trace_nor_do_infinite_activations_and_evaluations() -> None:
    made = ActivationRange().train()
    ranges = StepRanges([made])
    steps_of(made, ranges, [0.0, 3.0])
    assert made(torch.tensor([0.123])) != 0.123
    ranges.undo()
    assert made.bounds.tolist() == [0, 0]
    assert torch.equal(made(torch.tensor([0.123])), torch.tensor([0.123]))
    steps_of(made, ranges, [0.0, 3.0])
    steps_of(made, ranges, [0.0, math.inf])
    assert made.bounds.tolist() == [0, 3]
    made.eval()(torch.tensor([9.0]))
    assert made.seen is None
    made.load_state_dict({"bounds": torch.zeros(2)})
    assert torch.equal(made(torch.tensor([0.123])), torch.tensor([0.123])), "back at the beginning"


def test_a_filler_is_not_seen_and_a_module_that_is_called_twice_has_both() -> None:
    made = ActivationRange().train()
    ranges = StepRanges([made])
    ranges.begin()
    made(torch.zeros(0, 3))
    assert ranges.seen() == []
    made(torch.tensor([-2.0, 1.0]))
    made(torch.tensor([0.0, 4.0]))
    assert ranges.seen()[0].tolist() == [-2.0, 4.0]
