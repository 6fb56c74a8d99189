"""The model `ensemble`: its outputs against the means they stand for, shared layers against whole networks."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from megabatch.configs.normalization import Fixed
from megabatch.trainer.distillation.teachers import rescaling
from megabatch.trainer.ensemble import scores
from megabatch.trainer.errors import TrainingError
from megabatch.trainer.models.branches import branch, trunk_and_branch
from megabatch.trainer.models.ensemble import Ensemble, combined, ensemble
from megabatch.trainer.models.load import load_model

OURS = {"name": "megabatch.trainer.models.convnet:convnet", "options": {"widths": [6, 8]}}
WIDER = {"name": "megabatch.trainer.models.convnet:convnet", "options": {"widths": [8, 8]}}
WEIGHTS = torch.tensor([0.5, 0.3, 0.2])


def outputs(members: int = 3) -> list[Tensor]:
    torch.manual_seed(0)
    return [5 * torch.randn(7, 4) for _ in range(members)]


def mean(values: list[Tensor]) -> Tensor:
    return sum((value * weight for value, weight in zip(values, WEIGHTS, strict=True)), torch.zeros(()))


def test_softmax_of_the_whole_is_the_mean_probability() -> None:
    found = combined("softmax", "probabilities", outputs(), WEIGHTS.log())
    torch.testing.assert_close(found.softmax(dim=1), mean([one.softmax(dim=1) for one in outputs()]))


def test_sigmoid_of_the_whole_is_the_mean_sigmoid() -> None:
    found = combined("sigmoid", "probabilities", outputs(), WEIGHTS.log())
    torch.testing.assert_close(found.sigmoid(), mean([one.sigmoid() for one in outputs()]))


@pytest.mark.parametrize(("form", "average"), [("softmax", "logits"), ("squared_error", "probabilities")])
def test_numbers_and_logits_are_averaged_themselves(form: Any, average: Any) -> None:
    torch.testing.assert_close(combined(form, average, outputs(), WEIGHTS.log()), mean(outputs()))


def test_outputs_stay_finite_where_probabilities_are_not_told_from_0() -> None:
    sure = [torch.tensor([[300.0, 0.0]]), torch.tensor([[0.0, 300.0]])]
    for form in ("softmax", "sigmoid"):
        assert combined(form, "probabilities", sure, torch.tensor([0.5, 0.5]).log()).isfinite().all()  # type: ignore[arg-type]


def test_bfloat16_is_averaged_in_float32() -> None:
    assert (
        combined("softmax", "probabilities", [one.bfloat16() for one in outputs()], WEIGHTS.log()).dtype
        == torch.float32
    )


def test_a_member_of_weight_0_does_not_count() -> None:
    network = ensemble(4, members=[OURS, OURS, WIDER]).eval()
    assert isinstance(network, Ensemble)
    network.set_weights([0.75, 0.0, 0.25])
    images = torch.randn(3, 3, 8, 8)
    first, _, third = network.member_outputs(images)
    expected = (0.75 * first.softmax(1) + 0.25 * third.softmax(1)).log()
    torch.testing.assert_close(network(images), expected)


def test_each_member_sees_pixels_as_it_was_trained_with() -> None:
    own, its = Fixed(mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6)), Fixed()
    member = {**OURS, "normalize": its.model_dump(mode="json")}
    network = ensemble(4, members=[OURS, member], normalize=own.model_dump(mode="json")).eval()
    assert isinstance(network, Ensemble)
    images = torch.randn(2, 3, 8, 8)
    rescale = rescaling(own, its, torch.device("cpu"), torch.float32)
    assert rescale is not None
    first, second = network.member_outputs(images)
    assert torch.equal(first, network.members[0](images))
    torch.testing.assert_close(second, network.members[1](rescale(images)))
    assert not torch.allclose(second, network.members[1](images))
    assert not [name for name in network.state_dict() if not name.startswith("members.")]


def test_learned_weights_are_trained_and_stay_a_mixture() -> None:
    network = ensemble(4, members=[OURS, OURS], weights=[3, 1], learn_weights=True)
    images, labels = torch.randn(6, 3, 8, 8), torch.arange(6) % 4
    assert network.log_weights.exp().tolist() == pytest.approx([0.75, 0.25])
    functional.cross_entropy(network(images), labels).backward()
    assert isinstance(network.log_weights, nn.Parameter)
    assert network.log_weights.grad is not None
    assert network.log_weights.grad.abs().min() > 0
    network.log_weights.data += 7
    assert network(images).exp().sum(dim=1).tolist() == pytest.approx([1.0] * 6)


CHAINS = [
    (OURS, "1", 8),
    ({"name": "timm/resnet10t"}, "layer2", 32),
    ({"name": "timm/resnet10t"}, "layer2.0", 32),
    ({"name": "torchvision/resnet18"}, "layer1", 32),
]


@pytest.mark.parametrize(("member", "layer", "size"), CHAINS, ids=[f"{m['name']} {layer}" for m, layer, _ in CHAINS])
def test_networks_that_share_layers_are_the_whole_ones_with_equal_layers(
    member: dict[str, Any], layer: str, size: int
) -> None:
    torch.manual_seed(1)
    whole = ensemble(4, members=[member, member]).eval()
    shared = ensemble(4, members=[member, member], share_until=layer).eval()
    tensors, names = whole.state_dict(), set(shared.state_dict())
    assert names < set(tensors)
    lower = {name for name in tensors if name not in names}
    assert lower
    for name in lower:
        tensors[name] = tensors[name.replace("members.1.", "members.0.")]
    whole.load_state_dict(tensors)
    shared.load_state_dict({name: tensors[name] for name in names})
    images = torch.randn(2, 3, size, size)
    assert torch.equal(shared(images), whole(images))
    for training in (True, False):  # dropout and batch norm inside of modules follow the mode
        assert all(module.training == training for module in shared.train(training).modules())


def test_shared_layers_are_trained_by_all_members_and_the_others_by_their_own() -> None:
    network = ensemble(4, members=[OURS, OURS, OURS], weights=[1, 1, 1], average="logits", share_until="0")
    network(torch.randn(4, 3, 8, 8)).square().sum().backward()
    assert all(parameter.grad is not None for parameter in network.parameters())
    names = [name for name, _ in network.named_parameters()]
    assert [name for name in names if name.endswith(".0.0.weight") and name.count(".") == 4] == ["members.0.0.0.weight"]


class Beside(nn.Module):
    """What is above `body` also sees the images."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Conv2d(3, 3, 1), nn.Linear(3, 4)

    def forward(self, images: Tensor) -> Tensor:
        return self.head((self.body(images) + images).mean(dim=(2, 3)))  # type: ignore[no-any-return]


class Twice(nn.Module):
    """One layer is called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Conv2d(3, 3, 1), nn.Linear(3, 4)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(self.body(self.body(images)).mean(dim=(2, 3)))  # type: ignore[no-any-return]


class Dropping(nn.Module):
    """Dropout is called as a function."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Conv2d(3, 3, 1), nn.Linear(3, 4)

    def forward(self, images: Tensor) -> Tensor:
        return self.head(functional.dropout(self.body(images).mean(dim=(2, 3)), 0.5, self.training))  # type: ignore[no-any-return]


class Looking(nn.Module):
    """The forward pass looks at its values."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Conv2d(3, 3, 1), nn.Linear(3, 4)

    def forward(self, images: Tensor) -> Tensor:
        features = self.body(images).mean(dim=(2, 3))
        return self.head(-features if features.sum() > 0 else features)  # type: ignore[no-any-return]


@pytest.mark.parametrize(
    ("network", "layer", "told"),
    [
        (Beside(), "body", "what is above it also sees what comes before it"),
        (Twice(), "body", "it is called 2 times in a forward pass"),
        (Dropping(), "body", "another one in training than in evaluation"),
        (Looking(), "body", "torch.fx cannot follow its forward pass"),
        (Twice(), "boddy", "members.1 has no layer 'boddy'. Did you mean body?"),
    ],
)
def test_a_network_that_cannot_be_cut_there_is_refused(network: nn.Module, layer: str, told: str) -> None:
    with pytest.raises(TrainingError) as refused:
        branch(network, layer, "members.1")
    assert told in str(refused.value)


def test_cutting_leaves_the_network_as_it_was() -> None:
    network = nn.Sequential(nn.Conv2d(3, 3, 1), nn.Dropout(0.5), nn.Flatten(), nn.Linear(3, 2))
    before = copy.deepcopy(network)
    images = torch.randn(2, 3, 1, 1)
    features, whole = trunk_and_branch(network, "0", "members.0").eval()(images)
    assert torch.equal(features, before[0](images))
    assert torch.equal(whole, before.eval()(images))
    assert torch.equal(branch(network, "0", "members.0").eval()(features), whole)


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({}, "model.options: members: missing"),
        ({"members": []}, "members"),
        ({"members": [OURS], "weights": [1, 2]}, "weights: 2 of them for 1 members"),
        ({"members": [OURS], "weights": [0]}, "weights.0"),
        ({"members": [OURS], "wieghts": [1]}, "Did you mean weights?"),
        ({"members": [{**OURS, "normalize": {"name": "fixed"}}]}, "need the `fixed` numbers of the pixels that come in"),
        ({"members": [OURS], "normalize": "auto"}, "normalize: auto is for data.normalize"),
        ({"members": [{"name": "timm/no_such_net"}]}, "timm has no model 'no_such_net'"),
        ({"members": [OURS, OURS], "share_until": "9"}, "members.0 has no layer '9'"),
    ],
)  # fmt: skip
def test_options_that_cannot_be_are_refused(options: dict[str, Any], told: str) -> None:
    with pytest.raises(TrainingError) as refused:
        ensemble(4, **options)
    assert told in str(refused.value)


def test_members_of_other_widths_are_named_where_they_meet() -> None:
    network = ensemble(4, members=[OURS, WIDER], share_until="0")
    with pytest.raises(TrainingError, match=r"members.1 cannot go on from what the shared layers give, \(6, 8, 8\)"):
        network(torch.zeros(2, 3, 8, 8))


def test_an_ensemble_may_be_a_member() -> None:
    inner = {"name": "megabatch.trainer.models.ensemble:ensemble", "options": {"members": [OURS, OURS]}}
    network = ensemble(4, members=[inner, OURS], weights=[2, 1]).eval()
    flat = ensemble(4, members=[OURS, OURS, OURS]).eval()
    flat.load_state_dict(
        {
            name.replace("members.0.members.", "members.").replace(
                "members.1.", "members.2.", name.startswith("members.1.")
            ): value
            for name, value in network.state_dict().items()
        }
    )
    images = torch.randn(2, 3, 8, 8)
    torch.testing.assert_close(network(images), flat(images))


def test_scores_are_what_members_gave_to_what_is_true() -> None:
    (outputs_NK,) = outputs(1)
    labels_N = torch.arange(7) % 4
    targets_NK = functional.one_hot(labels_N, 4)
    expected = torch.exp(-functional.cross_entropy(outputs_NK, labels_N, reduction="none"))
    torch.testing.assert_close(scores("softmax", outputs_NK, labels_N)[:, 0], expected)
    right = torch.exp(-functional.binary_cross_entropy_with_logits(outputs_NK, targets_NK.float(), reduction="none"))
    torch.testing.assert_close(scores("sigmoid", outputs_NK, targets_NK.float()), right)
    assert torch.equal(scores("sigmoid", outputs_NK, labels_N), scores("sigmoid", outputs_NK, targets_NK))
    assert torch.equal(scores("squared_error", outputs_NK, labels_N), outputs_NK - targets_NK)


def test_the_model_is_found_by_its_name_in_a_recipe() -> None:
    from megabatch.configs.ensemble import EnsembleOptions, Member, ensemble_model, read_options

    model = ensemble_model(EnsembleOptions(members=(Member(name="timm/resnet10t"), Member(name="timm/resnet10t"))))
    assert isinstance(load_model(model, 4), Ensemble)
    assert read_options(model.options).shares == (0.5, 0.5)
