"""Trackers before and after the training: packages that are missing, runs of a study, sweeps, files of a finished run."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from ruamel.yaml import YAML
from typer.testing import CliRunner

from megabatch.configs.errors import ConfigError
from megabatch.configs.job import Job
from megabatch.configs.run_dir import RunDir
from megabatch.launcher import tracking
from megabatch.launcher.cli import app
from megabatch.launcher.save_job import write_job
from megabatch.launcher.study.ablation import _run
from megabatch.launcher.study.matrix import Cell
from support.tracked import job

ROOT = Path(__file__).parents[2]


def test_missing_packages_are_refused_with_the_command_that_installs_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wished = job(tmp_path, "tracking={tensorboard: {}, mlflow: {}}")
    monkeypatch.setattr(tracking, "find_spec", lambda name: None if name != "mlflow" else object())
    assert [str(problem) for problem in tracking.tracking_problems(wished.recipe)] == [
        "tracking.tensorboard needs tensorboard, not installed here. Instead: pip install 'megabatch[tensorboard]'",
        "tracking.mlflow needs sqlalchemy, alembic, not installed here. Instead: pip install 'megabatch[mlflow]'",
    ]
    assert tracking.tracking_problems(job(tmp_path).recipe) == []


def test_the_runs_of_an_ablation_are_one_group_with_their_cells_as_tags(tmp_path: Path) -> None:
    cell = Cell(("regularization.label_smoothing=0",))
    wished = job(tmp_path, "tracking={wandb: {project: demo, tags: [mine]}}")
    run = _run(tmp_path / "digits", cell, 3, wished)
    found = run.job.recipe.tracking.wandb
    assert found is not None
    assert (found.group, found.job_type, found.name) == ("digits", "ablation", f"{cell.folder}/seed-3")
    assert found.tags == ("mine", "regularization.label_smoothing=0")
    assert run.job.fingerprint() != wished.fingerprint()  # the seed
    given = job(tmp_path, "tracking={wandb: {project: demo, group: ours, job_type: big, name: a}}")
    own = tracking.as_one_of(given, "digits", "ablation", "b", ["x" * 100]).recipe.tracking.wandb
    assert own is not None
    assert (own.group, own.job_type, own.name, own.tags) == ("ours", "big", "a/b", ("x" * 64,))
    assert tracking.as_one_of(job(tmp_path), "a", "b", "c") == job(tmp_path)


def test_several_runs_are_refused_where_the_environment_has_one_id_for_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tracked = job(tmp_path, "tracking={wandb: {project: demo}}")
    monkeypatch.setenv("WANDB_RUN_ID", "abc")
    assert tracking.as_one_of(job(tmp_path), "a", "b", "c") == job(tmp_path)
    with pytest.raises(ConfigError, match=r"WANDB_RUN_ID is set, .* this trains several: `unset WANDB_RUN_ID`"):
        tracking.as_one_of(tracked, "a", "b", "c")


def sweep() -> dict[str, dict[str, dict[str, list[object]]]]:
    blocks = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs" / "tracking.md").read_text(), re.DOTALL)
    (text,) = (block for block in blocks if "parameters:" in block)
    found: dict[str, dict[str, dict[str, list[object]]]] = YAML(typ="safe").load(text)
    return found


def test_the_sweep_in_the_docs_sets_keys_of_a_recipe_as_the_agent_writes_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

    values = {"optimizer.base_learning_rate": 1e-05, "regularization.label_smoothing": 0, "optimizer.nesterov": True}
    assert values.keys() == sweep()["parameters"].keys()
    arguments = create_sweep_command_args({"args": {key: {"value": value} for key, value in values.items()}})
    command: list[str] = []
    for word in sweep()["command"]:  # as wandb/wandb_agent.py does
        command += arguments[word[2:-1]] if word.startswith("${") else [word]
    assert command[:3] == ["megabatch", "launch", "mine.yaml"]
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text("base: digits\noptimizer: {name: sgd, base_learning_rate: 0.1}\n")
    shown = CliRunner().invoke(app, ["config", "show", *command[2:]])
    assert shown.exit_code == 0, shown.output
    for line in ("base_learning_rate: 1e-05", "label_smoothing: 0", "nesterov: true"):
        assert line in shown.stdout
    refused = CliRunner().invoke(app, ["config", "show", "mine.yaml", "regularization.dropout=None"])
    assert refused.exit_code == 2


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    calls: list[list[str]] = []

    class Done:
        returncode = 0

    monkeypatch.setattr(tracking.subprocess, "run", lambda command, check: calls.append(command[1:]) or Done())
    return calls


WITH_FILES = "tracking={wandb: {project: demo, log_report: true}}"


def finished(folder: Path, wished: Job, wandb_folder: str) -> RunDir:
    run_dir = RunDir(folder / "run")
    (run_dir.root / "wandb" / wandb_folder).mkdir(parents=True)
    write_job(wished, run_dir.job)
    return run_dir


def test_files_of_a_run_that_was_online_are_sent_when_it_has_ended(tmp_path: Path, sent: list[list[str]]) -> None:
    wished = job(tmp_path, WITH_FILES)
    run_dir = finished(tmp_path, wished, "run-20261130_120000-abcd1234")
    tracking.send_files(wished, run_dir, print)
    assert sent == [["-m", "megabatch.trainer.trackers.sync", str(run_dir.root)]]
    tracking.send_files(job(tmp_path, "tracking={wandb: {project: demo}}"), run_dir, print)
    assert len(sent) == 1  # no files are wished for


def test_of_one_that_was_offline_it_is_told_how_to_send_it(tmp_path: Path, sent: list[list[str]]) -> None:
    wished = job(tmp_path, WITH_FILES)
    told: list[str] = []
    run_dir = finished(tmp_path, wished, "offline-run-20261130_120000-abcd1234")
    tracking.send_files(wished, run_dir, told.append)
    assert told == [f"send it to Weights & Biases, with its files: megabatch sync {run_dir.root}"]
    assert sent == []


def test_sync_sends_each_stage_of_a_run_that_has_stages(
    tmp_path: Path, sent: list[list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for folder in ("alone", "whole", "whole/stages/1", "whole/stages/2"):
        (tmp_path / folder).mkdir(parents=True)
        write_job(job(tmp_path), tmp_path / folder / "job.yaml")
    done = CliRunner().invoke(app, ["sync", "alone", "whole", "--project", "demo", "--offline"])
    assert done.exit_code == 0, done.output
    folders = [str(tmp_path / name) for name in ("alone", "whole/stages/1", "whole/stages/2")]
    assert sent == [["-m", "megabatch.trainer.trackers.sync", "--project", "demo", "--offline", *folders]]
    nothing = CliRunner().invoke(app, ["sync", "nowhere"])
    assert nothing.exit_code == 2
    assert "nowhere: is no run folder: it has no job.yaml" in nothing.stderr
