"""`megabatch runs` and `megabatch runs remove` over run folders as trainings leave them; no rank runs here."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from megabatch.configs.job import Job
from megabatch.configs.load import Loaded, load
from megabatch.configs.run_dir import RunDir
from megabatch.launcher.cli import app
from megabatch.launcher.run_list import runs_below
from megabatch.launcher.save_job import write_job
from megabatch.launcher.study.ensemble import RESULT as ENSEMBLE


def megabatch(*arguments: str, typed: str | None = None) -> Result:
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": "80", "NO_COLOR": "1"}, input=typed)


@cache
def loaded_with(*overrides: str) -> Loaded:
    return load("digits", "laptop", overrides)


def made(folder: Path, name: str, top1: float | None = 0.9, age: float = 0.0, *overrides: str) -> RunDir:
    """A run of the digits with two checkpoints, the first the best; finished if it has an accuracy."""
    run_dir = RunDir(folder / "runs" / name)
    run_dir.checkpoints.mkdir(parents=True)
    loaded = loaded_with("epochs=4", *overrides)
    job = Job(recipe=loaded.recipe, cluster=loaded.cluster, working_folder=str(folder), data_fingerprint="", version="")
    write_job(job, run_dir.job)
    for step in (10, 20):
        run_dir.checkpoint(step).mkdir()
        (run_dir.checkpoint(step) / "weights").write_bytes(b"0" * 1000)
        (run_dir.checkpoint(step) / "state.json").write_text(json.dumps({"training": {"best_step": 10}}))
    line = {"kind": "step", "step": 20, "epoch": 2, "loss": 1.0, "samples_per_second": 9.0, "data_wait_share": 0.0}
    run_dir.metrics.write_text(json.dumps({**line, "samples_seen": 400, "attempt": 1}) + "\n")
    if top1 is not None:
        ended: dict[str, Any] = {
            "outcome": "finished",
            "step": 20,
            "total_steps": 20,
            "best_step": 10,
            "best_value": top1,
        }
        run_dir.result.write_text(json.dumps({**ended, "test": {"split": "test", "top1": top1 - 0.01, "loss": 0.3}}))
    for file in (run_dir.job, run_dir.metrics, run_dir.result):
        if file.exists():
            os.utime(file, (time.time() - age, time.time() - age))
    return run_dir


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    made(tmp_path, "good", 0.95, 100)
    made(tmp_path, "better", 0.97, 7300, "optimizer={name: sgd, base_learning_rate: 0.1}")
    made(tmp_path, "cut-off", None, 90000)
    return tmp_path


def names(result: Result) -> list[str]:
    assert result.exit_code == 0, result.output
    return [line.split()[0] for line in result.stdout.splitlines()[1:-1]]


def test_runs_are_listed_with_the_newest_first(place: Path) -> None:
    assert megabatch("runs").stdout.splitlines() == [
        "run      state        recipe  age  epochs    best    test  ranks",
        "good     finished     digits   2m     4/4  95.00%  94.00%      2",
        "better   finished     digits   2h     4/4  97.00%  96.00%      2",
        "cut-off  not started  digits  25h     2/4                      2",
        "3 runs below runs; best and test are top1",
    ]


@pytest.mark.parametrize(
    ("options", "kept"),
    [
        (["--where", "test.top1>0.95"], ["better"]),
        (["--where", "test.top1>=94%", "--where", "recipe=dig*"], ["good", "better"]),
        (["--where", "optimizer=sgd"], ["better"]),
        (["--where", "optimizer.name!=sgd"], ["good", "cut-off"]),
        (["--where", "age<2h"], ["good"]),
        (["--where", "cluster.nodes=1", "--where", "run=c*"], ["cut-off"]),
        (["--where", "epochs=4", "--sort", "test.top1"], ["better", "good"]),
        (["--state", "not started"], ["cut-off"]),
        (["--state", "finished", "--state", "not started", "--sort", "best"], ["better", "good", "cut-off"]),
        (["--sort", "test.loss"], ["good", "better", "cut-off"]),
        (["--sort", "run"], ["better", "cut-off", "good"]),
    ],
    ids=str,
)
def test_conditions_states_and_order_choose_among_them(place: Path, options: list[str], kept: list[str]) -> None:
    assert names(megabatch("runs", *options)) == kept


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--where", "test.topp1>0.9"], "--where test.topp1: no run has it. Did you mean test.top1?"),
        (["--where", "recipe"], "--where recipe: write KEY=VALUE, !=, >, >=, < or <=, in quotes"),
        (["--where", "test.top1>much"], "--where test.top1>much: 'much' is no number"),
        (["--sort", "tset.top1"], "--sort tset.top1: no run has it."),
        (["--state", "done"], "--state done: write one of not started, waiting, running"),
        (["--folder", "nowhere"], "nowhere: no such folder."),
    ],
)
def test_a_mistake_is_told_with_what_to_write_instead(place: Path, options: list[str], message: str) -> None:
    result = megabatch("runs", *options)
    assert (result.exit_code, message in result.stderr) == (2, True), result.output


def test_damaged_folders_are_listed_as_such_and_can_be_removed(place: Path) -> None:
    folder = place / "runs" / "study" / "broken"
    folder.mkdir(parents=True)
    (folder / "job.yaml").write_text("recipe:\n  name: [")
    (folder / "result.json").write_text('{"step": "x", "test": 3}')
    assert "study/broken  damaged" in megabatch("runs").stdout
    result = megabatch("runs", "remove", "study/broken", "--yes")
    assert (result.exit_code, folder.exists()) == (0, False), result.output


def test_a_thousand_runs_are_read_without_their_whole_jobs(place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """docs/shell.md has the seconds; what they depend on is that no job.yaml is parsed for columns and metrics."""
    monkeypatch.setattr("megabatch.configs.yaml_tree.read_tree", lambda *_: pytest.fail("parsed"))
    for run in runs_below(place / "runs"):
        assert run.value("best") == run.result.get("best_value")
        assert run.value("test.top1") == run.test.get("top1")


def test_removing_asks_first_and_says_how_much(place: Path) -> None:
    refused = megabatch("runs", "remove", "runs/good", typed="n\n")
    assert (refused.exit_code, (place / "runs/good").exists()) == (1, True)
    size = sum(file.stat().st_size for file in (place / "runs/good").rglob("*") if file.is_file())
    assert f"runs/good: finished, {size / 1024:.1f} KiB" in refused.stdout
    assert megabatch("runs", "remove", "runs/good", typed="y\n").exit_code == 0
    assert not (place / "runs/good").exists()
    assert names(megabatch("runs")) == ["better", "cut-off"]


@pytest.fixture
def running(place: Path) -> Iterator[Path]:
    """The run `cut-off`, whose folder a process of this machine has, as rank 0 has it."""
    run_dir = RunDir(place / "runs" / "cut-off")
    code = (
        "import sys; from pathlib import Path; from megabatch.configs.run_lock import take\n"
        "lock = take(Path(sys.argv[1])); print(1, flush=True); sys.stdin.read()"
    )
    pipe = subprocess.PIPE
    with subprocess.Popen([sys.executable, "-c", code, str(run_dir.lock)], stdin=pipe, stdout=pipe) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield run_dir.root


def test_a_running_run_is_not_removed(running: Path) -> None:
    for options in ([], ["--checkpoints"]):
        result = megabatch("runs", "remove", "runs/cut-off", "--yes", *options)
        assert (result.exit_code, "is running: `megabatch cancel" in result.stderr) == (2, True), result.output
    assert RunDir(running).checkpoint(10).exists()


@pytest.mark.parametrize(
    "override",
    [
        "model.pretrained=runs/good/checkpoints/step-00000010",
        "distillation={teachers: [runs/good/checkpoints/step-00000010]}",
    ],
    ids=["pretrained", "teacher"],
)
def test_a_run_that_others_begin_from_stays_until_they_go(place: Path, override: str) -> None:
    made(place, "heir", None, 0.0, override)
    result = megabatch("runs", "remove", "good", "--yes")
    assert (result.exit_code, "runs/good: runs/heir begins from it" in result.stderr) == (2, True), result.output
    assert (place / "runs/good/job.yaml").exists()
    assert megabatch("runs", "remove", "good", "heir", "--yes").exit_code == 0
    assert names(megabatch("runs")) == ["better", "cut-off"]


def test_members_of_an_ensemble_stay(place: Path) -> None:
    whole = made(place, "whole")
    (whole.root / ENSEMBLE).write_text(json.dumps({"members": [{"run": "runs/good"}, {"run": "runs/better"}]}))
    result = megabatch("runs", "remove", "good", "better", "--yes")
    assert result.exit_code == 2
    assert result.stderr.count("begins from it") == 2


def test_of_the_checkpoints_the_best_stays_and_of_a_run_that_can_go_on_the_newest(place: Path) -> None:
    assert megabatch("runs", "remove", "good", "cut-off", "--checkpoints", "--yes").stdout.splitlines() == [
        "runs/good: finished, 1 checkpoint, 1.0 KiB",
        "removed: 1.0 KiB",
    ]
    assert [path.name for path in (place / "runs/good/checkpoints").iterdir()] == ["step-00000010"]
    assert len(list((place / "runs/cut-off/checkpoints").iterdir())) == 2
    assert megabatch("runs", "remove", "good", "--checkpoints").stdout == "nothing to remove\n"


def test_a_checkpoint_that_another_run_begins_from_stays(place: Path) -> None:
    made(place, "heir", None, 0.0, "model.pretrained=runs/good/checkpoints/step-00000020")
    result = megabatch("runs", "remove", "good", "--checkpoints", "--yes")
    assert (result.exit_code, "step-00000020: runs/heir begins from it" in result.stderr) == (2, True), result.output


@pytest.mark.parametrize("name", ["nowhere", ".", "runs", "latest"])
def test_what_is_no_run_is_not_removed(place: Path, name: str) -> None:
    result = megabatch("runs", "remove", name, "--yes")
    assert (result.exit_code, "is no run folder" in result.stderr) == (2, True), result.output


def test_a_link_to_a_run_is_not_followed(place: Path) -> None:
    (place / "runs" / "link").symlink_to(place / "runs" / "good")
    assert "is a link" in megabatch("runs", "remove", "link", "--yes").stderr
    assert (place / "runs/good/job.yaml").exists()
