"""Every bad input of support/bad_inputs: exit code 2, what and where and what to do, nothing written, no traceback."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from megabatch.configs import torch_version
from megabatch.launcher.cli import app
from support.bad_inputs import ALL
from support.bad_inputs.bad import Bad
from support.runs import Workplace
from support.shards import dataset

MOST_SHOWN = 3000  # characters
_PROGRAMS = ("sbatch", "kubectl", "ssh", "srun", "scontrol", "torchrun", "accelerate", "deepspeed")


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("original")
    dataset(folder, {"train": 30})
    Workplace(folder).write()
    (folder / "programs").mkdir()
    for name in _PROGRAMS:
        program = folder / "programs" / name
        program.write_text('#!/bin/sh\necho "$0 $*" >> "$STARTED"\n')
        program.chmod(0o755)
    return folder


def everything_in(folder: Path) -> dict[str, tuple[int, int]]:
    """Return size and time of change of all there is, but for the indexes that are made at first use."""
    found = ((path, path.lstat()) for path in folder.rglob("*") if path.suffix != ".idx")
    return {str(path): (status.st_size, status.st_mtime_ns) for path, status in found if not path.is_dir()}


@pytest.mark.parametrize("bad", ALL, ids=lambda bad: bad.what)
def test_a_bad_input_is_told_with_its_place_and_nothing_is_begun(
    bad: Bad, original: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "project"
    folder.mkdir()
    for name in ("data", "images", "programs"):  # a case that changes the data makes a copy
        (folder / name).symlink_to(original / name)
    for name in ("recipe.yaml", "network.py"):
        shutil.copy(original / name, folder)
    if bad.make is not None:
        bad.make(folder)
    before = everything_in(tmp_path), everything_in(original)
    monkeypatch.chdir(folder)
    variables = {"PATH": f"{folder / 'programs'}:{os.environ['PATH']}", "STARTED": str(tmp_path / "started")}
    result = CliRunner().invoke(app, list(bad.arguments), env={"COLUMNS": "160", **variables, **bad.variables})
    assert result.exit_code == 2, result.output
    assert isinstance(result.exception, SystemExit), "a traceback"
    for text in bad.told:
        assert text in result.stderr
    for line in result.stderr.splitlines():
        assert line.startswith(("error: ", "Usage", "Try"))
        assert line.isprintable()
        assert len(line) <= MOST_SHOWN
    assert "planted" not in result.output
    assert (everything_in(tmp_path), everything_in(original)) == before


@pytest.mark.parametrize("version", ["1.13.1", "2.5.1+cu121", "2.10.0"])
def test_a_torch_that_is_too_old_is_told_before_it_is_imported(
    original: Path, monkeypatch: pytest.MonkeyPatch, version: str
) -> None:
    monkeypatch.chdir(original)
    monkeypatch.setattr(torch_version, "version", lambda package: version)
    result = CliRunner().invoke(app, ["launch", "recipe.yaml"])
    assert result.exit_code == 2
    assert f"error: torch {version} is installed, and megabatch needs 2.11 or later. Run: pip install" in result.stderr
    monkeypatch.setattr(torch_version, "version", lambda package: "2.11.0a0+git")
    assert torch_version.too_old() is None


def test_the_list_is_as_long_as_it_claims() -> None:
    assert len({bad.what for bad in ALL}) == len(ALL)
    assert len(ALL) >= 120
    assert all(any(bad.told) for bad in ALL)
