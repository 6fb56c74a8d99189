"""Plain shards, as a user of `plan` and `data index` meets them: one line on stderr, once."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from megabatch.launcher import progress
from megabatch.launcher.cli import app
from support.runs import RECIPE
from support.shards import dataset


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    indexed = dataset(tmp_path, {"train": 44})
    (tmp_path / "plain").mkdir()
    for file in indexed.folder.glob("*.tar"):
        shutil.copy2(file, tmp_path / "plain")
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    return tmp_path


def megabatch(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": "160", "NO_COLOR": "1"})


@pytest.mark.parametrize("path", ["plain", "plain/train-{000000..000004}.tar", "plain/*.tar"])
def test_plan_indexes_plain_shards_once_and_says_where(place: Path, path: str) -> None:
    first, second = (megabatch("plan", "recipe.yaml", f"data.path={path}") for _ in range(2))
    assert first.exit_code == 0, first.output
    assert "44 samples in 5 shards" in first.stdout
    said = first.stderr.splitlines()
    assert len(said) == 1
    assert said[0].startswith("indexed 5 shards on first use; their index is in ")
    folder = Path(said[0].rpartition(" in ")[2])
    assert folder == place / "plain" if path == "plain" else folder.parent == place / "home" / "megabatch" / "datasets"
    assert (folder / "dataset.json").is_file()
    assert second.stderr == ""


def test_a_cache_folder_of_the_cluster_is_used(place: Path) -> None:
    done = megabatch("plan", "recipe.yaml", "data.path=plain/*.tar", f"cluster.cache.folder={place / 'mine'}")
    assert done.exit_code == 0, done.output
    assert list((place / "mine" / "datasets").glob("*/dataset.json"))
    assert not (place / "home").exists()


def test_a_long_index_tells_how_far_it_is(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0)
    lines = megabatch("plan", "recipe.yaml", "data.path=plain").stderr.splitlines()
    assert lines[:-1] == [f"shards indexed: {done} of 5" for done in range(1, 6)]


def test_what_is_wrong_with_the_path_ends_with_one_line(place: Path) -> None:
    done = megabatch("launch", "recipe.yaml", "data.path=pipe:cat x")
    assert done.exit_code == 2
    assert done.stderr.startswith("error: pipe:cat x: data is not read from pipe")
    assert len(done.stderr.splitlines()) == 1


def test_data_index_takes_a_spec_and_says_where_the_index_is(place: Path) -> None:
    done = megabatch("data", "index", "plain/train-{000000..000001}.tar")
    assert done.exit_code == 0, done.output
    written = done.stdout.splitlines()[-1].removeprefix("written: ").partition(";")[0]
    assert Path(written).is_file()
    assert not (place / "plain" / "dataset.json").exists()
