"""LARS and LAMB take the same steps whichever implementation a parameter gets, and tell their trust ratios."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from megabatch.configs.optimizers import Lamb as LambSettings
from megabatch.configs.optimizers import Lars as LarsSettings
from megabatch.trainer.optim.groups import parameter_groups
from megabatch.trainer.optim.lamb import Lamb, lamb
from megabatch.trainer.optim.lars import Lars, lars
from megabatch.trainer.optim.layerwise import LayerwiseOptimizer, Member
from megabatch.trainer.optim.state import load_optimizer, optimizer_numbers, optimizer_tensors

CASES: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "lars": (lars, LarsSettings, {}),
    "lars_joint": (lars, LarsSettings, {"denominator": "joint"}),
    "lamb": (lamb, LambSettings, {}),
    "lamb_without_decay": (lamb, LambSettings, {"weight_decay": 0.0}),
    "lamb_without_bias_correction": (lamb, LambSettings, {"bias_correction": False}),
}
EACH = pytest.mark.parametrize("case", CASES)


def network(dtype: torch.dtype = torch.float32) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(32, 5)).to(dtype)


def build(case: str, model: nn.Module, rate: float = 0.05) -> LayerwiseOptimizer:
    make, settings, changes = CASES[case]
    chosen = settings(**{"base_learning_rate": 1.0, "weight_decay": 0.01, **changes})
    optimizer: LayerwiseOptimizer = make(parameter_groups(model, chosen), chosen, rate)
    return optimizer


def learn(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range = range(6), scale: float = 0.05) -> None:
    for step in steps:
        generator = torch.Generator().manual_seed(step)
        for group in optimizer.param_groups:
            group["lr"] = scale / (1 + step)
        for parameter in model.parameters():
            noise = torch.randn(parameter.shape, generator=generator, dtype=torch.float64)
            parameter.grad = noise.to(parameter.dtype)
        optimizer.step()


def calls_of(monkeypatch: pytest.MonkeyPatch, name: str) -> list[int]:
    """Count the parameters that `name` updates."""
    counted: list[int] = []
    for kind in (Lars, Lamb):
        original = getattr(kind, name)

        def counting(self: Any, group: Any, members: list[Member], original: Any = original) -> Any:
            counted.append(len(members))
            return original(self, group, members)

        monkeypatch.setattr(kind, name, counting)
    return counted


def plain_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make torch look as if it had no fused kernels."""
    monkeypatch.setattr("megabatch.trainer.optim.lars._HAS_FUSED_SGD", False)
    monkeypatch.setattr("megabatch.trainer.optim.lamb._HAS_FUSED_ADAMW", False)


@EACH
def test_fused_and_plain_agree_to_rounding(case: str, monkeypatch: pytest.MonkeyPatch) -> None:
    fused, plain = network(), network()
    updated = calls_of(monkeypatch, "fused")
    learn(fused, build(case, fused))
    assert sum(updated) == 6 * len(list(fused.parameters()))
    plain_only(monkeypatch)
    learn(plain, build(case, plain))
    assert sum(updated) == 6 * len(list(fused.parameters()))
    for one, other in zip(fused.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=2e-6, atol=2e-7)


@EACH
def test_one_launch_over_all_parameters_is_bit_for_bit_one_after_the_other(
    case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a GPU runs (plain over lists), on the CPU."""
    plain_only(monkeypatch)
    single, together = network(), network()
    learn(single, build(case, single))
    updated = calls_of(monkeypatch, "plain")
    as_on_a_gpu(monkeypatch)
    learn(together, build(case, together))
    assert updated == [2, 4] * 6  # two weights, then four biases and norms
    assert all(torch.equal(a, b) for a, b in zip(single.parameters(), together.parameters(), strict=True))


def as_on_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    def step_group(self: LayerwiseOptimizer, group: dict[str, Any]) -> None:
        members = [Member(p, p.grad, self._state(p)) for p in group["params"] if p.grad is not None]
        self.plain(group, members)

    monkeypatch.setattr(LayerwiseOptimizer, "_step_group", step_group)


@pytest.mark.parametrize("rate", [1e-2, 1e-4, 1e-6])
def test_fused_lars_keeps_six_digits_of_a_small_learning_rate(rate: float) -> None:
    """The kernel is told 1 - rate * ratio, with a ratio of 3e-4: that must come back from it."""
    single, double = network(), network(torch.float64)
    buffers = []
    for model in (single, double):
        optimizer = build("lars", model)
        learn(model, optimizer, range(1), scale=rate)
        buffers.append(optimizer.state[model[0].weight]["momentum_buffer"].double())
    torch.testing.assert_close(*buffers, rtol=2e-6, atol=0)


@EACH
@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last])
def test_a_parameter_in_any_layout_goes_on_from_a_checkpoint_bit_for_bit(case: str, memory_format: Any) -> None:
    alone, resumed = (network().to(memory_format=memory_format) for _ in range(2))
    optimizer = build(case, alone)
    learn(alone, optimizer, range(3))
    saved = {path: tensor.contiguous().clone() for path, tensor in optimizer_tensors(optimizer).items()}
    resumed.load_state_dict(alone.state_dict())
    again = build(case, resumed)
    load_optimizer(again, saved, optimizer_numbers(optimizer))
    for model, of_model in ((alone, optimizer), (resumed, again)):
        learn(model, of_model, range(3, 6))
    assert all(torch.equal(a, b) for a, b in zip(alone.parameters(), resumed.parameters(), strict=True))


@EACH
def test_a_parameter_with_gaps_in_memory_is_updated_like_a_dense_one(case: str) -> None:
    wide = torch.randn(4, 10, generator=torch.Generator().manual_seed(3))
    gaps, dense = (nn.ParameterDict({"w": nn.Parameter(w)}) for w in (wide.clone()[:, ::2], wide[:, ::2].clone()))
    for model in (gaps, dense):
        learn(model, build(case, model))
    torch.testing.assert_close(gaps["w"], dense["w"], rtol=1e-5, atol=1e-6)


@EACH
def test_bfloat16_parameters_follow_the_plain_rule(case: str) -> None:
    half, single = network().bfloat16(), network()
    for model in (half, single):
        learn(model, build(case, model), range(2))
    assert all(parameter.dtype == torch.bfloat16 for parameter in half.parameters())
    torch.testing.assert_close(half[3].weight.float(), single[3].weight, rtol=0.05, atol=0.01)


@EACH
@pytest.mark.parametrize("fused", [True, False])
def test_trust_ratios_are_told_for_adapted_parameters_when_they_are_kept(
    case: str, fused: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not fused:
        plain_only(monkeypatch)
    model = network()
    optimizer = build(case, model)
    learn(model, optimizer, range(1))
    assert optimizer.trust_ratios() == {}
    optimizer.keep_trust_ratios = True
    before = model[3].weight.detach().clone()
    gradient_step = range(1, 2)
    learn(model, optimizer, gradient_step)
    ratios = optimizer.trust_ratios()
    assert list(ratios) == ["0.weight", "3.weight"]
    if case == "lars":
        w, g = before.norm(), model[3].weight.grad.norm()
        assert ratios["3.weight"] == pytest.approx((0.001 * w / (g + 0.01 * w)).item(), rel=1e-5)
    if case == "lamb":  # the step has the length lr * ||w||
        moved = (model[3].weight.detach() - before).norm()
        assert moved.item() == pytest.approx((0.05 / 2 * before.norm()).item(), rel=1e-4)
