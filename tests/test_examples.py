"""The examples do what they say. One training with all of them together is in tests/processes/test_projects.py."""

from __future__ import annotations

import ast
import importlib.util
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch

from megabatch.configs.job import Job
from megabatch.configs.load import load
from megabatch.configs.run_dir import RunDir
from megabatch.configs.transforms import CustomTransform
from megabatch.data.augment.chain import chain
from megabatch.data.hashing import RandomStream
from megabatch.launcher.launch import render

EXAMPLES = Path(__file__).parents[1] / "examples"
FOLDERS = sorted(EXAMPLES.glob("own_*"))
MOST_LINES = 60


@pytest.fixture
def module(request: pytest.FixtureRequest) -> Iterator[ModuleType]:
    """The module of an example, by its own name, as a recipe finds it."""
    (file,) = (EXAMPLES / request.param).glob("*.py")
    spec = importlib.util.spec_from_file_location(file.stem, file)
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[file.stem] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules[file.stem]


def job_of(folder: str) -> Job:
    place = EXAMPLES / folder
    recipe, cluster = place / "recipe.yaml", place / "cluster.yaml"
    loaded = load(str(recipe) if recipe.exists() else "digits", str(cluster) if cluster.exists() else "laptop")
    return Job(recipe=loaded.recipe, cluster=loaded.cluster, working_folder=str(place), data_fingerprint="", version="")


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_every_example_is_a_short_module_with_a_readme_and_a_line_in_the_list(folder: Path) -> None:
    (source,) = folder.glob("*.py")
    assert len(source.read_text().splitlines()) <= MOST_LINES
    assert ast.get_docstring(ast.parse(source.read_text()))
    assert (folder / "README.md").exists()
    assert f"]({folder.name})" in (EXAMPLES / "README.md").read_text()
    text = "".join(file.read_text() for file in folder.glob("*.yaml"))
    assert source.stem in text
    job_of(folder.name)


@pytest.mark.parametrize("module", ["own_model"], indirect=True)
def test_the_model_begins_with_blocks_that_change_nothing(module: ModuleType) -> None:
    images_NCHW = torch.rand(4, 8, 8, 8)
    assert torch.equal(module.Block(8)(images_NCHW), images_NCHW)
    assert module.build(num_classes=10, **job_of("own_model").recipe.model.options)(torch.rand(4, 3, 8, 8)).shape == (
        4,
        10,
    )


@pytest.mark.parametrize("module", ["own_loss"], indirect=True)
def test_the_loss_is_that_of_its_formula_and_takes_mixed_targets(module: ModuleType) -> None:
    outputs_NK = torch.tensor([[2.0, 1.5, 0.0], [0.0, 3.0, 1.0]])
    labels_N = torch.tensor([0, 1])
    losses_N = module.squared_hinge(outputs_NK, labels_N)
    assert torch.allclose(losses_N, torch.tensor([0.25 / 3, 0.0]))
    mixed_NK = torch.tensor([[0.5, 0.5, 0.0], [0.0, 1.0, 0.0]])
    other_N = module.squared_hinge(outputs_NK, torch.tensor([1, 1]))
    assert torch.allclose(module.squared_hinge(outputs_NK, mixed_NK)[0], (losses_N[0] + other_N[0]) / 2)


@pytest.mark.parametrize("module", ["own_augmentation"], indirect=True)
def test_the_augmentation_lights_one_side_by_the_draws_of_the_sample(module: ModuleType) -> None:
    settings = job_of("own_augmentation").recipe.data.train_transforms[-1]
    assert isinstance(settings, CustomTransform)
    grey_HWC = np.full((8, 8, 3), 100, np.uint8)
    lit = chain([settings], 8)
    first, again, other = (lit(grey_HWC, RandomStream(key)) for key in (1, 1, 2))
    assert np.array_equal(first, again)
    assert not np.array_equal(first, other)
    assert first.max() > 100 > first.min()
    assert module.__name__ == "my_transforms"


@pytest.mark.parametrize("module", ["own_tracker"], indirect=True)
def test_the_tracker_writes_a_line_for_each_epoch(module: ModuleType, tmp_path: Path) -> None:
    step = {"kind": "step", "epoch": 0, "samples_per_second": 100.0}
    evaluation = {"kind": "evaluation", "split": "validation", "loss": 0.5, "top1": 0.75}
    lines = [{**step, "loss": 3.0}, {**step, "loss": None}, {"kind": "message", "text": ""}, {**step, "loss": 1.0}]
    module.table(job_of("own_tracker"), RunDir(tmp_path), iter([*lines, evaluation, {**evaluation, "split": "test"}]))
    assert (tmp_path / "epochs.csv").read_text().splitlines() == [
        "epoch,train_loss,validation_loss,validation_top1,samples_per_second",
        "1,2.0000,0.5000,0.7500,100.0000",
    ]


@pytest.mark.parametrize("module", ["own_backend"], indirect=True)
def test_the_backend_puts_its_command_in_front(module: ModuleType, tmp_path: Path) -> None:
    assert module.__name__ == "my_backend"
    job = job_of("own_backend")
    shown = str(render(job, RunDir(tmp_path)))
    assert f"nice -n 10 {sys.executable} -m megabatch.trainer.node {tmp_path}/job.yaml" in shown
    two = job.model_copy(update={"cluster": job.cluster.model_copy(update={"nodes": 2})})
    with pytest.raises(ValueError, match=r"cluster\.nodes: 2: my_backend starts ranks on this machine\. Write 1"):
        render(two, RunDir(tmp_path))
