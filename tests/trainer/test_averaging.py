"""Averages of weights against torch's AveragedModel and timm's ModelEmaV3."""

from __future__ import annotations

import copy

import pytest
import torch
from timm.utils import ModelEmaV3
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from megabatch.configs.averaging import Ema, Swa
from megabatch.data.steps import Steps
from megabatch.trainer.averaging import WeightAverage

STEPS = Steps(samples=40, epochs=5, global_batch=10, micro_batch=5, last_batch="short")  # 4 steps an epoch


def network() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Linear(6, 2)).double()


def move(model: nn.Module, step: int) -> None:
    """Change weights, statistics and counters, as a step does."""
    generator = torch.Generator().manual_seed(step)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            if tensor.is_floating_point():
                tensor.add_(torch.randn(tensor.shape, generator=generator, dtype=tensor.dtype))
            else:
                tensor.add_(1)


def test_an_ema_is_torchs_once_it_is_warm() -> None:
    model = network()
    average = WeightAverage(model, Ema(decay=0.6), STEPS)
    average.updates = 1000  # far beyond the warmup
    torchs = AveragedModel(model, multi_avg_fn=get_ema_multi_avg_fn(0.6), use_buffers=True)
    torchs.n_averaged.fill_(1)  # or it would begin with a copy of the first weights
    for step in range(1, 8):
        move(model, step)
        average.after_step(step)
        torchs.update_parameters(model)
    for name, expected in torchs.module.state_dict().items():
        if expected.is_floating_point():
            torch.testing.assert_close(average.tensors()[name], expected, rtol=1e-12, atol=1e-12)


def test_the_warmup_of_the_decay_is_its_formula_and_the_rest_is_timms() -> None:
    model = network()
    average = WeightAverage(model, Ema(decay=0.5), STEPS)
    timms = ModelEmaV3(model, decay=0.5, foreach=True)
    for step in range(1, 20):
        move(model, step)
        decay = min(0.5, step / (9 + step))  # (1 + n) / (10 + n) with n = step - 1 updates before
        timms.decay = decay
        timms.update(model)
        average.after_step(step)
    for name, expected in timms.module.state_dict().items():
        if expected.is_floating_point():
            torch.testing.assert_close(average.tensors()[name], expected, rtol=1e-12, atol=1e-12)


def test_a_decay_for_another_batch_is_as_much_for_as_many_samples() -> None:
    """Twice the samples a step: the decay of two steps."""
    model = network()
    one = WeightAverage(model, Ema(decay=0.9, base_batch=5), STEPS)
    two = WeightAverage(model, Ema(decay=0.81), STEPS)
    one.updates = two.updates = 1000
    for step in range(1, 4):
        move(model, step)
        one.after_step(step)
        two.after_step(step)
    for name, tensor in one.tensors().items():
        torch.testing.assert_close(tensor, two.tensors()[name], rtol=1e-12, atol=0)


@pytest.mark.parametrize(("every", "at"), [(1.0, [8, 12, 16, 20]), ("2 steps", [8, 10, 12, 14, 16, 18, 20])])
def test_swa_is_the_mean_of_the_weights_from_its_start_on(every: float | str, at: list[int]) -> None:
    model = network()
    average = WeightAverage(model, Swa(start=2.0, every=every), STEPS)
    seen: list[dict[str, torch.Tensor]] = []
    for step in range(1, STEPS.total + 1):
        move(model, step)
        average.after_step(step)
        if step in at:
            seen.append(copy.deepcopy(dict(model.state_dict())))
    assert average.updates == len(at)
    for name, tensor in average.tensors().items():
        values = torch.stack([one[name] for one in seen])
        expected = values.mean(0) if tensor.is_floating_point() else values[-1]
        torch.testing.assert_close(tensor, expected, rtol=1e-12, atol=1e-12)


def test_the_network_has_the_average_for_a_while_and_then_its_own_weights_again() -> None:
    model = network()
    average = WeightAverage(model, Ema(decay=0.5), STEPS)
    own = copy.deepcopy(model.state_dict())
    with average.in_network():  # there is none yet
        assert all(torch.equal(own[name], tensor) for name, tensor in model.state_dict().items())
    move(model, 1)
    average.after_step(1)
    own = copy.deepcopy(model.state_dict())
    mean = copy.deepcopy(average.tensors())
    with average.in_network():
        assert all(torch.equal(mean[name], tensor) for name, tensor in model.state_dict().items())
    assert all(torch.equal(own[name], tensor) for name, tensor in model.state_dict().items())
    assert all(torch.equal(mean[name], tensor) for name, tensor in average.tensors().items())
