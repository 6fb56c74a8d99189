"""What a recipe can change in a network: activations, norms, weights, residual blocks, dropout, memory."""

from __future__ import annotations

import math

import pytest
import torch
from torch import nn

from megabatch.configs.initialization import Initialization
from megabatch.configs.model import Model
from megabatch.configs.recipe import Recipe
from megabatch.trainer.errors import TrainingError
from megabatch.trainer.models.initialize import gain_of, initialize_weights
from megabatch.trainer.network import Built, build_network, unreplaced_activations

BASE = {
    "name": "test", "epochs": 1, "data": {"path": "data", "image_size": 32},
    "batch": {"global_batch": 4, "micro_batch": 4}, "optimizer": {"name": "sgd", "base_learning_rate": 0.1},
}  # fmt: skip
CONVNET = "megabatch.trainer.models.convnet:convnet"
SMALL = {"widths": [8, 16]}


def built(model: dict[str, object] | None = None, seed: int = 0, classes: int = 5, **regularization: float) -> Built:
    chosen = {"name": CONVNET, "options": SMALL} | (model or {})
    recipe = Recipe.model_validate({**BASE, "seed": seed, "model": chosen, "regularization": regularization})
    return build_network(recipe, classes)


def weights(network: nn.Module) -> torch.Tensor:
    return torch.nn.utils.parameters_to_vector(network.parameters()).detach()


@pytest.mark.parametrize("changes", [{}, {"initialization": "he_normal"}, {"activation": "gelu"}])
def test_the_seed_decides_the_weights(changes: dict[str, object]) -> None:
    assert torch.equal(weights(built(changes, seed=1).network), weights(built(changes, seed=1).network))
    assert not torch.equal(weights(built(changes, seed=1).network), weights(built(changes, seed=2).network))


def test_without_wishes_nothing_is_changed() -> None:
    assert built().changes == ()


@pytest.mark.parametrize(
    ("activation", "kind"),
    [("sigmoid", nn.Sigmoid), ("tanh", nn.Tanh), ("gelu", nn.GELU), ("silu", nn.SiLU),
     ({"name": "leaky_relu", "slope": 0.3}, nn.LeakyReLU)],
)  # fmt: skip
@pytest.mark.parametrize(("model", "count"), [(CONVNET, 4), ("torchvision/resnet18", 9), ("timm/resnet18", 17)])
def test_every_activation_is_replaced_and_counted(
    activation: object, kind: type[nn.Module], model: str, count: int
) -> None:
    options = SMALL if model == CONVNET else {}
    changed = built({"name": model, "options": options, "activation": activation})
    assert sum(type(module) is nn.ReLU for module in changed.network.modules()) == 0
    assert sum(type(module) is kind for module in changed.network.modules()) == count
    name = activation["name"] if isinstance(activation, dict) else activation
    assert changed.changes == (f"activation: {count} ReLU replaced by {name}",)
    if kind is nn.LeakyReLU:
        assert all(m.negative_slope == 0.3 for m in changed.network.modules() if isinstance(m, nn.LeakyReLU))


def test_gates_stay() -> None:
    """The sigmoid of a squeeze-and-excitation block is no activation that could be another."""
    changed = built({"name": "timm/mobilenetv3_small_050", "options": {}, "activation": "relu"})
    before = built({"name": "timm/mobilenetv3_small_050", "options": {}})
    gates = [sum(type(m).__name__ == "Hardsigmoid" for m in b.network.modules()) for b in (before, changed)]
    assert gates[0] == gates[1] > 0
    assert "Hardswish" in changed.changes[0]


def test_a_network_without_activation_modules_says_so() -> None:
    with pytest.raises(TrainingError, match="has no activation modules"):
        built({"name": "timm/test_vit", "options": {"act_layer": "sigmoid"}, "activation": "relu"})


class Functional(nn.Module):
    """Calls two of its activations as functions, and has one module."""

    def __init__(self, num_classes: int, module: bool = True) -> None:
        super().__init__()
        self.first, self.last = nn.Conv2d(3, 4, 3), nn.Linear(4, num_classes)
        self.act = nn.ReLU() if module else nn.Identity()
        self.norm, self.dropout = nn.BatchNorm2d(4), nn.Dropout(0.5)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        hidden = nn.functional.relu(self.norm(self.first(images)), inplace=True).mean(dim=(2, 3))
        return self.last(self.dropout(self.act(nn.functional.gelu(hidden).relu_()) * hidden.sigmoid()))


def functional_recipe(**options: object) -> Recipe:
    model = {"name": f"{__name__}:Functional", "options": options, "activation": "silu"}
    return Recipe.model_validate({**BASE, "model": model})


def test_activations_called_as_functions_are_counted_and_told() -> None:
    recipe = functional_recipe()
    network = build_network(recipe, 5).network.train()
    network.dropout.eval()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    assert unreplaced_activations(network, recipe) == [
        "activation: 1 gelu, 2 relu called as functions stay, as they cannot be replaced from outside"
    ]
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert network.norm.training
    assert not network.dropout.training
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in network.modules())
    with pytest.raises(TrainingError, match="It calls 1 gelu, 2 relu as functions, which cannot be replaced"):
        build_network(functional_recipe(module=False), 5)


@pytest.mark.parametrize("name", ["timm/resnet18", "torchvision/resnet18", "timm/test_efficientnet", "timm/test_vit"])
def test_modules_that_were_replaced_are_not_counted(name: str) -> None:
    options = {"img_size": 32} if name.endswith("vit") else {}
    recipe = Recipe.model_validate({**BASE, "model": {"name": name, "options": options, "activation": "relu"}})
    assert unreplaced_activations(build_network(recipe, 5).network, recipe) == []


def test_the_last_relu_of_a_densenet_is_a_function() -> None:
    recipe = Recipe.model_validate({**BASE, "model": {"name": "torchvision/densenet121", "activation": "gelu"}})
    (line,) = unreplaced_activations(build_network(recipe, 5).network, recipe)
    assert line.startswith("activation: 1 relu called as functions stay")


REFERENCES = {
    "uniform": ({"name": "uniform", "limit": 0.2}, lambda w: nn.init.uniform_(w, -0.2, 0.2)),
    "normal": ({"name": "normal", "std": 0.3}, lambda w: nn.init.normal_(w, std=0.3)),
    "truncated_normal": ({"name": "truncated_normal"}, lambda w: nn.init.trunc_normal_(w, std=0.02, a=-0.04, b=0.04)),
    "xavier_uniform": ("xavier_uniform", lambda w: nn.init.xavier_uniform_(w, math.sqrt(2))),
    "xavier_normal": ("xavier_normal", lambda w: nn.init.xavier_normal_(w, math.sqrt(2))),
    "he_uniform": ("he_uniform", lambda w: nn.init.kaiming_uniform_(w, mode="fan_out", nonlinearity="relu")),
    "he_normal": ({"name": "he_normal", "fan": "fan_in"}, lambda w: nn.init.kaiming_normal_(w, nonlinearity="relu")),
    "orthogonal": ("orthogonal", lambda w: nn.init.orthogonal_(w, math.sqrt(2))),
}


@pytest.mark.parametrize("name", REFERENCES)
def test_weights_are_drawn_as_torch_draws_them(name: str) -> None:
    """The same generator, the same numbers: layer by layer in the order of the network."""
    settings, reference = REFERENCES[name]
    network = built({"initialization": settings}).network
    before = built().network
    from megabatch.data.hashing import key

    torch.manual_seed(key(0, 60))
    for mine, layer in zip(network.modules(), before.modules(), strict=True):
        if isinstance(layer, nn.Conv2d | nn.Linear):
            torch.testing.assert_close(mine.weight, reference(layer.weight.detach().clone()), rtol=1e-6, atol=0)
            assert layer.bias is None or not mine.bias.any()


VARIANCES = {"he_normal": lambda i, o: 2 / o, "he_uniform": lambda i, o: 2 / o, "xavier_normal": lambda i, o: 4 / (i + o),
             "xavier_uniform": lambda i, o: 4 / (i + o)}  # fmt: skip


@pytest.mark.parametrize("name", VARIANCES)
def test_variances_are_those_of_the_papers(name: str) -> None:
    from pydantic import TypeAdapter

    layer = nn.Sequential(nn.Conv2d(64, 96, 3))
    line = initialize_weights(layer, TypeAdapter(Initialization).validate_python(name), None, seed=0)
    weight = layer[0].weight.detach().double()
    expected = VARIANCES[name](64 * 9, 96 * 9)
    assert float(weight.var()) == pytest.approx(expected, rel=0.02)  # 55,296 draws: a standard deviation is 0.6 %
    assert abs(float(weight.mean())) < 4 * math.sqrt(expected / weight.numel())
    assert line == f"initialization: {name} for the weights of 1 layers, gain 1.414"


@pytest.mark.parametrize(
    ("activation", "gain"),
    [("sigmoid", 1.0), ("tanh", 5 / 3), ("relu", math.sqrt(2)), ("silu", math.sqrt(2)), ("gelu", math.sqrt(2)),
     ({"name": "leaky_relu", "slope": 0.5}, math.sqrt(2 / 1.25))],
)  # fmt: skip
def test_the_gain_is_that_of_the_activation(activation: object, gain: float) -> None:
    model = Model.model_validate({"name": "timm/resnet18", "activation": activation})
    assert gain_of(model.activation) == pytest.approx(gain)


@pytest.mark.parametrize(
    ("model", "blocks"),
    [("torchvision/resnet18", 8), ("timm/resnet50", 16), ("torchvision/resnet50", 16)],
)
def test_residual_blocks_begin_as_the_identity(model: str, blocks: int) -> None:
    options = {"zero_init_last": False} if model.startswith("timm") else {}
    changed = built({"name": model, "options": options, "zero_init_residual": True})
    scales = [m.weight for m in changed.network.modules() if isinstance(m, nn.BatchNorm2d)]
    assert sum(not scale.any() for scale in scales) == blocks
    assert changed.changes == (f"residual blocks: {blocks} begin as the identity",)
    changed.network(torch.randn(2, 3, 32, 32)).square().sum().backward()
    assert all(scale.grad is not None and scale.grad.any() for scale in scales if not scale.any())


def test_a_network_without_residual_blocks_says_so() -> None:
    with pytest.raises(TrainingError, match="no residual block was recognised"):
        built({"name": "torchvision/alexnet", "options": {}, "zero_init_residual": True})
    with pytest.raises(TrainingError, match="no residual block was recognised"):
        built({"zero_init_residual": True})  # its branch ends in a ReLU: a scale of 0 would stay 0


@pytest.mark.parametrize(("settings", "groups"), [({"name": "group_norm", "groups": 8}, 8), ("layer_norm", 1)])
def test_batch_norms_are_replaced(settings: object, groups: int) -> None:
    changed = built({"replace_batch_norm": settings})
    norms = [module for module in changed.network.modules() if isinstance(module, nn.GroupNorm)]
    assert [norm.num_groups for norm in norms] == [groups] * 4
    assert not any(isinstance(module, nn.BatchNorm2d) for module in changed.network.modules())
    images = torch.randn(6, 3, 8, 8)
    together = changed.network(images)
    alone = torch.cat([changed.network(image[None]) for image in images])
    torch.testing.assert_close(together, alone, rtol=1e-4, atol=1e-5)  # no sample sees another one
    with pytest.raises(TrainingError, match="has no batch norm"):
        built({"name": "torchvision/alexnet", "options": {}, "replace_batch_norm": "layer_norm"})


def test_dropout_and_stochastic_depth_are_set_where_the_model_has_them() -> None:
    changed = built(dropout=0.3)
    assert [m.p for m in changed.network.modules() if isinstance(m, nn.Dropout)] == [0.3]
    convnext = built({"name": "torchvision/convnext_tiny", "options": {}}, stochastic_depth=0.18)
    from torchvision.ops import StochasticDepth

    rates = [module.p for module in convnext.network.modules() if isinstance(module, StochasticDepth)]
    assert rates == pytest.approx([0.18 * number / 18 for number in range(1, 19)])
    timm = built({"name": "timm/test_vit", "options": {}}, stochastic_depth=0.2, dropout=0.1).network
    assert max(getattr(module, "drop_prob", 0.0) or 0.0 for module in timm.modules()) == pytest.approx(0.2)


@pytest.mark.parametrize(
    ("model", "rates", "message"),
    [
        ({"name": "torchvision/resnet18", "options": {}}, {"dropout": 0.1}, "has no dropout modules"),
        ({}, {"stochastic_depth": 0.1}, "has no torchvision.ops.StochasticDepth modules"),
        ({"name": "timm/test_vit", "options": {"drop_rate": 0.2}}, {"dropout": 0.1}, "name the same rate"),
        ({"checkpoint_activations": ("layer*",)}, {}, "no module of the network matches 'layer\\*'"),
    ],
)
def test_what_a_model_does_not_have_is_an_error(
    model: dict[str, object], rates: dict[str, float], message: str
) -> None:
    with pytest.raises(TrainingError, match=message):
        built(model, **rates)


def test_activations_computed_again_give_the_same_gradients_bit_for_bit() -> None:
    """With dropout inside, and batch norm, whose statistics are those of one pass."""

    def gradients(**changes: object) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
        network = built(changes, dropout=0.5).network
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = 1.0  # as the trainer sets it (trainer/batch_norm.py)
        torch.manual_seed(3)
        network(torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(1))).square().sum().backward()
        running = [m.running_var for m in network.modules() if isinstance(m, nn.BatchNorm2d)]
        return [p.grad for p in network.parameters() if p.grad is not None], [r for r in running if r is not None]

    plain, again = gradients(), gradients(checkpoint_activations=("2", "5"))
    for one, other in zip([*plain[0], *plain[1]], [*again[0], *again[1]], strict=True):
        assert torch.equal(one, other)
    assert built({"checkpoint_activations": ("2", "2.*")}).changes == (
        "activations: 1 modules computed again in the backward pass",
    )
