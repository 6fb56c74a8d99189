"""`megabatch data ...` as a user meets it: what is printed, where, and with which exit code."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image
from typer.testing import CliRunner, Result

from megabatch.launcher import progress
from megabatch.launcher.data_commands import app


def data(*arguments: str | Path) -> Result:
    return CliRunner().invoke(app, list(map(str, arguments)), env={"COLUMNS": "100", "NO_COLOR": "1"})


def error_of(*arguments: str | Path) -> str:
    result = data(*arguments)
    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit), "a traceback"
    assert result.stderr.startswith("error: ")
    return result.stderr


@pytest.fixture
def images(tmp_path: Path) -> Path:
    for name in ("cat", "[bold]"):
        for number in range(10):
            file = tmp_path / "images" / name / f"{number}.png"
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.new("RGB", (8, 8), (number, 0, 0)).save(file)
    (tmp_path / "images" / "notes.txt").touch()
    return tmp_path / "images"


def test_import_info_and_verify_say_what_there_is(images: Path, tmp_path: Path) -> None:
    out = tmp_path / "my shards"
    result = data("import", images, out, "--split", "train=0.8, validation=0.2", "--samples-per-shard", "6")
    assert result.exit_code == 0, result.output
    lines = [line.split() for line in result.stdout.splitlines()]
    assert ["split", "samples", "shards", "bytes"] in lines
    assert ["train", "16", "3", "51,200"] in lines
    assert ["validation", "4", "1", "10,240"] in lines
    assert "2 classes: [bold], cat" in result.stdout
    assert "ignored: 1 files that are no images by their name" in result.stdout
    assert result.stdout.splitlines()[-1] == f"next: megabatch launch RECIPE data.path='{out}'"
    assert result.stderr == ""
    assert "2 classes: [bold], cat" in data("info", out).stdout
    assert json.loads(data("info", out, "--json").stdout)["splits"]["train"]["samples"] == 16
    assert data("verify", out).stdout == f"{out}: every shard is as it was recorded\n"


def test_verify_ends_with_1_and_a_line_for_each_shard(images: Path, tmp_path: Path) -> None:
    data("import", images, tmp_path / "out", "--samples-per-shard", "5")
    (tmp_path / "out" / "train-000001.tar").unlink()
    with (tmp_path / "out" / "train-000003.tar").open("ab") as shard:
        shard.write(b"x")
    result = data("verify", tmp_path / "out")
    assert result.exit_code == 1
    first, second = result.stderr.splitlines()
    assert first.startswith(f"error: {tmp_path / 'out' / 'train-000001.tar'}: missing")
    assert "train-000003.tar: byte " in second


def test_index_reads_class_names_from_a_file(images: Path, tmp_path: Path) -> None:
    data("import", images, tmp_path / "out")
    (tmp_path / "names").write_text("Bold\nKatze\n")
    assert "2 classes: Bold, Katze" in data("index", tmp_path / "out", "--classes", tmp_path / "names").stdout


def test_broken_images_end_the_import_or_are_left_out(images: Path, tmp_path: Path) -> None:
    (images / "cat" / "3.png").write_bytes(b"no image")
    assert "1 files are no JPEG, PNG, WebP, BMP, GIF or TIFF image (--skip-broken" in error_of(
        "import", images, tmp_path / "out"
    )
    result = data("import", images, tmp_path / "out", "--skip-broken")
    assert "left out as broken: 1: cat/3.png\n" in result.stdout


def test_example_writes_digits_and_says_what_is_next(tmp_path: Path) -> None:
    result = data("example", tmp_path / "digits")
    assert result.stdout.splitlines() == [
        f"1797 images in {tmp_path / 'digits'}",
        f"next: megabatch data import {tmp_path / 'digits'} data/digits --split train=0.8,validation=0.1,test=0.1",
    ]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["import", "no", "out"], "no: does not exist: give a folder of class folders"),
        (["import", "images", "images"], "images: is not an empty folder"),
        (["import", "images", "out", "--split", "train=0.9"], "add up to 1, not train=0.9"),
        (["import", "images", "out", "--split", "train"], "--split train: write NAME=SHARE"),
        (["import", "images", "out", "--split", "../x=1"], "write NAME=SHARE"),
        (["import", "images", "out", "--split", "a=0.5,a=0.5"], "--split a=0.5,a=0.5: a comes twice"),
        (["info", "images"], "dataset.json: missing"),
        (["verify", "no"], "no: no such folder"),
        (["index", "images"], "images: no .tar files in it"),
        (["example", "images"], "images: is not an empty folder"),
        (["import", "images", "/dev/null/out"], "/dev/null/out: Not a directory"),
    ],
)
def test_mistakes_are_one_line_with_exit_code_2(
    images: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[str], message: str
) -> None:
    monkeypatch.chdir(images.parent)
    assert message in error_of(*arguments)


def test_ctrl_c_ends_with_130_and_one_line(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*arguments: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("megabatch.data.importer.import_images", interrupted)
    result = data("import", images, tmp_path / "out")
    assert result.exit_code == 130
    assert result.stderr == "interrupted: nothing of it is used; start it again\n"


def test_a_log_gets_a_line_now_and_then(images: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(progress, "SECONDS_BETWEEN_LINES", 0)
    result = data("import", images, tmp_path / "out")
    assert result.stderr.splitlines()[-1] == "images: 20 of 20"


def test_the_module_imports_nothing_heavy() -> None:
    code = (
        "import sys, typer; before = set(sys.modules)\n"
        "import megabatch.launcher.data_commands\n"
        "print(sorted(m for m in set(sys.modules) - before if m.split('.')[0] in ('rich', 'numpy', 'torch', 'PIL')\n"
        "      or m.startswith('megabatch.data')))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
