"""Number formats, each on a real network; and what is refused."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from megabatch.configs.precision import Bf16, Fp16, Fp32, Fp64
from megabatch.trainer.precision import precision_policy

CPU = torch.device("cpu")


def train(settings: Fp32 | Fp64 | Bf16 | Fp16, steps: int = 60) -> list[float]:
    torch.manual_seed(0)
    policy = precision_policy(settings, CPU)
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(), nn.Flatten(), nn.Linear(4 * 36, 3))
    network.to(policy.parameter_dtype)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.05, momentum=0.9)
    images = torch.randn(12, 3, 8, 8, dtype=policy.parameter_dtype)
    labels = torch.arange(12) % 3
    losses = []
    for _ in range(steps):
        with policy.autocast():
            loss = nn.functional.cross_entropy(network(images), labels)
        policy.backward(loss, torch.ones(()))
        policy.unscale(optimizer)
        policy.step(optimizer)
        optimizer.zero_grad()
        losses.append(loss.item())
    assert all(parameter.dtype == policy.parameter_dtype for parameter in network.parameters())
    return losses


@pytest.mark.parametrize(("settings", "expected"), [(Fp32(), "ieee"), (Fp32(tf32=True), "tf32"), (Bf16(), "ieee")])
def test_tf32_is_what_the_recipe_says_on_a_gpu(settings: Fp32 | Bf16, expected: str) -> None:
    """Switches of torch for its GPU code; they can be set without one."""
    products, convolutions = torch.backends.cuda.matmul, torch.backends.cudnn.conv
    before = (products.fp32_precision, convolutions.fp32_precision)
    precision_policy(settings, CPU)
    assert (products.fp32_precision, convolutions.fp32_precision) == before
    try:
        precision_policy(settings, torch.device("cuda"))
        assert (products.fp32_precision, convolutions.fp32_precision) == (expected, expected)
    finally:
        products.fp32_precision, convolutions.fp32_precision = before


@pytest.mark.parametrize("settings", [Fp32(), Fp64(), Bf16(), Fp16(initial_scale=1024.0)])
def test_every_precision_learns(settings: Fp32 | Fp64 | Bf16 | Fp16) -> None:
    losses = train(settings)
    assert losses[-1] < 0.1 * losses[0]


def test_autocast_computes_in_the_named_type() -> None:
    layer = nn.Linear(4, 4)
    for settings, dtype in ((Fp32(), torch.float32), (Bf16(), torch.bfloat16), (Fp16(), torch.float16)):
        with precision_policy(settings, CPU).autocast():
            assert layer(torch.ones(1, 4)).dtype == dtype


def test_fp16_skips_the_step_in_which_a_gradient_overflows_and_lowers_the_scale() -> None:
    policy = precision_policy(Fp16(initial_scale=2.0**16), CPU)
    weight = nn.Parameter(torch.ones(2))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    policy.backward((weight * torch.tensor([1.0, float("inf")])).sum(), torch.ones(()))
    policy.unscale(optimizer)
    policy.step(optimizer)
    assert weight.tolist() == [1.0, 1.0]
    assert policy.scaler is not None
    assert policy.scaler.get_scale() == 2.0**15
    optimizer.zero_grad()
    policy.backward(weight.sum(), torch.ones(()))
    policy.unscale(optimizer)
    policy.step(optimizer)
    assert weight.tolist() == pytest.approx([0.9, 0.9])
