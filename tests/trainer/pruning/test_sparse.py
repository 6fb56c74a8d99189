"""A network with masks trains as if the removed weights had never been there, and says what cannot be pruned."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn.utils import prune

from megabatch.configs.pruning import Cubic, Inherited, Magnitude, NOfM
from megabatch.data.steps import Steps
from megabatch.trainer.errors import TrainingError
from megabatch.trainer.pruning.masks import magnitude_masks
from megabatch.trainer.pruning.sparse import WeightMasks, require_some_left

STEPS = Steps(samples=40, epochs=2, global_batch=4, micro_batch=4, last_batch="short")
HALF = Magnitude(sparsity=0.5)
Make = Callable[[list[nn.Parameter]], torch.optim.Optimizer]


def network() -> nn.Sequential:
    torch.manual_seed(1)
    return nn.Sequential(nn.Conv2d(4, 8, 3), nn.BatchNorm2d(8), nn.Flatten(), nn.Linear(8, 4))


def train(
    model: nn.Module, optimizer: torch.optim.Optimizer, masks: WeightMasks | None, first: int, steps: int
) -> None:
    drawn = torch.Generator().manual_seed(7)
    for step in range(first, first + steps):
        images = torch.randn(4, 4, 3, 3, generator=drawn)
        model(images).square().sum().backward()
        if masks is not None:
            masks.mask_gradients()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        if masks is not None:
            masks.after_step(step + 1, optimizer, {})
        optimizer.zero_grad()


@pytest.mark.parametrize(
    "make",
    [
        lambda p: torch.optim.SGD(p, 0.1, momentum=0.9, weight_decay=0.1),
        lambda p: torch.optim.AdamW(p, 0.1, weight_decay=0.1),
        lambda p: torch.optim.RMSprop(p, 0.01, momentum=0.9),
    ],
    ids=["sgd", "adamw", "rmsprop"],
)
def test_the_rest_trains_like_a_network_whose_gradient_never_had_the_removed_weights(make: Make) -> None:
    """The reference multiplies the weight with the mask in the forward pass, as Zhu and Gupta and torch's prune do."""
    model = network()
    masks = WeightMasks(model, HALF, STEPS)
    train(model, make(list(model.parameters())), masks, 0, 5)
    reference = network()
    found = magnitude_masks({"0": reference[0].weight.detach(), "3": reference[3].weight.detach()}, 0.5, "global")
    for name, mask in found.items():
        prune.custom_from_mask(reference[int(name)], "weight", mask)
        with torch.no_grad():
            reference[int(name)].weight_orig.mul_(mask)
    train(reference, make(list(reference.parameters())), None, 0, 5)
    for layer in (0, 3):
        torch.testing.assert_close(model[layer].weight, reference[layer].weight_orig * found[str(layer)])
        assert (model[layer].weight == 0).sum() == (~found[str(layer)]).sum()


def test_masks_grow_on_schedule_and_what_is_removed_is_forgotten_by_optimizer_and_average() -> None:
    model = network()
    settings = Magnitude(sparsity=0.75, scope="layer", schedule=Cubic(end="8 steps", every_steps=2))
    masks = WeightMasks(model, settings, STEPS)
    optimizer = torch.optim.SGD(model.parameters(), 0.1, momentum=0.9)
    averaged = {"0.weight": torch.ones(8, 4, 3, 3), "1.weight": torch.ones(8)}
    sparsities = []
    for step in range(10):
        train(model, optimizer, masks, step, 1)
        masks.after_step(step + 1, optimizer, averaged)
        sparsities.append(float((model[0].weight == 0).float().mean()))
        assert masks.complete(step + 1) == (step >= 7)
    expected = [0.75 * (1 - (1 - (step // 2) / 4) ** 3) for step in (1, 2, 3, 4, 5, 6, 7, 8, 8, 8)]
    assert sparsities == pytest.approx(expected, abs=1 / 288)
    gone = model[0].weight == 0
    assert not optimizer.state[model[0].weight]["momentum_buffer"][gone].any()
    assert optimizer.state[model[0].weight]["momentum_buffer"][~gone].any()
    assert torch.equal(averaged["0.weight"], (~gone).float())
    assert averaged["1.weight"].all()
    assert masks.describe() == "pruning: magnitude, 240 of 320 weights in 2 layers are zero (75.0%)"
    other = WeightMasks(network(), settings, STEPS)
    other.load(masks.tensors())
    assert all(torch.equal(mask, other.tensors()[name]) for name, mask in masks.tensors().items())


def test_inherited_masks_are_the_zeros_there_are() -> None:
    model = network()
    with torch.no_grad():
        model[3].weight[1, :3] = 0
    masks = WeightMasks(model, Inherited(), STEPS)
    train(model, torch.optim.SGD(model.parameters(), 0.1), masks, 0, 3)
    assert (model[3].weight == 0).nonzero().tolist() == [[1, 0], [1, 1], [1, 2]]
    assert (model[0].weight != 0).all()


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        (
            Magnitude(sparsity=0.5, keep=("fc",)),
            "pruning.keep: 'fc' fits no convolution or linear layer. Allowed: 0, 3.",
        ),
        (Magnitude(sparsity=0.5, keep=("*",)), "every convolution and linear layer is kept or frozen"),
        (Magnitude(sparsity=0.999), "sparsity 0.999 leaves nothing of the network, which has 320 weights"),
        (Magnitude(sparsity=0.99, scope="layer"), "sparsity 0.99 leaves nothing of 3.weight, which has 32 weights"),
        (NOfM(n=1, m=3), r"3 does not divide them everywhere: 0 has 4, 3 has 8. .* pruning.keep=\[0, 3\]"),
    ],
)
def test_what_cannot_be_pruned_is_told_before_any_step(settings: Magnitude | NOfM, told: str) -> None:
    with pytest.raises(TrainingError, match=told):
        WeightMasks(network(), settings, STEPS)


def test_a_layer_whose_weights_are_all_among_the_smallest_is_told() -> None:
    weights = {"a.weight": torch.rand(9) + 1, "b.weight": torch.rand(4)}
    require_some_left(weights, Magnitude(sparsity=0.2))
    with pytest.raises(TrainingError, match=r"leaves nothing of b: .* pruning.scope=layer, or pruning.keep=\[b\]"):
        require_some_left(weights, HALF)
