"""Batch norm in groups against autograd through a formula; frozen against evaluation; what is refused."""

from __future__ import annotations

import pytest
import timm
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError
from timm.layers import BatchNormAct2d
from torch import nn

from megabatch.configs.model import Model
from megabatch.configs.norms import FrozenNorm, GhostNorm, PreciseStatistics, SynchronizedNorm
from megabatch.trainer.batch_norm import StepBatchNorm
from megabatch.trainer.errors import TrainingError
from megabatch.trainer.norms.modes import announce_precise, other_ranks, set_batch_norm

GHOST = GhostNorm(samples=16)


def network(kind: type[nn.BatchNorm2d] = nn.BatchNorm2d) -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), kind(4), nn.ReLU(), nn.Conv2d(4, 2, 1), kind(2)).double()


def images(count: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(count, 3, 6, 6, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def normalized(x: torch.Tensor, norm: nn.BatchNorm2d, samples: int) -> torch.Tensor:
    """Normalize every group of samples by its own mean and variance, written out."""
    out = torch.empty_like(x)
    for first in range(0, len(x), samples):
        group = x[first : first + samples]
        mean = group.mean(dim=(0, 2, 3), keepdim=True)
        var = ((group - mean) ** 2).mean(dim=(0, 2, 3), keepdim=True)
        shape = (1, -1, 1, 1)
        out[first : first + samples] = (group - mean) / (var + norm.eps).sqrt() * norm.weight.view(shape)
        out[first : first + samples] += norm.bias.view(shape)
    return out


@settings(deadline=None, max_examples=20)
@given(st.integers(1, 40), st.integers(1, 20))
def test_groups_are_normalized_by_themselves_forward_and_backward(count: int, samples: int) -> None:
    ours, reference = network(), network()
    set_batch_norm(ours, GhostNorm(samples=samples))
    batch = images(count)
    out = ours(batch)
    (out**3).sum().backward()
    first = normalized(reference[0](batch), reference[1], samples).relu()
    expected = normalized(reference[3](first), reference[4], samples)
    (expected**3).sum().backward()
    torch.testing.assert_close(out, expected, rtol=1e-9, atol=1e-9)
    for got, wanted in zip(ours.parameters(), reference.parameters(), strict=True):
        torch.testing.assert_close(got.grad, wanted.grad, rtol=1e-7, atol=1e-7)


def one_step(model: nn.Sequential, batch: torch.Tensor, micro_batch: int) -> list[torch.Tensor]:
    """Return gradients and buffers after a step."""
    norm = StepBatchNorm(model)
    norm.begin()
    for part in batch.split(micro_batch):
        (model(part) ** 2).sum().backward()
        norm.collect(len(part))
    norm.finish_alone(len(batch))
    return [*(parameter.grad for parameter in model.parameters()), *model.buffers()]


@pytest.mark.parametrize("kind", [nn.BatchNorm2d, BatchNormAct2d])
@pytest.mark.parametrize("count", [96, 75])
def test_micro_batches_of_16_32_and_48_are_the_same_in_groups_of_16(kind: type[nn.BatchNorm2d], count: int) -> None:
    """Gradients and running statistics, also of a micro-batch of 75 - 64 = 11."""
    plain = one_step(network(kind), images(count), 16)
    for micro_batch in (16, 32, 48):
        model = network(kind)
        set_batch_norm(model, GHOST)
        for got, expected in zip(one_step(model, images(count), micro_batch), plain, strict=True):
            torch.testing.assert_close(got, expected, rtol=1e-9, atol=1e-9)
    whole = one_step(network(kind), images(count), 32)
    assert not torch.allclose(whole[-2], plain[-2], rtol=1e-6)


def test_groups_leave_evaluation_and_the_names_of_tensors_alone() -> None:
    ours, reference = network(), network()
    set_batch_norm(ours, GHOST)
    assert ours.state_dict().keys() == reference.state_dict().keys()
    torch.testing.assert_close(ours.eval()(images(40)), reference.eval()(images(40)))


def test_groups_can_be_compiled_and_computed_again() -> None:
    from megabatch.trainer.network import checkpoint_activations

    reference = network()
    set_batch_norm(reference, GHOST)
    expected = one_step(reference, images(40), 40)
    for changed in ("compiled", "again"):
        ours = network()
        set_batch_norm(ours, GHOST)
        if changed == "again":
            checkpoint_activations(ours, ("*",))
        norm = StepBatchNorm(ours)
        norm.begin()
        forward = torch.compile(ours, backend="aot_eager", dynamic=True) if changed == "compiled" else ours
        (forward(images(40)) ** 2).sum().backward()
        norm.collect(40)
        norm.finish_alone(40)
        got = [*(parameter.grad for parameter in ours.parameters()), *ours.buffers()]
        for one, wanted in zip(got, expected, strict=True):
            torch.testing.assert_close(one, wanted, rtol=1e-9, atol=1e-9)


def trained() -> nn.Sequential:
    model = network()
    StepBatchNorm(model)
    model(images(20))
    return model


@pytest.mark.parametrize("affine", ["frozen", "trained"])
def test_frozen_computes_as_in_evaluation_and_keeps_its_statistics(affine: str) -> None:
    ours, reference = trained(), trained().eval()
    before = [buffer.clone() for buffer in ours.buffers()]
    words = set_batch_norm(ours, FrozenNorm(affine=affine))  # type: ignore[arg-type]
    assert words == "batch norm: 2 layers keep their statistics" + (", scale and shift" if affine == "frozen" else "")
    norm = StepBatchNorm(ours.train())
    norm.begin()
    torch.testing.assert_close(ours(images(10)), reference(images(10)), rtol=0, atol=0)
    ours(images(10)).sum().backward()
    norm.collect(10)
    norm.finish_alone(10)
    assert all(torch.equal(buffer, old) for buffer, old in zip(ours.buffers(), before, strict=True))
    assert (ours[1].weight.grad is None) == (affine == "frozen")
    assert ours[0].weight.grad is not None
    assert ours.train().training
    assert ours.state_dict().keys() == reference.state_dict().keys()


def test_frozen_leaves_the_timm_resnet_as_it_evaluates() -> None:
    model = timm.create_model("test_resnet", num_classes=3)
    StepBatchNorm(model)
    model(torch.randn(8, 3, 32, 32))
    expected = model.eval()(torch.ones(2, 3, 32, 32))
    set_batch_norm(model, FrozenNorm())
    torch.testing.assert_close(model.train()(torch.ones(2, 3, 32, 32)), expected)


@pytest.mark.parametrize("mode", [GHOST, SynchronizedNorm(), FrozenNorm()])
def test_a_network_without_batch_norm_is_refused(mode: GhostNorm | SynchronizedNorm | FrozenNorm) -> None:
    with pytest.raises(TrainingError, match=r"model\.batch_norm: the network has no batch norm"):
        set_batch_norm(nn.Sequential(nn.Conv2d(3, 4, 3), nn.GroupNorm(2, 4)), mode)


def test_what_cannot_be_changed_is_refused_by_name() -> None:
    with pytest.raises(TrainingError, match=r"model\.precise_statistics: the network has no batch norm"):
        announce_precise(nn.Linear(2, 2), PreciseStatistics())
    with pytest.raises(TrainingError, match="0 is a SyncBatchNorm, which does more than batch norm"):
        set_batch_norm(nn.Sequential(nn.SyncBatchNorm(4)), GHOST)
    with pytest.raises(TrainingError, match="0 keeps no running statistics"):
        set_batch_norm(nn.Sequential(nn.BatchNorm2d(4, track_running_stats=False)), GHOST)
    with pytest.raises(TrainingError, match="nothing would be normalized"):
        set_batch_norm(network(), FrozenNorm())


@pytest.mark.parametrize(
    ("keys", "message"),
    [
        ({"replace_batch_norm": {"name": "layer_norm"}, "batch_norm": {"name": "synchronized"}},
         "replace_batch_norm leaves no batch norm for batch_norm"),
        ({"replace_batch_norm": {"name": "layer_norm"}, "precise_statistics": {}},
         "replace_batch_norm leaves no batch norm for precise_statistics"),
        ({"batch_norm": {"name": "frozen"}, "precise_statistics": {}}, "frozen keeps the statistics"),
    ],
)  # fmt: skip
def test_keys_that_exclude_each_other_are_refused(keys: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Model.model_validate({"name": "timm/resnet18", **keys})


def test_only_a_synchronized_training_tells_of_another_number_of_ranks() -> None:
    assert other_ranks(SynchronizedNorm(), before=2, now=2) is None
    assert other_ranks(GHOST, before=2, now=3) is None
    told = other_ranks(SynchronizedNorm(), before=2, now=3)
    assert told is not None
    assert "from here on 3 micro-batches are normalized together; before, 2 were" in told
