"""The optimizers of the schema: names of other libraries, what is told about mistakes in them, and rules for groups."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import TypeAdapter

from megabatch.configs.errors import ConfigError
from megabatch.configs.load import load
from megabatch.configs.optimizers import Optimizer, TimmOptimizer, TorchOptimizer

ADAPTER: TypeAdapter[Any] = TypeAdapter(Optimizer)
NAMES = ["sgd", "adagrad", "rmsprop", "adam", "adamw", "lars", "lamb", "torch/RAdam", "timm/lion"]


@pytest.mark.parametrize("name", NAMES)
def test_a_name_is_found_and_survives_a_round_trip(name: str) -> None:
    settings = ADAPTER.validate_python({"name": name, "base_learning_rate": 0.1})
    assert settings.name == name
    assert ADAPTER.validate_python(settings.model_dump()) == settings
    assert ADAPTER.validate_python(settings) == settings


def test_names_with_a_slash_are_those_of_their_library() -> None:
    kinds = [type(ADAPTER.validate_python({"name": name, "base_learning_rate": 1.0})) for name in NAMES[-2:]]
    assert kinds == [TorchOptimizer, TimmOptimizer]


MISTAKES = [
    ("{name: tim/lion, base_learning_rate: 0.1}", "optimizer: 'tim/lion' is not known. Allowed: sgd, adagrad, rmsprop, "
     "adam, adamw, lars, lamb, torch/NAME, timm/NAME."),
    ("{name: torch/r-adam, base_learning_rate: 0.1}", "optimizer.name: 'torch/r-adam': write torch/NAME with the name of a "
     "class of torch.optim"),
    ("{name: timm/, base_learning_rate: 0.1}", "optimizer.name: 'timm/': write timm/NAME with one of the names in "
     "timm.optim.list_optimizers()"),
    ("torch/RAdam", "optimizer.base_learning_rate: missing. Add it under optimizer."),
    ("{base_learning_rate: 0.1}", "optimizer: has no name. Write `name: ...` under it. Allowed: sgd, adagrad, rmsprop, "
     "adam, adamw, lars, lamb, torch/NAME, timm/NAME."),
    ("{name: torch/RAdam, base_learning_rate: 0.1, option: {}}", "optimizer.option: unknown key. Did you mean options? "
     "Allowed: base_learning_rate, base_batch, scaling, weight_decay, decay_bias_and_norm, layer_decay, groups, name, "
     "options."),
    ("{name: sgd, base_learning_rate: 0.1, groups: [{match: 'a', frozen: true, weight_decay: 0.1}]}", "frozen parameters "
     "have no learning rate and no weight decay: leave the other keys out"),
    ("{name: sgd, base_learning_rate: 0.1, groups: [{match: 'a', learning_rate_factor: 0}]}",
     "optimizer.groups.0.learning_rate_factor: 0: should be greater than 0"),
    ("{name: sgd, base_learning_rate: 0.1, layer_decay: 1.5}", "optimizer.layer_decay: 1.5: should be less than or equal "
     "to 1"),
]  # fmt: skip


@pytest.mark.parametrize(("text", "message"), MISTAKES)
def test_a_mistake_is_told_with_its_key(text: str, message: str) -> None:
    with pytest.raises(ConfigError) as error:
        load("digits", "laptop", [f"optimizer={text}"])
    (problem,) = error.value.problems
    assert message in problem.message


@pytest.mark.parametrize("text", [
    line.strip().removeprefix("optimizer: ")
    for line in (Path(__file__).parents[2] / "docs" / "optimizers.md").read_text().splitlines()
    if line.startswith("    optimizer: {")
])  # fmt: skip
def test_the_examples_of_the_document_are_valid(text: str) -> None:
    assert load("digits", "laptop", [f"optimizer={text}"]).recipe.optimizer.base_learning_rate > 0
