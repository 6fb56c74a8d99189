"""Weights of few values, worked out by hand, and what they have in common."""

from __future__ import annotations

import pytest
import torch

from megabatch.configs.quantization import AnyQuantization, Binary, Int8, Levels, Ternary
from megabatch.trainer.quantization.weights import best_step, num_values, quantized, straight_through

ALL: list[AnyQuantization] = [Int8(), Binary(), Ternary(), *(Levels(count=count) for count in (2, 3, 4, 5, 16, 256))]


def drawn(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(3))


def test_binary_weights_are_signs_times_the_mean_size_of_their_channel() -> None:
    found = quantized(torch.tensor([[1.0, -2.0, 0.0], [-3.0, 3.0, 6.0]]), Binary())
    assert found.values().tolist() == [[1.0, -1.0, 1.0], [-4.0, 4.0, 4.0]]


def test_ternary_weights_below_the_threshold_are_zero_and_the_others_have_their_mean_size() -> None:
    found = quantized(torch.tensor([[1.0, -2.0, 0.1, 0.9], [0.0, 0.0, 0.0, 0.0]]), Ternary())  # 0.7 * 1.0 = 0.7
    assert found.multipliers.tolist() == [[1.0, -1.0, 0.0, 1.0], [0.0] * 4]
    assert found.scales.tolist() == pytest.approx([1.3, 0.0])


def test_int8_weights_reach_127_in_every_channel() -> None:
    found = quantized(torch.tensor([[1.0, -0.5, 0.004], [0.0, 0.0, 0.0]]), Int8())
    assert found.multipliers.tolist() == [[127.0, -64.0, 1.0], [0.0, 0.0, 0.0]]
    assert found.values()[0, 0] == 1.0


@pytest.mark.parametrize("levels", [2, 3, 4, 5, 16])
def test_levels_are_evenly_spaced_around_zero_and_all_of_them_are_used(levels: int) -> None:
    found = quantized(drawn(1, 5000), Levels(count=levels))
    assert found.multipliers.unique().tolist() == [number - (levels - 1) / 2 for number in range(levels)]
    assert (0.0 in found.multipliers) == bool(levels % 2)
    nearest = found.scales * found.multipliers.unique()
    assert torch.allclose(found.values(), nearest[(drawn(1, 5000).view(-1, 1) - nearest).abs().argmin(1)])


@pytest.mark.parametrize(("levels", "published"), [(2, 1.596), (3, 1.224), (4, 0.9957), (8, 0.5860), (16, 0.3352)])
def test_the_distance_of_levels_is_that_of_max(levels: int, published: float) -> None:
    assert best_step(levels) == pytest.approx(published, abs=5e-4)


def test_two_levels_are_binary_weights_and_three_nearly_ternary_ones() -> None:
    """Of normally distributed weights: their mean size is sqrt(2 / pi), half of 1.596."""
    weight = drawn(2, 4000)
    two, binary = (quantized(weight, settings).values() for settings in (Levels(count=2), Binary()))
    assert torch.allclose(two, binary, rtol=1e-3)
    three, ternary = (quantized(weight, settings).values() for settings in (Levels(count=3), Ternary()))
    assert ((three != 0) == (ternary != 0)).double().mean() > 0.95


@pytest.mark.parametrize("settings", ALL, ids=str)
def test_a_weight_has_no_more_values_than_it_may_and_zeros_do_no_harm(settings: AnyQuantization) -> None:
    weight = drawn(3, 4, 5, 5)
    weight[1] = 0
    found = quantized(weight, settings)
    assert found.values().isfinite().all()
    assert all(len(channel.unique()) <= num_values(settings) for channel in found.multipliers)
    assert found.scales.shape == (3,)


@pytest.mark.parametrize("settings", ALL, ids=str)
def test_the_gradient_goes_straight_through_and_the_values_are_the_quantized_ones_bit_for_bit(
    settings: AnyQuantization,
) -> None:
    weight = drawn(4, 30).requires_grad_()
    factor = drawn(4, 30)
    values = straight_through(weight, settings)
    (values * factor).sum().backward()
    assert torch.equal(values, quantized(weight.detach(), settings).values())
    assert weight.grad is not None
    assert torch.equal(weight.grad, factor)


def test_the_integers_of_int8_stay_when_a_channel_is_multiplied_as_a_batch_norm_does() -> None:
    weight, factors = drawn(6, 9), torch.tensor([0.25, 1.0, -3.0, 1e-3, -0.1, 7.0])
    before, after = quantized(weight, Int8()), quantized(weight * factors[:, None], Int8())
    assert torch.equal(after.multipliers, before.multipliers * factors.sign()[:, None])
    assert torch.allclose(after.scales, before.scales * factors.abs())
