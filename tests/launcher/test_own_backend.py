"""A backend of the user's own: found in the folder of the job, shown, carried out; what is wrong with it is told."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from megabatch.configs.cluster import Cluster
from megabatch.configs.errors import ConfigError
from megabatch.configs.job import Job
from megabatch.configs.load import load
from megabatch.configs.run_dir import RunDir
from megabatch.launcher.backends.choose import backend_of, is_watched
from megabatch.launcher.launch import render, start
from megabatch.launcher.supervise import ExitCode

OWN = """
from megabatch.launcher.submission import Submission
from megabatch.launcher.supervise import Ending, ExitCode

def render(job, run_dir, trainer_arguments=()):
    return Submission(["queue", job.cluster.backend.options["name"], str(run_dir.job), *trainer_arguments])

def submit(submission, job, run_dir, say):
    say("in the queue: " + submission.argv[1])
    return Ending(ExitCode.DONE, "")
"""


@pytest.fixture
def folder(tmp_path: Path) -> Iterator[Path]:
    before = list(sys.path)
    yield tmp_path
    sys.path[:] = before
    for name in ("own_queue", "own_half", "own_broken"):
        sys.modules.pop(name, None)


def job_with(folder: Path, module: str, **values: object) -> Job:
    backend = {"name": "custom", "module": module, "options": {"name": "long"}, **values}
    cluster = Cluster.model_validate({"name": "mine", "nodes": 2, "backend": backend})
    return Job(
        recipe=load("digits", "laptop").recipe,
        cluster=cluster,
        working_folder=str(folder),
        data_fingerprint="",
        version="",
    )


def test_its_two_functions_are_what_a_launch_calls(folder: Path) -> None:
    (folder / "own_queue.py").write_text(OWN)
    job, run_dir, said = job_with(folder, "own_queue"), RunDir(folder / "run"), list[str]()
    run_dir.root.mkdir()
    assert str(render(job, run_dir, ["--evaluate", "test"])) == f"queue long {run_dir.job} --evaluate test"
    assert start(job, run_dir, said.append).code == ExitCode.DONE
    assert said == ["in the queue: long"]


def test_the_cluster_file_says_whether_it_waits_for_the_end(folder: Path) -> None:
    assert not is_watched(job_with(folder, "own_queue"))
    assert is_watched(job_with(folder, "own_queue", watched=True))


@pytest.mark.parametrize(
    ("module", "text", "message"),
    [
        (
            "own_nowhere",
            None,
            "own_nowhere: ModuleNotFoundError: No module named 'own_nowhere'. Modules are looked for",
        ),
        ("own_half", "def render(): ...", r"own_half.py has no function 'submit'. A backend has render and submit"),
        ("own_broken", "1 / 0", "own_broken: ZeroDivisionError: division by zero"),
    ],
)
def test_what_is_no_backend_is_refused_before_anything_is_written(
    folder: Path, module: str, text: str | None, message: str
) -> None:
    if text is not None:
        (folder / f"{module}.py").write_text(text)
    with pytest.raises(ConfigError, match=f"cluster.backend.module: .*{message}"):
        backend_of(job_with(folder, module))
