"""Layers for learning rates that fall towards the input: timm's where it has them, else the order of the children."""

from __future__ import annotations

import pytest
import timm
from timm.optim import param_groups_layer_decay
from torch import nn
from torchvision import models

from megabatch.configs.optimizers import AdamW
from megabatch.trainer.optim.groups import parameter_groups
from megabatch.trainer.optim.layers import layer_factors, layer_of_parameters


@pytest.mark.parametrize("name", ["vit_tiny_patch16_224", "resnet18", "convnext_atto"])
def test_factors_are_those_of_timm(name: str) -> None:
    network = timm.create_model(name, num_classes=10)
    theirs = {
        id(parameter): group["lr_scale"]
        for group in param_groups_layer_decay(network, layer_decay=0.75)
        for parameter in group["params"]
    }
    settings = AdamW(base_learning_rate=1.0, layer_decay=0.75)
    ours = {
        id(parameter): group["learning_rate_factor"]
        for group in parameter_groups(network, settings)
        for _, parameter in group["params"]
    }
    assert ours == theirs
    assert len(set(ours.values())) > 2


def test_without_a_matcher_layers_are_the_children_and_the_members_of_sequentials() -> None:
    layers = layer_of_parameters(models.resnet18(num_classes=4))
    tops = {".".join(name.split(".")[: 2 if name.startswith("layer") else 1]): layer for name, layer in layers.items()}
    assert tops == {
        "conv1": 0, "bn1": 1, "layer1.0": 2, "layer1.1": 3, "layer2.0": 4, "layer2.1": 5, "layer3.0": 6, "layer3.1": 7,
        "layer4.0": 8, "layer4.1": 9, "fc": 10,
    }  # fmt: skip


def test_children_without_parameters_are_no_layers() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.ReLU(), nn.Sequential(nn.Flatten(), nn.Linear(2, 2)))
    assert layer_of_parameters(network) == {"0.weight": 0, "0.bias": 0, "2.1.weight": 1, "2.1.bias": 1}
    assert layer_factors(network, 0.5) == {"0.weight": 0.5, "0.bias": 0.5, "2.1.weight": 1.0, "2.1.bias": 1.0}


def test_what_belongs_to_no_child_is_in_the_first_layer() -> None:
    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    network.register_parameter("token", nn.Parameter(network[0].weight.clone()))
    assert layer_of_parameters(network)["token"] == 0


def test_ten_layers_and_more_are_told_apart() -> None:
    layers = layer_of_parameters(nn.Sequential(*(nn.Linear(1, 1, bias=False) for _ in range(12))))
    assert layers == {f"{number}.weight": number for number in range(12)}
