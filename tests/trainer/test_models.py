"""Models by name: timm, torchvision, a user's own; weights a function of the seed."""

from __future__ import annotations

import doctest

import pytest
import torch

from megabatch.configs.model import Model
from megabatch.trainer.errors import TrainingError
from megabatch.trainer.models import convnet
from megabatch.trainer.models.load import load_model


@pytest.mark.parametrize("name", ["timm/resnet10t", "torchvision/resnet18", "megabatch.trainer.models.convnet:convnet"])
def test_a_model_has_one_output_for_each_class(name: str) -> None:
    network = load_model(Model(name=name), num_classes=7)
    assert network.eval()(torch.zeros(1, 3, 32, 32)).shape == (1, 7)


def test_options_reach_the_model() -> None:
    small = load_model(Model(name="megabatch.trainer.models.convnet:convnet", options={"widths": (4, 8)}), 3)
    large = load_model(Model(name="megabatch.trainer.models.convnet:convnet"), 3)
    assert sum(p.numel() for p in small.parameters()) < 0.01 * sum(p.numel() for p in large.parameters())


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("timm/resnet_50", "timm has no model 'resnet_50'. Did you mean resnet50"),
        ("torchvision/resnet5", "torchvision has no model 'resnet5'. Did you mean resnet50"),
        ("collections:OrderedDict", "returned OrderedDict, not a torch.nn.Module"),
        ("no_such_module:thing", "No module named 'no_such_module'"),
        ("megabatch.trainer.models.convnet:convet", "has no 'convet'. Did you mean convnet"),
    ],
)
def test_an_unknown_model_names_the_nearest(name: str, message: str) -> None:
    with pytest.raises(TrainingError, match=message):
        load_model(Model(name=name), 10)


def test_the_examples_in_the_docstrings_run() -> None:
    assert doctest.testmod(convnet, extraglobs={"torch": torch}).failed == 0
