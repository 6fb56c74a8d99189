"""`megabatch data clean` as a user meets it: what is printed, what is written, and the exit codes."""

from __future__ import annotations

import json
import shlex
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from megabatch.data.dataset import read_dataset
from megabatch.data.indexing import index_shards
from megabatch.launcher.data_commands import app
from support.dirty_shards import clean_samples, encoded, one_of_everything, picture, sample, write_tar


def clean(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, ["clean", *map(str, arguments)], env={"COLUMNS": "100", "NO_COLOR": "1"})


def error_of(*arguments: str | Path) -> str:
    result = clean(*arguments)
    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit), "a traceback"
    return result.stderr


@pytest.fixture
def dataset(tmp_path: Path) -> Path:
    """Three images, one of them twice."""
    image = encoded(picture(50))
    write_tar(tmp_path / "my data" / "train-0.tar", {**clean_samples(2), **sample("a", image), **sample("b", image)})
    index_shards(tmp_path / "my data", None, lambda done, total: None)
    return tmp_path / "my data"


def test_counts_files_and_what_to_write_into_the_recipe_are_printed(dataset: Path) -> None:
    before = {file.name: file.read_bytes() for file in dataset.iterdir()}
    result = clean(dataset)
    assert result.exit_code == 0, result.output
    assert result.stderr == ""
    mask = dataset / "clean" / "mask.json"
    assert [line.rstrip() for line in result.stdout.splitlines()] == [
        f"{dataset}: 4 samples",
        "kind       train  masked",
        "duplicate  1      yes",
        f"report: {dataset / 'clean' / 'report.html'}",
        f"mask: {mask} leaves out 1 of 4 in train",
        f"in the recipe: data: {{mask: {mask}}}",
        f"next: megabatch launch RECIPE data.path={shlex.quote(str(dataset))} data.mask={shlex.quote(str(mask))}",
    ]
    assert {file.name for file in mask.parent.iterdir()} == {"findings.json", "mask.json", "report.html"}
    assert {file.name: file.read_bytes() for file in dataset.iterdir() if file.is_file()} == before


def test_without_findings_there_is_nothing_to_do(tmp_path: Path) -> None:
    write_tar(tmp_path / "train-0.tar", clean_samples(3))
    index_shards(tmp_path, None, lambda done, total: None)
    lines = clean(tmp_path, "--fail-on", "any").stdout.splitlines()
    assert lines[1] == "nothing found"
    assert lines[-1] == f"mask: {tmp_path / 'clean' / 'mask.json'} leaves out nothing"


def test_json_is_the_summary(dataset: Path, tmp_path: Path) -> None:
    values = json.loads(clean(dataset, "--json", "--out", tmp_path / "out").stdout)
    assert values["counts"] == {"duplicate": {"train": 1}}
    assert values["masked"] == {"train": 1}
    assert Path(values["report"]) == tmp_path / "out" / "report.html"
    assert json.loads(Path(values["mask"]).read_text())["excluded"]["train"].keys() == {"b"}
    assert not (dataset / "clean").exists()


@pytest.mark.parametrize(("kinds", "code"), [("duplicate", 1), ("any", 1), ("leak, duplicate", 1), ("leak", 0)])
def test_fail_on_decides_the_exit_code(dataset: Path, kinds: str, code: int) -> None:
    result = clean(dataset, "--fail-on", kinds)
    assert result.exit_code == code
    assert "report: " in result.stdout


def test_mask_kinds_can_leave_duplicates_in(dataset: Path) -> None:
    result = clean(dataset, "--mask-kinds", "")
    assert "leaves out nothing" in result.stdout
    assert "in the recipe" not in result.stdout
    assert "KIND,..." in clean("--help").stdout
    assert "leak,duplicate" in clean("--help").stdout


def test_a_data_set_that_no_mask_helps_is_told_to_be_written_anew(tmp_path: Path) -> None:
    one_of_everything(tmp_path)
    lines = clean(tmp_path, "--max-pixels", "50000").stdout.splitlines()
    refused = "image_missing, label_missing, label_not_integer, label_outside"
    assert lines[-2] == f"note: a data set with {refused} is refused before any mask is looked at: write a clean one"
    assert lines[-1] == f"next: megabatch data clean {tmp_path} --write FOLDER"
    result = clean(tmp_path, "--max-pixels", "50000", "--write", tmp_path / "new")
    assert result.stdout.splitlines()[-1] == f"next: megabatch launch RECIPE data.path={tmp_path / 'new'}"
    assert read_dataset(tmp_path / "new").split("train").samples == 52


def test_shards_without_an_index_are_told_to_be_indexed(tmp_path: Path) -> None:
    write_tar(tmp_path / "train-0.tar", clean_samples(3))
    assert f"next: megabatch data index {tmp_path}" in clean(tmp_path).stdout


def test_samples_with_the_same_key_are_told(tmp_path: Path) -> None:
    write_tar(tmp_path / "train-0.tar", sample("a", b"broken"))
    write_tar(tmp_path / "train-1.tar", sample("a", encoded(picture(1))))
    index_shards(tmp_path, None, lambda done, total: None)
    result = clean(tmp_path)
    assert "note: 1 of these share their key with other samples, so the mask cannot name them" in result.stdout
    assert "in the recipe" not in result.stdout


def test_mistakes_are_one_line_with_exit_code_2(dataset: Path, tmp_path: Path) -> None:
    assert "no: no such folder" in error_of("no")
    message = error_of(dataset, "--mask-kinds", "duplicate,blurred")
    assert message.startswith("error: --mask-kinds: no kind is called blurred: write some of leak, near_leak, ")
    assert "--fail-on: no kind is called x" in error_of(dataset, "--fail-on", "x")
    assert "is not an empty folder" in error_of(dataset, "--write", dataset)
    assert not (dataset / "clean").exists(), "a mistake is told before anything is looked at"
    (tmp_path / "file").touch()
    assert "Not a directory" in error_of(dataset, "--out", tmp_path / "file" / "x")
