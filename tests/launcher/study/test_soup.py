"""Which runs may be averaged: those that agree in network, data and how images are seen."""

from __future__ import annotations

from pathlib import Path

import pytest

from megabatch.configs.errors import ConfigError
from megabatch.configs.job import Job
from megabatch.configs.load import load
from megabatch.configs.run_dir import RunDir
from megabatch.launcher.save_job import write_job
from megabatch.launcher.study.soup import _common_job, cook


def run(folder: Path, *overrides: str, data: str = "d1") -> RunDir:
    loaded = load("digits", "laptop", overrides)
    job = Job(recipe=loaded.recipe, cluster=loaded.cluster, working_folder="/", data_fingerprint=data, version="1")
    folder.mkdir()
    write_job(job, folder / "job.yaml")
    return RunDir(folder)


def test_optimizer_augmentation_and_seed_may_differ(tmp_path: Path) -> None:
    other = ("seed=5", "optimizer.base_learning_rate=0.5", "data.train_transforms=[]", "epochs=3")
    job = _common_job([run(tmp_path / "a"), run(tmp_path / "b", *other)], ["a", "b"])
    assert (job.recipe.seed, job.recipe.epochs) == (0, 30)


@pytest.mark.parametrize(
    ("override", "told"),
    [
        ("model.options={widths: [8, 8]}", "model.options {'widths': [8, 8]}, but a has {'widths': [32, 64]}"),
        ("model.name=timm/resnet18", "model.name timm/resnet18"),
        ("data.image_size=16", "data.image_size 16, but a has 8"),
        ("data.normalize=per_image", "data.normalize {'name': 'per_image'"),
        ("data.test_split=null", "data.test_split None, but a has test"),
    ],
)
def test_what_decides_the_network_or_its_input_must_agree(tmp_path: Path, override: str, told: str) -> None:
    with pytest.raises(ConfigError) as refused:
        _common_job([run(tmp_path / "a"), run(tmp_path / "b", override)], ["a", "b"])
    assert f"b: has {told}" in str(refused.value)


def test_other_data_a_run_twice_and_one_run_alone_are_refused(tmp_path: Path) -> None:
    first, other = run(tmp_path / "a"), run(tmp_path / "b", data="d2")
    with pytest.raises(ConfigError, match="b: has data d2, but a has d1"):
        _common_job([first, other], ["a", "b"])
    with pytest.raises(ConfigError, match="a run is named twice"):
        _common_job([first, first], ["a", "a"])
    with pytest.raises(ConfigError, match="one run is no soup"):
        _common_job([first], ["a"])


def test_greedy_needs_a_validation_split(tmp_path: Path) -> None:
    folders = [str(run(tmp_path / name, "data.validation_split=null").root) for name in ("a", "b")]
    with pytest.raises(ConfigError, match="--greedy: chooses by the validation split"):
        cook(folders, tmp_path / "soup", "best", True, "recompute")
    assert not (tmp_path / "soup").exists()
