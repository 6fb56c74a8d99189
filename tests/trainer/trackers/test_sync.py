"""`megabatch sync`: a clean run out of metrics.jsonl, offline and at a server; nothing twice, nothing out of order."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from megabatch.configs.metrics import read_rows
from megabatch.configs.run_dir import RunDir
from megabatch.launcher.save_job import write_job
from megabatch.trainer.trackers import mirror as mirror_module
from megabatch.trainer.trackers import sync, wandb_tracker
from megabatch.trainer.trackers.base import Trackers
from megabatch.trainer.trackers.jsonl import JsonlTracker
from megabatch.trainer.trackers.mirror import Mirror
from support.tracked import job, tell
from support.wandb_file import records, rows, summary
from support.wandb_server import WandbServer, wandb_server

pytestmark = [pytest.mark.processes, pytest.mark.filterwarnings("default")]
PROJECT = "tracking={wandb: {project: demo, log_report: true, log_checkpoint: false}}"


@pytest.fixture(autouse=True)
def alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    for name in ("API_KEY", "MODE", "BASE_URL", "RUN_ID"):
        monkeypatch.delenv(f"WANDB_{name}", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(mirror_module, "_FINISH_SECONDS", 300.0)  # these tests are not about time


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> WandbServer:
    with wandb_server() as found:
        monkeypatch.setenv("WANDB_BASE_URL", found.url)
        monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
        yield found


def restarted_run(folder: Path) -> RunDir:
    """Return a run of which a second attempt has trained step 3 again."""
    run_dir = RunDir(folder / "run")
    run_dir.root.mkdir()
    write_job(job(folder, PROJECT), run_dir.job)
    tell(JsonlTracker(run_dir.metrics), (1, 2, 3))
    tell(JsonlTracker(run_dir.metrics), (3, 4), attempt=2, top1=0.8)
    return run_dir


EXPECTED = [
    (20, 1.0, None), (40, 0.5, None), (60, 1 / 3, None), (60, None, 0.9), (80, 0.25, None), (80, None, 0.8),
]  # fmt: skip


def seen(kept: list[dict[str, object]]) -> list[tuple[object, ...]]:
    numbers = [row for row in kept if "trust_ratio/head.weight" not in row]
    return [(row["samples_seen"], row.get("train/loss"), row.get("validation/top1")) for row in numbers]


def test_a_restarted_run_is_written_offline_as_one_that_never_stopped(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = restarted_run(tmp_path)
    run_dir.report.write_text("<html>")
    (run_dir.wandb_replay / "wandb" / "offline-run-before").mkdir(parents=True)  # its place is taken
    assert sync.main([str(run_dir.root), "--offline"]) == 0
    (folder,) = run_dir.wandb_replay.glob("wandb/offline-run-*")
    out = capsys.readouterr().out
    assert "4 steps and 2 evaluations, without 1 that were trained again -> demo, a new run\n" in out
    assert f"send it with: wandb sync {folder}" in out
    found = records(folder)
    assert seen(rows(found)) == EXPECTED
    steps = [row["_step"] for row in rows(found)]
    assert steps == list(range(len(steps)))
    assert [row["_timestamp"] for row in rows(found)] == [
        pytest.approx(line["time"]) for line in read_rows(run_dir.metrics)
    ]
    assert (summary(found)["best/step"], summary(found)["best/top1"]) == (3, 0.9)
    assert [record["type"] for record in found if record["type"] in ("artifact", "stats")] == ["artifact"]
    assert "hunter2" not in str(found)


def test_sending_again_sends_only_what_the_server_does_not_have(
    tmp_path: Path, server: WandbServer, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = restarted_run(tmp_path)
    run_dir.wandb_id.write_text("abcd1234")
    run_dir.report.write_text("<html>")
    assert sync.main([str(run_dir.root)]) == 0
    assert sync.main([str(run_dir.root)]) == 0
    tell(JsonlTracker(run_dir.metrics), (5,), attempt=3, top1=0.7)
    assert sync.main([str(run_dir.root)]) == 0
    told = [line for line in capsys.readouterr().out.splitlines() if line.startswith("sent")]
    where = f"{server.url}/me/demo/runs/abcd1234"
    assert told == [
        f"sent 8 rows, 0 were there: {where}", f"sent 0 rows, 8 were there: {where}", f"sent 3 rows, 8 were there: {where}",
    ]  # fmt: skip
    (run,) = server.runs.values()
    assert seen(run.rows) == [*EXPECTED, (100, 0.2, None), (100, None, 0.7)]
    assert [row["_step"] for row in run.rows] == list(range(11))
    assert run.summary["best/top1"] == 0.9
    assert {sent["artifactCollectionName"] for sent in server.artifacts} == {"report-abcd1234"}


def test_the_rows_of_a_live_run_are_the_first_ones_of_its_replay(
    tmp_path: Path, server: WandbServer, capsys: pytest.CaptureFixture[str]
) -> None:
    """Both attempts are online. The first is killed before it sends step 4, which the second trains again."""
    run_dir = RunDir(tmp_path / "run")
    run_dir.root.mkdir()
    wished = job(tmp_path, PROJECT)
    write_job(wished, run_dir.job)
    for attempt, steps in ((1, (1, 2, 3)), (2, (4, 5))):
        follow = partial(wandb_tracker.follow, wished.recipe.tracking.wandb, wished, run_dir, print)
        mirror = Mirror("Weights & Biases", follow, print)
        tell(Trackers((JsonlTracker(run_dir.metrics), mirror)), steps, attempt, top1=0.9 if attempt == 1 else 0.8)
        unsent = JsonlTracker(run_dir.metrics)
        unsent.take({"kind": "step", "attempt": 1, "time": 1.0, "step": 4, "samples_seen": 80, "loss": 0.25})
        unsent.close()
    assert sync.main([str(run_dir.root)]) == 0
    out = capsys.readouterr().out
    assert "sent 0 rows, 9 were there" in out
    (run,) = server.runs.values()
    assert seen(run.rows) == [*EXPECTED[:5], (100, 0.2, None), (100, None, 0.8)]


def test_what_cannot_be_completed_is_refused_and_sent_as_a_new_run(
    tmp_path: Path, server: WandbServer, capsys: pytest.CaptureFixture[str]
) -> None:
    run_dir = restarted_run(tmp_path)
    run_dir.wandb_id.write_text("abcd1234")
    server.take("abcd1234", {"wandb-history.jsonl": {"offset": 0, "content": ['{"_step": 0, "step": 4}']}})
    server.runs["abcd1234"].summary = {"step": 4}  # as if the last of several offline folders had been synced
    assert sync.main([str(run_dir.root)]) == 2
    assert "run abcd1234 has 1 rows at Weights & Biases which are not the first of this run" in capsys.readouterr().err
    assert len(server.runs["abcd1234"].rows) == 1
    assert sync.main([str(run_dir.root), "--new"]) == 0
    assert seen(server.runs[run_dir.wandb_id.read_text()].rows) == EXPECTED
    assert run_dir.wandb_id.read_text() != "abcd1234"


def test_nothing_is_sent_without_project_key_or_steps(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_dir = restarted_run(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert sync.main([str(run_dir.root), "--dry-run", "--entity", "me"]) == 0
    assert " -> me/demo, a new run\n" in capsys.readouterr().out
    assert sync.main([str(run_dir.root)]) == 2
    assert "no key for Weights & Biases here: `wandb login`, or write it with --offline" in capsys.readouterr().err
    write_job(job(tmp_path), run_dir.job)
    assert sync.main([str(run_dir.root)]) == 2
    assert "run: its recipe has no tracking.wandb: name a project with --project" in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before
    run_dir.metrics.write_text("")
    assert sync.main([str(run_dir.root), "--project", "demo"]) == 2
    assert "metrics.jsonl: has no step yet" in capsys.readouterr().err
