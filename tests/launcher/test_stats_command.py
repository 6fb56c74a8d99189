"""`megabatch data stats`, and a launch with `normalize: auto` before and after it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from megabatch.launcher.cli import app
from support.runs import RECIPE
from support.shards import dataset


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    dataset(tmp_path, {"train": 35, "validation": 6})
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_stats_are_shown_and_kept_for_normalize_auto(folder: Path) -> None:
    runner = CliRunner()
    plan = ["plan", "recipe.yaml", "data.normalize=auto"]
    before = runner.invoke(app, plan)
    assert before.exit_code == 2
    assert "data.normalize is auto, but data has no stats.json. Run `megabatch data stats data`" in before.stderr
    done = runner.invoke(app, ["data", "stats", "data"])
    assert done.exit_code == 0, done.stderr
    assert "train: 35 images" in done.stdout
    assert "written: " in done.stdout
    assert runner.invoke(app, plan).exit_code == 0
    values = json.loads(runner.invoke(app, ["data", "stats", "data", "--split", "train", "--json"]).stdout)
    assert values["train"]["samples"] == 35
    assert 0.2 < values["train"]["mean"][0] < 0.6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["nowhere"], "no such folder"), (["data", "--split", "x"], "has no split 'x'"), (["pipe:ls"], "pipe")],
)
def test_mistakes_are_told_without_a_traceback(folder: Path, arguments: list[str], message: str) -> None:
    result = CliRunner().invoke(app, ["data", "stats", *arguments])
    assert result.exit_code == 2
    assert message in result.stderr
