"""What is written down of each launch: the command, git's state, the plan and what the recipe changes in its base."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from megabatch.configs.load import load
from megabatch.launcher import launches
from support.report_runs import bare_run


def asked(recipe: str, *overrides: str) -> launches.Asked:
    return launches.asked_to_start(recipe, "laptop", overrides, None, load(recipe, "laptop", overrides))


def test_overrides_of_a_shipped_recipe_are_differences_to_it() -> None:
    found = asked("digits", "epochs=3", "regularization.clip_norm=1.0")
    assert found.base == "digits"
    assert found.differences == (
        {"key": "epochs", "from": "command line", "before": 30, "now": 3},
        {"key": "regularization.clip_norm", "from": "command line", "now": 1.0},
    )


def test_a_recipe_is_compared_with_the_base_that_it_names(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text("base: digits\nname: mine\nepochs: 5\n")
    found = asked("mine.yaml")
    assert found.base == "digits"
    assert [(one["key"], one["now"], one["from"]) for one in found.differences] == [
        ("name", "mine", "mine.yaml:2:1"), ("epochs", 5, "mine.yaml:3:1"),
    ]  # fmt: skip


def test_no_secret_is_written_down() -> None:
    found = asked("digits", "data.path=https://me:secret@host/t-0.tar?sig=secret", "cluster.environment={HF: secret}")
    assert "secret" not in json.dumps(found.command)
    assert "secret" not in json.dumps(found.differences)
    assert found.command[3:5] == ("data.path=https://host/t-0.tar", "cluster.environment=(not shown)")


def test_git_tells_commit_branch_and_what_was_not_committed(tmp_path: Path) -> None:
    def git(*arguments: str) -> str:
        identity = ("-c", "user.name=me", "-c", "user.email=me@example.org")
        command = ["git", "-C", str(tmp_path), *identity, *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    assert launches.git_state(tmp_path) is None
    git("init", "--initial-branch", "work")
    (tmp_path / "network.py").write_text("a = 1\n")
    git("add", "network.py")
    git("commit", "--message", "first")
    assert launches.git_state(tmp_path) == {"commit": git("rev-parse", "HEAD"), "branch": "work", "changed": 0}
    (tmp_path / "network.py").write_text("a = 2\n")
    (tmp_path / "new.py").write_text("")
    found = launches.git_state(tmp_path)
    assert found is not None
    assert found["changed"] == 2


def test_a_bad_ending_is_written_down_without_the_place_of_its_logs(tmp_path: Path) -> None:
    run_dir = bare_run(tmp_path / "run")
    launches.record_ending(run_dir, "rank 0 was killed by SIGKILL\nlogs: /somewhere")
    line = json.loads(run_dir.launches.read_text())
    assert (line["kind"], line["cause"]) == ("ended", "rank 0 was killed by SIGKILL")
