"""From `data clean` to a plan: what the mask leaves out is not trained on."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from megabatch.data.importer import ImportOptions, import_images
from megabatch.launcher.cli import app
from support.runs import RECIPE
from support.shards import dataset, image_folder


def test_the_mask_that_clean_writes_is_honoured_by_the_plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    images = image_folder(tmp_path / "images", {"train": 35, "validation": 6})
    original = next((images / "train" / "class0").iterdir())
    shutil.copy(original, images / "train" / "class0" / "copy.png")
    import_images(images, tmp_path / "data", ImportOptions(samples_per_shard=10), lambda done, total: None)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    runner = CliRunner()
    cleaned = runner.invoke(app, ["data", "clean", "data"])
    assert cleaned.exit_code == 0, cleaned.stderr
    assert "36 samples" in runner.invoke(app, ["plan", "recipe.yaml"]).stdout
    masked = runner.invoke(app, ["plan", "recipe.yaml", "data.mask=data/clean/mask.json"])
    assert "35 samples" in masked.stdout, masked.stdout + masked.stderr


def test_a_mask_of_other_data_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    dataset(tmp_path, {"train": 12})
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    (tmp_path / "mask.json").write_text('{"format": "megabatch-mask-1", "excluded": {"train": {"nobody": "huge"}}}')
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["plan", "recipe.yaml", "data.mask=mask.json"])
    assert done.exit_code == 2
    assert "no sample of the split has the key 'nobody'" in done.stderr
