"""Linear probes: what is the head, what is frozen with the rest, and what is refused."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from megabatch.configs.errors import ConfigError
from megabatch.configs.load import load
from megabatch.configs.recipe import Recipe
from megabatch.trainer.errors import TrainingError
from megabatch.trainer.models.load import load_model
from megabatch.trainer.network import Built, build_network
from megabatch.trainer.optim.groups import freeze
from megabatch.trainer.pretrained.read import Weights

TIMM = "model={name: timm/test_resnet, pretrained: a.pt, train: head}"
OURS = (
    "model={name: 'megabatch.trainer.models.convnet:convnet', options: {widths: [8, 8]}, pretrained: a.pt, train: %s}"
)


def recipe_of(*overrides: str) -> Recipe:
    return load("digits", "laptop", overrides).recipe


def probe(*overrides: str, classes: int = 4) -> Built:
    """Build a network for 4 classes on the weights of one for 10, whose batch norms have seen images."""
    recipe = recipe_of(*overrides)
    torch.manual_seed(77)
    trained = load_model(recipe.model, 10)
    for module in trained.modules():
        if isinstance(module, _BatchNorm):
            nn.init.normal_(module.running_mean)
    built = build_network(recipe, classes, Weights(trained.state_dict(), "a.pt"))
    freeze(built.network, recipe.optimizer)
    return built


def trained(network: nn.Module) -> list[str]:
    return [name for name, parameter in network.named_parameters() if parameter.requires_grad]


@pytest.mark.parametrize(
    ("override", "names"),
    [
        (TIMM, ["fc.weight", "fc.bias"]),
        ("model={name: timm/test_vit, pretrained: a.pt, train: head}", ["head.weight", "head.bias"]),
        (OURS % "{name: head, match: '6.*'}", ["6.weight", "6.bias"]),
        (OURS % "{name: head, match: '6.weight'}", ["6.weight"]),
    ],
)
def test_nothing_but_the_head_is_trained(override: str, names: list[str]) -> None:
    built = probe(override)
    assert trained(built.network) == names
    assert f"train: the head alone, {', '.join(sorted(names))}" in built.changes


def test_a_step_moves_the_head_and_no_other_tensor() -> None:
    network = probe(TIMM).network.train()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    images = torch.randn(8, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    features = network.eval().forward_features(images)  # type: ignore[operator]
    torch.testing.assert_close(network.train().forward_features(images), features)  # type: ignore[operator]
    optimizer = torch.optim.SGD([p for p in network.parameters() if p.requires_grad], lr=0.1)
    network(images).square().sum().backward()
    optimizer.step()
    moved = [name for name, tensor in network.state_dict().items() if not torch.equal(tensor, before[name])]
    assert moved == ["fc.weight", "fc.bias"]


def test_a_head_that_nobody_names_is_asked_for() -> None:
    with pytest.raises(
        TrainingError, match=r"model.train: \{name: head, match: PATTERN\}; its last parameters are .*6.bias"
    ):
        probe(OURS % "head")
    with pytest.raises(TrainingError, match=r"match 'fc' fits no parameter. .*6.bias"):
        probe(OURS % "{name: head, match: fc}")


def test_a_rule_for_what_is_not_trained_is_refused() -> None:
    with pytest.raises(TrainingError, match=r"match 'conv1\*' fits nothing of the head"):
        probe(TIMM, "optimizer.groups=[{match: 'conv1*', learning_rate_factor: 2}]")
    assert trained(probe(TIMM, "optimizer.groups=[{match: fc.bias, frozen: true}]").network) == ["fc.weight"]


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("model={name: timm/resnet18, train: head}", "train: head needs a network that is trained already"),
        (f"{TIMM[:-1]}, batch_norm: synchronized}}", "train: head keeps the statistics of batch norms"),
        (f"{TIMM[:-1]}, precise_statistics: {{}}}}", "train: head keeps the statistics of batch norms"),
    ],
)
def test_a_probe_of_untrained_or_moving_features_is_refused(override: str, told: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as refused:
        recipe_of(override)
    assert told in str(refused.value)
