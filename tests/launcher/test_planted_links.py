"""S5 and S6: what is written where others may write too. A planted link is not followed, and secrets are for their owner.

The names of all files are known, also of the hidden ones that become them: `.NAME.PID`. The link leads to a file of the
user's, which must stay as it is.
"""

from __future__ import annotations

import os
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from megabatch.configs.new_file import open_new, write_new
from megabatch.configs.run_dir import RunDir
from megabatch.launcher.cli import app
from megabatch.launcher.slurm_queue import remember, write_private
from megabatch.launcher.submission import Submission
from support.runs import Workplace
from support.shards import dataset


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    dataset(tmp_path, {"train": 12})
    Workplace(tmp_path).write()
    (tmp_path / "run").mkdir()
    monkeypatch.chdir(tmp_path)
    before = os.umask(0o022)
    yield tmp_path
    os.umask(before)


def megabatch(*words: str) -> int:
    return CliRunner().invoke(app, list(words)).exit_code


RUN = RunDir(Path("run"))
OUTPUTS: dict[str, Callable[[], object]] = {
    "data/dataset.json": lambda: megabatch("data", "index", "data"),
    "data/train-000000.idx": lambda: megabatch("data", "index", "data"),
    "data/stats.json": lambda: megabatch("data", "stats", "data"),
    "found/findings.json": lambda: megabatch("data", "clean", "data", "--out", "found"),
    "run/slurm.json": lambda: remember(RUN, "7"),
    "run/job.environment": lambda: write_private(RUN.job_environment, "A=planted"),
    "run/job.sbatch": lambda: write_private(RUN.submission, "script"),
    "run/hostfile": lambda: Submission([], files={RUN.hostfile: "a slots=1"}).write_files(),
    "run/accelerate.yaml": lambda: Submission([], files={RUN.accelerate_config: "a: 1"}).write_files(),
}


@pytest.mark.parametrize("name", OUTPUTS)
def test_a_link_in_the_place_of_an_output_is_not_followed(place: Path, name: str) -> None:
    victim = place / "victim"
    victim.write_text("mine")
    output = place / name
    output.parent.mkdir(exist_ok=True)
    output.unlink(missing_ok=True)
    for planted in (output, output.with_name(f".{output.name}.{os.getpid()}")):
        planted.symlink_to(victim)
        OUTPUTS[name]()
        assert victim.read_text() == "mine"
        assert output.is_file()
        assert not output.is_symlink()


def test_a_run_does_not_begin_in_a_folder_where_somebody_planted_a_link(place: Path) -> None:
    for name in ("job.yaml", "metrics.jsonl", "run.lock", "checkpoints", "logs", ".job.yaml.1"):
        (place / "run" / name).symlink_to(place / "victim")
        assert megabatch("launch", "recipe.yaml", "--dry-run", "--write", "run") == 2
        (place / "run" / name).unlink()
    (place / "elsewhere").mkdir()
    (place / "dangling").symlink_to(place / "elsewhere" / "run")
    assert megabatch("launch", "recipe.yaml", "--dry-run", "--write", "dangling") == 2
    assert list((place / "elsewhere").iterdir()) == []
    assert not (place / "victim").exists()


def test_a_file_that_somebody_makes_in_between_is_an_error(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Path, "unlink", lambda *_, **__: None)
    (place / "new").symlink_to(place / "victim")
    with pytest.raises(FileExistsError):
        open_new(place / "new")
    assert not (place / "victim").exists()


def test_what_may_hold_a_secret_is_for_its_owner_and_the_rest_follows_the_umask(place: Path) -> None:
    cluster = "cluster.environment={PRIVATE: value}"
    assert megabatch("launch", "recipe.yaml", cluster, "--dry-run", "--write", "private") == 0
    write_private(RUN.job_environment, "A=value")
    write_new(RUN.result, "{}")
    modes = {
        file: stat.S_IMODE(file.stat().st_mode) for file in (Path("private/job.yaml"), RUN.job_environment, RUN.result)
    }
    assert list(modes.values()) == [0o600, 0o600, 0o644]
    assert stat.S_IMODE(Path("private").stat().st_mode) == 0o755
    shutil.rmtree("private")
