"""The trust ratio by hand, at its edges, and in the dtypes of training."""

from __future__ import annotations

import pytest
import torch

from megabatch.trainer.optim.trust_ratio import host_trust_ratio, norms, trust_ratio

W = torch.tensor([[3.0, 0.0], [0.0, 4.0]])
G = torch.tensor([[0.0, 0.6], [0.8, 0.0]])


def test_a_two_by_two_case_by_hand() -> None:
    # ||w|| = 5, ||g|| = 1; weight decay 0.2 makes the separate denominator 1 + 0.2 * 5 = 2
    assert trust_ratio(norms([W]), norms([G]) + 0.2 * norms([W]), coefficient=0.1).item() == pytest.approx(0.1 * 5 / 2)
    # g + 0.2 * w = [[0.6, 0.6], [0.8, 0.8]]: the joint denominator is sqrt(2)
    assert trust_ratio(norms([W]), norms([G + 0.2 * W]), coefficient=0.1).item() == pytest.approx(0.1 * 5 / 2**0.5)


def test_epsilon_is_added_to_the_denominator() -> None:
    assert trust_ratio(norms([W]), norms([G]), epsilon=1.5).item() == pytest.approx(5 / 2.5)


@pytest.mark.parametrize("epsilon", [0.0, 1e-3])
@pytest.mark.parametrize(("parameter_norm", "update_norm"), [(0.0, 1.0), (1.0, 0.0), (0.0, 0.0)])
def test_the_ratio_is_one_at_a_zero_norm(parameter_norm: float, update_norm: float, epsilon: float) -> None:
    assert trust_ratio(torch.tensor(parameter_norm), torch.tensor(update_norm), 0.001, epsilon).item() == 1.0
    assert host_trust_ratio(parameter_norm, update_norm, 0.001, epsilon) == 1.0


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_norms_of_half_precision_tensors_are_float32(dtype: torch.dtype) -> None:
    length = norms([torch.ones(300 * 300, dtype=dtype) * 256])  # its square, 65536, is beyond float16
    assert length.dtype == torch.float32
    assert length.item() == pytest.approx(300 * 256, rel=1e-4)


def test_norms_of_double_tensors_are_double() -> None:
    length = norms([torch.tensor([1.0, 1e-5], dtype=torch.float64)])
    assert length.dtype == torch.float64
    assert length.item() == pytest.approx((1 + 1e-10) ** 0.5, rel=1e-15)


def test_no_value_is_read_back_from_the_device() -> None:
    meta = torch.empty(3, device="meta")  # a meta tensor has no value: reading one raises
    assert trust_ratio(norms([meta]), norms([meta]), 0.001, 1e-8).shape == (1,)
