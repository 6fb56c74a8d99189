"""Weights & Biases, for real and offline: what it wrote is read back with wandb's own protocol."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from megabatch.configs.run_dir import RunDir
from megabatch.configs.tracking import Wandb
from megabatch.trainer.trackers import mirror, wandb_tracker
from megabatch.trainer.trackers.mirror import Mirror
from support.tracked import job, tell

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
        tell(tracker_of(Wandb(project="demo"), tmp_path, run_dir, warnings), steps, attempt)
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


def test_without_a_network_it_is_written_offline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_API_KEY", "0" * 40)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")  # nobody listens on the discard port
    run_dir = RunDir(tmp_path / "run")
    run_dir.root.mkdir()
    warnings: list[str] = []
    tell(tracker_of(Wandb(project="demo"), tmp_path, run_dir, warnings), [1])
    assert warnings == ["http://127.0.0.1:9 cannot be reached: writing offline; `wandb sync` sends it later"]
    rows, _ = written(run_dir)
    assert [row["train/loss"] for row in rows if "train/loss" in row] == [1.0]


@pytest.mark.parametrize(("key", "mode"), [(None, "offline"), ("0" * 40, "online")])
def test_without_a_key_it_is_offline(monkeypatch: pytest.MonkeyPatch, key: str | None, mode: str) -> None:
    if key:
        monkeypatch.setenv("WANDB_API_KEY", key)
    assert wandb_tracker._mode() == mode
    monkeypatch.setenv("WANDB_MODE", "disabled")
    assert wandb_tracker._mode() == "disabled"
