"""What `megabatch new` writes runs, and so does a training with all the examples of own parts together."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from megabatch.launcher.cli import app
from megabatch.launcher.new_command import FILES
from support.runs import environment

pytestmark = pytest.mark.processes
EXAMPLES = Path(__file__).parents[2] / "examples"


def in_process(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments), env={"NO_COLOR": "1"})
    assert result.exit_code == 0, result.output
    return result.stdout


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A new project with the digits imported, as its README says."""
    folder = tmp_path_factory.mktemp("projects") / "mine"
    assert "next:" in in_process("new", str(folder))
    before = Path.cwd()
    os.chdir(folder)
    try:
        in_process("data", "example", "digits-images")
        in_process("data", "import", "digits-images", "data/digits", "--split", "train=0.8,validation=0.1,test=0.1")
    finally:
        os.chdir(before)
    return folder


def run(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *arguments], cwd=folder, capture_output=True, text=True, env=environment(), check=False
    )


def launch(folder: Path, *arguments: str) -> dict[str, object]:
    done = run(folder, "-c", "from megabatch.launcher.cli import main; main()", "launch", *arguments, "--json")
    assert done.returncode == 0, done.stderr
    found: dict[str, object] = json.loads(done.stdout)  # the ranks print on stderr meanwhile
    return found


def test_a_new_project_passes_its_test_plans_and_trains(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert {path.name for path in project.iterdir()} == {*FILES, "digits-images", "data"}
    tested = run(project, "-m", "pytest", "-q", "-p", "no:cacheprovider")
    assert tested.returncode == 0, tested.stdout
    monkeypatch.chdir(project)
    assert "train: random_crop, custom, fixed" in in_process("plan", "recipe.yaml", "--cluster", "cluster.yaml")
    found = launch(project, "recipe.yaml", "--cluster", "cluster.yaml", "epochs=1", "schedule.warmup=0.5")
    assert found["exit_code"] == 0
    assert found["result"]["outcome"] == "finished"  # type: ignore[index]
    assert json.loads(in_process("runs", "--json"))[0]["run"] == os.path.relpath(str(found["run"]))


def test_all_examples_train_together(project: Path, tmp_path: Path) -> None:
    for file in EXAMPLES.glob("*/*.py"):
        shutil.copy(file, tmp_path)
    shutil.copy(EXAMPLES / "own_backend" / "cluster.yaml", tmp_path)
    (tmp_path / "recipe.yaml").write_text(
        "base: digits\nname: all\nepochs: 2\nschedule: {name: cosine, warmup: 1}\n"
        + "".join(own_lines(folder) for folder in ("own_model", "own_loss", "own_tracker"))
        + own_lines("own_augmentation").replace("data:\n", f"data:\n  path: {project / 'data' / 'digits'}\n")
    )
    found = launch(tmp_path, "recipe.yaml", "--cluster", "cluster.yaml")
    folder = Path(str(found["run"]))
    with (folder / "epochs.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert [row["epoch"] for row in rows] == ["1", "2"]
    assert float(rows[1]["train_loss"]) < float(rows[0]["train_loss"])


def own_lines(folder: str) -> str:
    """What the recipe of an example says beside its base and its name."""
    lines = (EXAMPLES / folder / "recipe.yaml").read_text().splitlines(keepends=True)
    return "".join(line for line in lines if not line.startswith(("base:", "name:")))


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_a_folder_that_has_something_in_it_is_left_as_it_is(tmp_path: Path, kind: str) -> None:
    place = tmp_path / "mine"
    if kind == "folder":
        place.mkdir()
        (place / "thesis.txt").write_text("x")
    else:
        place.write_text("x")
    result = CliRunner().invoke(app, ["new", str(place)])
    assert (result.exit_code, "is not an empty folder" in result.stderr) == (2, True)
    assert [path.name for path in tmp_path.rglob("*")] == ["mine", *(["thesis.txt"] if kind == "folder" else [])]
