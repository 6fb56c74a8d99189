"""Weights & Biases, for real and offline: what it wrote is read back with wandb's own protocol."""

from __future__ import annotations

import json
import struct
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from megabatch.configs.job import Job
from megabatch.configs.load import load
from megabatch.configs.run_dir import RunDir
from megabatch.configs.tracking import Wandb
from megabatch.trainer.evaluate import EvaluationResult
from megabatch.trainer.state import TrainState
from megabatch.trainer.step import StepReport
from megabatch.trainer.trackers import wandb_tracker
from megabatch.trainer.trackers.wandb_tracker import WandbTracker

pytestmark = [pytest.mark.processes, pytest.mark.filterwarnings("default")]


@pytest.fixture(autouse=True)
def without_key(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.delenv("WANDB_MODE", raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "no-netrc"))
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setattr(wandb_tracker, "_FINISH_SECONDS", 300.0)  # these tests are not about time


def job(folder: Path) -> Job:
    loaded = load("digits", "laptop", ["cluster.environment={SECRET_TOKEN: hunter2}"])
    return Job(
        recipe=loaded.recipe, cluster=loaded.cluster, working_folder=str(folder), data_fingerprint="", version="0"
    )


def log_records(raw: bytes) -> Iterator[bytes]:
    """Split a .wandb file into records: LevelDB's log format (blocks of 32 KiB; checksum, length, type) after 7 bytes."""
    block, position, parts = 32768, 7, b""
    while position + 7 <= len(raw):
        if block - position % block < 7:
            position += block - position % block
            continue
        length, kind = struct.unpack_from("<HB", raw, position + 4)
        parts += raw[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield parts
            parts = b""


def written(run_dir: RunDir) -> tuple[list[dict[str, float]], str]:
    from wandb.proto import wandb_internal_pb2

    rows, everything = [], ""
    for file in sorted((run_dir.root / "wandb").glob("offline-run-*/run-*.wandb")):
        for data in log_records(file.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            everything += str(record)
            if record.WhichOneof("record_type") == "history":
                items = record.history.item
                rows.append({i.key or "/".join(i.nested_key): json.loads(i.value_json) for i in items})
    return rows, everything


def test_an_offline_run_holds_every_step_and_evaluation_under_one_id_across_restarts(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path / "run")
    run_dir.root.mkdir()
    warnings: list[str] = []
    for attempt, steps in ((1, (1, 2)), (2, (3,))):
        tracker = WandbTracker(Wandb(project="demo"), job(tmp_path), run_dir, warnings.append)
        for step in steps:
            state = TrainState(step=step, samples_seen=20 * step, attempt=attempt)
            tracker.step(StepReport(step - 1, 0, 20, 1.0 / step, 0.1, None, 0.5, 0.0, 0, False), state)
        tracker.evaluation(EvaluationResult("validation", 10, 0, 0.25, {"top1": 0.9, "top5": 1.0}), state)
        tracker.close()
    assert warnings == []
    rows, everything = written(run_dir)
    assert [(row["samples_seen"], row["train/loss"]) for row in rows if "train/loss" in row] == [
        (20, 1.0), (40, 0.5), (60, 1 / 3),
    ]  # fmt: skip
    assert [row["validation/top1"] for row in rows if "validation/top1" in row] == [0.9, 0.9]
    folders = [folder.name for folder in (run_dir.root / "wandb").glob("offline-run-*")]
    assert len(folders) == 2
    assert all(f"-{run_dir.wandb_id.read_text()}" in name for name in folders)  # a second run in a second gets a -1
    assert "hunter2" not in everything


def test_a_failure_there_ends_with_a_message_and_not_the_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import wandb

    def broken(**_: object) -> None:
        raise OSError("no space left on device")

    monkeypatch.setattr(wandb, "init", broken)
    warnings: list[str] = []
    tracker = WandbTracker(Wandb(project="demo"), job(tmp_path), RunDir(tmp_path), warnings.append)
    for step in range(20):
        tracker.step(StepReport(step, 0, 20, 1.0, 0.1, None, 0.5, 0.0, 0, False), TrainState(step=step))
        time.sleep(0.01)
    tracker.close()
    assert warnings == [
        "Weights & Biases stopped: OSError no space left on device. Training goes on; metrics.jsonl has everything"
    ]


def test_a_server_that_hangs_neither_blocks_a_step_nor_the_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import threading

    import wandb

    release = threading.Event()
    monkeypatch.setattr(wandb, "init", lambda **_: release.wait())
    monkeypatch.setattr(wandb_tracker, "_FINISH_SECONDS", 0.2)
    monkeypatch.setattr(wandb_tracker, "_QUEUE_LINES", 5)
    warnings: list[str] = []
    tracker = WandbTracker(Wandb(project="demo"), job(tmp_path), RunDir(tmp_path), warnings.append)
    for step in range(20):
        tracker.step(StepReport(step, 0, 20, 1.0, 0.1, None, 0.5, 0.0, 0, False), TrainState(step=step))
    tracker.close()
    release.set()
    assert warnings == ["Weights & Biases did not finish within 0 s; metrics.jsonl has everything"]


def test_without_a_network_it_is_written_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # nobody listens on the discard port
    run_dir = RunDir(tmp_path / "run")
    run_dir.root.mkdir()
    warnings: list[str] = []
    tracker = WandbTracker(Wandb(project="demo"), job(tmp_path), run_dir, warnings.append)
    tracker.step(StepReport(0, 0, 20, 0.5, 0.1, None, 0.5, 0.0, 0, False), TrainState(step=1, samples_seen=20))
    tracker.close()
    assert warnings == ["http://127.0.0.1:9 cannot be reached: writing offline; `wandb sync` sends it later"]
    rows, _ = written(run_dir)
    assert [row["train/loss"] for row in rows] == [0.5]


@pytest.mark.parametrize(("key", "mode"), [(None, "offline"), ("0" * 40, "online")])
def test_without_a_key_it_is_offline(monkeypatch: pytest.MonkeyPatch, key: str | None, mode: str) -> None:
    if key:
        monkeypatch.setenv("WANDB_API_KEY", key)
    assert wandb_tracker._mode() == mode
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert wandb_tracker._mode() == "disabled"
