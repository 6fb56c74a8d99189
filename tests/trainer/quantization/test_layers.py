"""Layers that compute with weights of few bits, where activations are rounded, and what is refused."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn
from typing_extensions import override

from megabatch.configs.quantization import AnyQuantization, Binary, Int8, Levels, Ternary
from megabatch.trainer.errors import TrainingError
from megabatch.trainer.models.convnet import convnet
from megabatch.trainer.quantization.layers import clip_weights, folded, make_plain, quantize_layers, quantized_layers
from megabatch.trainer.quantization.ranges import ActivationRange
from megabatch.trainer.quantization.trace import trace
from megabatch.trainer.quantization.weights import num_values, quantized

LAYERS = ["0.0", "1.0", "2.body.0.0", "2.body.1.0", "6"]


def network() -> nn.Sequential:
    torch.manual_seed(1)
    return convnet(3, [4, 8])


class Block(nn.Module):
    """As residual blocks of timm are: the sum is made in place, and only then the ReLU is called."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.norm, self.act = nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.ReLU(inplace=True)
        self.head = nn.Linear(3, 2)

    @override
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.norm(self.conv(images))
        features += images
        result: torch.Tensor = self.head(self.act(features).mean(dim=(2, 3)))
        return result


class Standardized(nn.Conv2d):
    @override
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return nn.functional.conv2d(images, self.weight - self.weight.mean())


@pytest.mark.parametrize("settings", [Binary(), Ternary(), Levels(count=4)], ids=str)
def test_a_network_computes_with_quantized_weights_and_keeps_the_names_of_the_others(settings: AnyQuantization) -> None:
    whole = network().eval()
    small = copy.deepcopy(whole)
    told = quantize_layers(small, settings, 16)
    assert list(small.state_dict()) == list(whole.state_dict())
    assert list(quantized_layers(small)) == LAYERS[1:-1]
    assert told.endswith(f"weights of {num_values(settings)} values in 3 layers; in full precision: 0.0, 6")
    for name in LAYERS[1:-1]:
        weight = whole.get_submodule(name).weight
        assert isinstance(weight, nn.Parameter)
        with torch.no_grad():
            weight.copy_(quantized(weight, settings).values())
    images = torch.randn(2, 3, 16, 16)
    assert torch.equal(small(images), whole(images))
    assert all(torch.equal(tensor, whole.state_dict()[name]) for name, tensor in folded(small).items())


def test_int8_rounds_behind_each_group_of_layers_and_before_what_no_group_gives() -> None:
    small = network()
    quantize_layers(small, Int8(), 16)
    assert list(quantized_layers(small)) == LAYERS
    rounded = [name for name, module in small.named_modules() if isinstance(module, ActivationRange)]
    assert rounded == [
        "0.0.input_range", "0.2.output_range", "1.2.output_range", "2.body.0.2.output_range", "2.body.1.2.output_range",
        "4.output_range",
    ]  # fmt: skip
    assert set(folded(small)) == set(network().state_dict())
    make_plain(small)
    assert [type(small.get_submodule(name)) for name in LAYERS] == [nn.Conv2d] * 4 + [nn.Linear]


def test_a_relu_behind_a_sum_is_no_part_of_the_convolution_before_the_sum() -> None:
    found = trace(Block(), 4)
    assert found.called == ["conv", "head"]
    assert found.ends == {"conv": "norm"}
    assert found.sources == {"conv": None, "head": None}
    in_place = nn.Sequential(
        nn.Conv2d(3, 3, 1), nn.BatchNorm2d(3), nn.ReLU(inplace=True), nn.Identity(), nn.Conv2d(3, 3, 1)
    )
    found = trace(in_place.train(), 4)
    assert (found.ends["0"], found.sources["4"], in_place.training) == ("2", "2", True)


@pytest.mark.parametrize(
    ("model", "settings", "told"),
    [
        (network(), Ternary(keep=("head*",)), "quantization.keep: 'head\\*' fits no convolution or linear layer"),
        (network(), Ternary(keep=("*.0",)), "quantization: every convolution and linear layer is kept.* keep_ends: false"),
        (nn.Sequential(Standardized(3, 3, 1), nn.Flatten(), nn.Linear(48, 2)), Int8(),
         "quantization: 0 of class Standardized have a forward pass of their own.*quantization.keep=\\[0\\]"),
        (nn.Sequential(nn.Flatten(), nn.Linear(7, 2)), Int8(), "quantization: 4 x 4 images do not pass the network"),
    ],
)  # fmt: skip
def test_what_cannot_be_quantized_is_told(model: nn.Module, settings: AnyQuantization, told: str) -> None:
    with pytest.raises(TrainingError, match=told):
        quantize_layers(model, settings, 4)


def test_kept_layers_stay_whole_and_a_layer_that_is_never_called_is_left_alone() -> None:
    small = network()
    small.add_module("7", nn.Identity())
    small[7].add_module("unused", nn.Linear(2, 2))
    told = quantize_layers(small, Int8(keep=("2.*",), keep_ends=True), 16)
    assert list(quantized_layers(small)) == ["1.0"]
    assert told.endswith("in full precision: 0.0, 2.body.0.0, 2.body.1.0, 6, 7.unused")


def test_weights_behind_binary_ones_are_clipped_and_others_are_not() -> None:
    small = network()
    quantize_layers(small, Binary(keep=("1.0",)), 16)
    with torch.no_grad():
        for parameter in small.parameters():
            parameter.fill_(3.0)
    clip_weights(small)
    clipped = {name for name, parameter in small.named_parameters() if parameter.max() == 1.0}
    assert clipped == {"2.body.0.0.weight", "2.body.1.0.weight"}
