"""Weights & Biases, for real and offline: what it wrote is read back with wandb's own reader."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from megabatch.configs.run_dir import RunDir
from megabatch.configs.tracking import Wandb
from megabatch.trainer.trackers import mirror, wandb_tracker
from megabatch.trainer.trackers.base import Trackers
from megabatch.trainer.trackers.jsonl import JsonlTracker
from megabatch.trainer.trackers.mirror import Mirror
from support.tracked import job, tell
from support.wandb_file import records, rows, summary

pytestmark = [pytest.mark.processes, pytest.mark.filterwarnings("default")]


@pytest.fixture(autouse=True)
def without_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(mirror, "_FINISH_SECONDS", 300.0)  # these tests are not about time


def tracker_of(settings: Wandb, folder: Path, run_dir: RunDir, warnings: list[str]) -> Mirror:
    follow = partial(wandb_tracker.follow, settings, job(folder), run_dir, warnings.append)
    return Mirror("Weights & Biases", follow, warnings.append)


def folders(run_dir: RunDir) -> list[Path]:
    return sorted((run_dir.root / "wandb").glob("offline-run-*"), key=lambda folder: folder.stat().st_mtime)


def test_a_restarted_job_is_one_run_with_no_step_twice(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Step 2 is trained again by the second attempt, and the evaluation after it comes then."""
    monkeypatch.setenv("WANDB_X_STATS_SAMPLING_INTERVAL", "0.1")
    run_dir = RunDir(tmp_path / "run")
    run_dir.root.mkdir()
    settings = Wandb(project="demo", group="first", job_type="train", tags=("big",), name="mine")
    warnings: list[str] = []
    found = []
    for attempt, steps in ((1, (1, 2)), (2, (2, 3))):
        told = Trackers((JsonlTracker(run_dir.metrics), tracker_of(settings, tmp_path, run_dir, warnings)))
        run_dir.result.write_text('{"outcome": "finished"}')
        tell(told, steps, attempt, top1=0.9 / attempt)
        found.append(records(folders(run_dir)[-1]))
    assert warnings == []
    seen = [
        (row["samples_seen"], row.get("train/loss"), row.get("validation/top1")) for part in found for row in rows(part)
        if "trust_ratio/head.weight" not in row
    ]  # fmt: skip
    assert seen == [(20, 1.0, None), (40, 0.5, None), (40, None, 0.9), (60, 1 / 3, None), (60, None, 0.45)]
    (run,) = (record["run"] for record in found[0] if record["type"] == "run")
    assert (run["project"], run["run_group"], run["job_type"], run["tags"]) == ("demo", "first", "train", ["big"])
    assert run["display_name"] == "mine"
    assert run["config"]["update"]["batch"]["global_batch"] == 256
    assert {r["run"]["run_id"] for part in found for r in part if r["type"] == "run"} == {run_dir.wandb_id.read_text()}
    known = summary(found[1])
    assert (known["best/top1"], known["best/step"], known["train/loss"], known["outcome"]) == (
        0.9,
        2,
        1 / 3,
        "finished",
    )
    assert any(record["type"] == "metric" and "samples_seen" in str(record) for record in found[0])
    assert any(record["type"] == "stats" for record in found[0])  # of this machine, by wandb itself
    assert "hunter2" not in str(found)


def test_without_a_network_it_is_written_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # nobody listens on the discard port
    run_dir = RunDir(tmp_path / "run")
    run_dir.root.mkdir()
    warnings: list[str] = []
    tell(tracker_of(Wandb(project="demo"), tmp_path, run_dir, warnings), [1])
    later = f"`megabatch sync {run_dir.root}` sends it later"
    assert warnings == [f"http://127.0.0.1:9 cannot be reached: writing offline; {later}"]
    (folder,) = folders(run_dir)
    assert [row["train/loss"] for row in rows(records(folder)) if "train/loss" in row] == [1.0]


@pytest.mark.parametrize(("key", "mode"), [(None, "offline"), ("0" * 40, "online")])
def test_without_a_key_it_is_offline(monkeypatch: pytest.MonkeyPatch, key: str | None, mode: str) -> None:
    if key:
        monkeypatch.setenv("WANDB_API_KEY", key)
    assert wandb_tracker.chosen_mode(Wandb(project="demo")) == mode
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert wandb_tracker.chosen_mode(Wandb(project="demo")) == "disabled"


def test_the_run_of_a_sweep_is_the_one_that_its_agent_began(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An agent sets WANDB_RUN_ID, WANDB_SWEEP_ID and WANDB_SWEEP_PARAM_PATH (wandb/wandb_agent.py)."""
    run_dir = RunDir(tmp_path)
    (tmp_path / "parameters.yaml").write_text("wandb_version: 1\nepochs:\n  value: 20\n")
    for name, value in (("RUN_ID", "agent123"), ("SWEEP_ID", "sweep456"), ("SWEEP_PARAM_PATH", "parameters.yaml")):
        monkeypatch.setenv(f"WANDB_{name}", value)
    monkeypatch.chdir(tmp_path)
    run_dir.wandb_id.write_text("ours")
    warnings: list[str] = []
    tell(tracker_of(Wandb(project="demo"), tmp_path, run_dir, warnings), [1])
    assert warnings == []
    (folder,) = folders(run_dir)
    run = next(record["run"] for record in records(folder) if record["type"] == "run")
    assert (run["run_id"], run["sweep_id"]) == ("agent123", "sweep456")
    assert run_dir.wandb_id.read_text() == "agent123"  # where it goes on without the agent
