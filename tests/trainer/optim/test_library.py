"""Optimizers of torch and timm by name: which can be used, why the others cannot, and that a resume is exact."""

from __future__ import annotations

import json
from typing import Any

import pytest
import timm.optim
import torch
from torch import nn

from megabatch.configs.optimizers import TimmOptimizer, TorchOptimizer
from megabatch.trainer.errors import TrainingError
from megabatch.trainer.optim.groups import parameter_groups
from megabatch.trainer.optim.library import check_library_optimizer, library_optimizer
from megabatch.trainer.optim.state import load_optimizer, optimizer_numbers, optimizer_tensors
from megabatch.trainer.optim.state_check import check_state

pytestmark = pytest.mark.filterwarnings("ignore")  # those of other people's optimizers


def settings(name: str, decay: float = 0.0, **options: Any) -> TorchOptimizer | TimmOptimizer:
    kind = TorchOptimizer if name.startswith("torch/") else TimmOptimizer
    return kind(name=name, base_learning_rate=0.01, weight_decay=decay, options=options)


WORKING = [
    ("torch/RAdam", {}), ("torch/NAdam", {"momentum_decay": 0.01}), ("torch/ASGD", {}), ("torch/Rprop", {}),
    ("torch/Adafactor", {}), ("torch/Adadelta", {}), ("torch/Adamax", {"betas": (0.8, 0.99)}),
    ("timm/lion", {"betas": (0.9, 0.98)}), ("timm/novograd", {}), ("timm/adan", {}), ("timm/adafactor", {}),
    ("timm/madgrad", {}), ("timm/adopt", {}), ("timm/lamb", {}), ("timm/sgd", {"momentum": 0.9}),
]  # fmt: skip


@pytest.mark.parametrize(("name", "options"), WORKING, ids=lambda value: value if isinstance(value, str) else "")
def test_what_passes_the_check_takes_the_steps_of_the_class_itself_and_resumes_exactly(
    name: str, options: dict[str, Any]
) -> None:
    chosen = settings(name, **options)
    check_library_optimizer(chosen)
    library, _, short = name.partition("/")
    theirs_class = getattr(torch.optim, short) if library == "torch" else timm.optim.get_optimizer_class(short)
    ours, theirs = network(), network()
    groups = [{"params": list(theirs.parameters())}]
    optimizer = library_optimizer([{"params": list(ours.named_parameters()), "weight_decay": 0.0}], chosen, 0.01)
    defaults = {"weight_decay": 0.0} if name != "torch/Rprop" else {}
    by_hand = theirs_class(groups, **{**defaults, "lr": 0.01, **options})
    for step in range(5):
        for model, of_model in ((ours, optimizer), (theirs, by_hand)):
            gradients(model, step)
            of_model.step()
    assert all(torch.equal(a, b) for a, b in zip(ours.parameters(), theirs.parameters(), strict=True))


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(16, 2))


def gradients(model: nn.Module, step: int) -> None:
    generator = torch.Generator().manual_seed(step)
    for parameter in model.parameters():
        parameter.grad = torch.randn(parameter.shape, generator=generator)


REFUSED = [
    ("torch/LBFGS", {}, "computes the loss several times a step"),
    ("torch/SparseAdam", {}, "sparse gradients only"),
    ("timm/adahessian", {}, "second derivatives"),
    ("torch/Radam", {}, "torch.optim has no 'Radam'. Did you mean RAdam?"),
    ("timm/lyon", {}, "timm.optim has no 'lyon'. Did you mean lion?"),
    ("timm/lion", {"beta": 0.9}, "optimizer.options.beta of timm/lion: unknown. Did you mean betas?"),
    ("torch/RAdam", {"lr": 0.1}, "write optimizer.base_learning_rate"),
    ("torch/RAdam", {"weight_decay": 0.1}, "write optimizer.weight_decay"),
    ("torch/Adam", {"fused": True}, "fused kernels on the CPU go wrong"),
    ("torch/RAdam", {"betas": (2.0, 3.0)}, "Invalid beta parameter"),
    ("timm/kronw", {}, "keeps lists of tensors and a generator"),
    ("torch/Muon", {}, "only supports 2D parameters"),
]


@pytest.mark.parametrize(
    ("name", "options", "words"), REFUSED, ids=lambda value: value if isinstance(value, str) else ""
)
def test_what_cannot_work_is_refused_with_the_reason(name: str, options: dict[str, Any], words: str) -> None:
    with pytest.raises(TrainingError) as refusal:
        check_library_optimizer(settings(name, **options))
    assert words in str(refusal.value)


def test_weight_decay_without_a_place_for_it_is_refused() -> None:
    with pytest.raises(TrainingError, match=r"torch/Rprop has no weight decay: set optimizer\.weight_decay=0"):
        check_library_optimizer(settings("torch/Rprop", decay=0.1))


def test_decay_reaches_weights_and_spares_biases() -> None:
    chosen = settings("torch/RAdam", decay=0.1)
    groups = library_optimizer(parameter_groups(network(), chosen), chosen, 0.01).param_groups
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0]


class Forgetful(torch.optim.SGD):
    """Counts its steps on itself, where no checkpoint looks."""

    steps = 0

    def step(self, closure: Any = None) -> Any:
        self.steps += 1
        for group in self.param_groups:
            group["lr"] = 0.1 / self.steps
        return super().step(closure)


class InGroups(Forgetful):
    """Counts them in its groups: a number in one, a tensor in the other."""

    def step(self, closure: Any = None) -> Any:
        for group in self.param_groups:
            group["count"] = group.get("count", 0) + 1
            group["tensor"] = group.get("tensor", torch.zeros(())) + 1
            group["lr"] = 0.1 / (group["count"] + group["tensor"].item())
        return torch.optim.SGD.step(self, closure)


def test_an_optimizer_that_forgets_is_found_out() -> None:
    with pytest.raises(TrainingError, match="optimizer mine does not go on from a checkpoint as if it had not stopped"):
        check_state("mine", lambda groups: Forgetful(groups, lr=0.1), 0.0)


def test_numbers_and_tensors_in_groups_survive() -> None:
    check_state("mine", lambda groups: InGroups(groups, lr=0.1), 0.0)


@pytest.mark.parametrize(("name", "options"), [("mine", {}), *WORKING], ids=lambda value: str(value)[:20])
def test_an_optimizer_that_goes_back_to_its_start_forgets_what_came_later(name: str, options: dict[str, Any]) -> None:
    model = network()
    start = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    groups = [{"params": list(model.named_parameters()), "weight_decay": 0.0}]
    mine = name == "mine"
    optimizer = InGroups(groups, lr=0.1) if mine else library_optimizer(groups, settings(name, **options), 0.01)
    tensors, numbers = optimizer_tensors(optimizer), json.loads(json.dumps(optimizer_numbers(optimizer)))
    ends = []
    for _ in range(2):
        for step in range(3):
            gradients(model, step)
            optimizer.step()
        ends.append([parameter.detach().clone() for parameter in model.parameters()])
        model.load_state_dict(start)
        load_optimizer(optimizer, tensors, numbers)
    assert all(torch.equal(first, again) for first, again in zip(*ends, strict=True))


@pytest.mark.parametrize("name", ["timm/adafactor", "timm/adan", "timm/lamb", "timm/madgrad", "torch/NAdam"])
def test_state_goes_through_json_and_comes_back_whole(name: str) -> None:
    chosen, model = settings(name), network()
    optimizer = library_optimizer(parameter_groups(model, chosen), chosen, 0.01)
    for step in range(3):
        gradients(model, step)
        optimizer.step()
    tensors, numbers = optimizer_tensors(optimizer), json.loads(json.dumps(optimizer_numbers(optimizer)))
    fresh = library_optimizer(parameter_groups(model, chosen), chosen, 0.01)
    load_optimizer(fresh, tensors, numbers)
    assert optimizer_numbers(fresh) == numbers
    for path, tensor in optimizer_tensors(fresh).items():
        assert torch.equal(tensor, tensors[path])
        assert tensor.dtype == tensors[path].dtype
    assert list(optimizer_tensors(fresh)) == list(tensors)


def test_every_name_of_both_libraries_works_or_is_refused_with_a_reason() -> None:
    names = [f"torch/{name}" for name, value in vars(torch.optim).items() if isinstance(value, type)]
    names = [*names, *(f"timm/{name}" for name in timm.optim.list_optimizers())]
    refused = {name: why for name in names if (why := why_refused(name))}
    assert len(names) - len(refused) > 60
    assert all(name in why or name.partition("/")[2] in why for name, why in refused.items())
    assert not any("cannot take steps" in why for why in refused.values())


def why_refused(name: str) -> str | None:
    try:
        check_library_optimizer(settings(name))
    except TrainingError as error:
        return str(error)
    return None
