"""Every bad input of support/bad_inputs.py: exit code 2, what and where and what to do, nothing written, no traceback."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest
from typer.testing import CliRunner

from megabatch.launcher.cli import app
from support.bad_inputs import ALL, Bad
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
    shutil.copytree(original, folder)
    if bad.make is not None:
        bad.make(folder)
    before = everything_in(tmp_path)
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
    assert everything_in(tmp_path) == before


def test_the_list_is_as_long_as_it_claims() -> None:
    assert len({bad.what for bad in ALL}) == len(ALL)
    assert len(ALL) >= 120
    assert all(any(bad.told) for bad in ALL)
