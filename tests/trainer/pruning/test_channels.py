"""The small network is what the plan says: as small as asked, and it predicts as the whole one with those channels silent."""

from __future__ import annotations

import copy
import hashlib
from pathlib import Path

import pytest
import timm
import torch
from timm.layers import SqueezeExcite
from torch import nn
from typing_extensions import override

from megabatch.configs.load import load
from megabatch.configs.model import GroupNorm
from megabatch.configs.pruning import Channels
from megabatch.configs.run_dir import RunDir
from megabatch.launcher.prepare import job_of
from megabatch.trainer.errors import TrainingError
from megabatch.trainer.models.convnet import convnet
from megabatch.trainer.network import replace_batch_norms
from megabatch.trainer.pruning.channels import flops_of, make_plan, plans_of_layers
from megabatch.trainer.pruning.plan import Plan, plan_of, shrink, silenced
from megabatch.trainer.sizes import sizes

SIZE = 16


def trained(network: nn.Module) -> nn.Module:
    """Give norms other weights and statistics than those they begin with."""
    torch.manual_seed(3)
    with torch.no_grad():
        for tensor in network.state_dict().values():
            if tensor.is_floating_point() and tensor.ndim == 1:
                tensor.uniform_(0.5, 1.5)
    return network.eval()


def small(network: nn.Module, plan: Plan) -> nn.Module:
    copied = copy.deepcopy(network)
    shrink(copied, Plan.from_json(plan.to_json()))
    return copied


def networks() -> dict[str, nn.Module]:
    torch.manual_seed(2)
    depthwise = [nn.Conv2d(3, 16, 3), nn.BatchNorm2d(16), nn.ReLU(), nn.Conv2d(16, 16, 3, groups=16), SqueezeExcite(16)]
    return {
        "residual": convnet(10, [8, 16, 16]),
        "fx": torch.fx.symbolic_trace(convnet(10, [8, 16])),
        "depthwise and squeeze": nn.Sequential(*depthwise, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 10)),
        "attention": timm.create_model("vit_tiny_patch16_224", img_size=SIZE, patch_size=8, depth=2, num_classes=10),
    }


@pytest.mark.parametrize("name", ["residual", "fx", "depthwise and squeeze", "attention"])
def test_it_predicts_as_the_whole_network_does_with_those_channels_silent(name: str) -> None:
    network = trained(networks()[name])
    plan = make_plan(network, Channels(multiple_of=4), SIZE)
    cut = small(network, plan)
    assert plan.flops == (flops_of(network, SIZE), flops_of(cut, SIZE))
    assert plan.parameters == tuple(sum(p.numel() for p in one.parameters()) for one in (network, cut))
    assert 0.2 < plan.flops[1] / plan.flops[0] <= 0.5
    quiet = copy.deepcopy(network)
    quiet.load_state_dict(silenced(dict(network.state_dict()), plan))
    images = torch.randn(3, 3, SIZE, SIZE, generator=torch.Generator().manual_seed(5))
    with torch.no_grad():
        expected, whole = quiet(images), network(images)
        assert (cut(images) - expected).abs().max() <= 1e-5 * expected.abs().max()
        assert (whole - expected).abs().max() > 1e-3 * expected.abs().max()
    inside = [key for key in plan.tensors if ".attn." in key]
    assert inside == []


def test_channels_are_left_in_whole_multiples_and_kept_layers_keep_theirs() -> None:
    network = trained(convnet(10, [16, 32]))
    cut = small(network, make_plan(network, Channels(multiple_of=8, keep=("0.*",), flops=0.6), SIZE))
    widths = {name: m.out_channels for name, m in cut.named_modules() if isinstance(m, nn.Conv2d)}
    assert widths["0.0"] == 16
    assert all(width % 8 == 0 for width in widths.values())
    assert sum(widths.values()) < 16 + 3 * 32
    assert cut[6].out_features == 10


def test_the_channels_with_the_least_weight_in_their_group_go() -> None:
    """Li et al. 2017 in a network without residuals: sums of squares of a channel's weights, in and out, relative."""
    network = nn.Sequential(
        nn.Conv2d(3, 8, 3, bias=False), nn.ReLU(), nn.Flatten(), nn.Linear(8 * 14 * 14, 2, bias=False)
    )
    torch.manual_seed(4)
    torch.nn.init.normal_(network[0].weight)
    with torch.no_grad():
        network[0].weight.mul_(torch.tensor([3.0, 1, 4, 1.5, 9, 2, 6, 5]).view(8, 1, 1, 1))
        network[3].weight.zero_()
    plan = make_plan(network, Channels(multiple_of=1), SIZE)
    squares = network[0].weight.detach().square().sum(dim=(1, 2, 3))
    kept = plan.tensors["0.weight"]["0"]
    assert kept == sorted(squares.argsort(descending=True)[: len(kept)].tolist())
    assert len(kept) == 4
    assert plan.tensors["3.weight"]["1"] == [196 * channel + pixel for channel in kept for pixel in range(196)]


def test_the_plan_is_the_same_each_time_and_a_group_norm_goes_with_its_groups() -> None:
    network = trained(convnet(10, [16, 32]))
    replace_batch_norms(network, GroupNorm(groups=4))
    plans = [make_plan(network, Channels(scope="global"), SIZE) for _ in range(2)]
    assert plans[0] == plans[1]
    assert small(network, plans[0])(torch.zeros(1, 3, SIZE, SIZE)).shape == (1, 10)


def test_one_layer_alone_loses_the_shares_asked_for() -> None:
    network = trained(convnet(10, [8, 16]))
    plans = plans_of_layers(network, Channels(multiple_of=1), SIZE, [0.25, 0.5])
    assert {layer: [len(p.tensors[f"{layer}.weight"]["0"]) for p in of_layer] for layer, of_layer in plans.items()} == {
        layer: ([6, 4] if layer == "0.0" else [12, 8]) for layer in plans
    }
    assert "0.0" in plans
    assert "6" not in plans


def test_sizes_count_what_is_not_zero(tmp_path: Path) -> None:
    network = nn.Sequential(nn.Flatten(), nn.Linear(3 * 4, 5))
    with torch.no_grad():
        network[1].weight[0] = 0
    found = sizes(network, 2)
    assert (found["parameters"], found["nonzero"], found["flops"]) == (65, 53, 2 * 12 * 5)
    assert 65 * 4 < found["bytes"] < 65 * 4 + 300


class Stubborn(nn.Module):
    """Knows its own width by heart."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 16, 3), nn.Conv2d(16, 10, 3)

    @override
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        features = self.first(images)
        assert features.shape[1] == 16, "I have 16 channels"
        out: torch.Tensor = self.second(features).mean(dim=(2, 3))
        return out


class Blind(Stubborn):
    @override
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        with torch.no_grad():
            return super().forward(images)


class Failing(Stubborn):
    @override
    def forward(self, images: torch.Tensor) -> torch.Tensor:
        raise KeyError("caption")


@pytest.mark.parametrize(
    ("network", "settings", "told"),
    [
        (Stubborn(), Channels(), "without some channels this network does not run .I have 16 channels"),
        (Failing(), Channels(), "torch-pruning cannot follow the channels of this network .*caption"),
        (Blind(), Channels(), "no layer has channels that may go"),
        (convnet(10, [8, 16]), Channels(keep=("*",)), "no layer has channels that may go"),
        (convnet(10, [8, 16]), Channels(keep=("conv1",)), "pruning.keep: 'conv1' fits no convolution or linear layer"),
        (convnet(10, [8, 16]), Channels(flops=0.01), "pruning.flops=0.01: even with all channels gone that may go, 39"),
    ],
)
def test_what_cannot_be_made_smaller_is_told(network: nn.Module, settings: Channels, told: str) -> None:
    with pytest.raises(TrainingError, match=told):
        make_plan(network, settings, SIZE)


def test_a_plan_of_another_network_is_told() -> None:
    plan = make_plan(convnet(10, [8, 16]), Channels(), SIZE)
    for other in (nn.Linear(2, 2), convnet(10, [8, 4])):
        with pytest.raises(TrainingError, match="the plan of removed channels is of another network"):
            shrink(other, plan)


def test_a_plan_that_is_gone_or_changed_is_told(tmp_path: Path) -> None:
    run_dir, text = RunDir(tmp_path), Plan({}, {}, (2, 1), (2, 1)).to_json()
    hashed = hashlib.sha256(text.encode()).hexdigest()
    job = job_of(load("digits", "laptop", [f"pruning={{name: channels, sha256: {hashed}}}"]))
    with pytest.raises(TrainingError, match=r"nobody knows which channels the network of .* has. Put it back"):
        plan_of(job, run_dir)
    run_dir.pruning_plan.write_text(text)
    assert plan_of(job, run_dir) == Plan({}, {}, (2, 1), (2, 1))
    run_dir.pruning_plan.write_text(text + " ")
    with pytest.raises(TrainingError, match="changed since the job was written: put the old file back"):
        plan_of(job, run_dir)
