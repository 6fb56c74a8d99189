"""TensorBoard, read back with its own EventAccumulator."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest

from megabatch.configs.run_dir import RunDir
from megabatch.trainer.trackers import tensorboard_tracker
from megabatch.trainer.trackers.mirror import Mirror
from support.tracked import tell

event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
pytestmark = pytest.mark.filterwarnings("default")


def tracker_of(run_dir: RunDir, warnings: list[str]) -> Mirror:
    return Mirror("TensorBoard", partial(tensorboard_tracker.follow, run_dir), warnings.append)


def curves(run_dir: RunDir) -> dict[str, list[tuple[int, float]]]:
    reader = event_accumulator.EventAccumulator(str(run_dir.tensorboard)).Reload()
    return {
        name: [(point.step, pytest.approx(point.value)) for point in reader.Scalars(name)]
        for name in reader.Tags()["scalars"]
    }


def test_what_is_trained_again_takes_the_place_of_what_was_there(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path)
    warnings: list[str] = []
    tell(tracker_of(run_dir, warnings), (1, 2, 3))
    tell(tracker_of(run_dir, warnings), (3, 4), attempt=2, top1=0.8)
    assert warnings == []
    found = curves(run_dir)
    assert found["train/loss"] == [(20, 1.0), (40, 0.5), (60, 1 / 3), (80, 0.25)]
    assert found["validation/top1"] == [(80, 0.8)]  # that after step 3 was taken back with it
    assert found["train/learning_rate"] == [(20, 0.1), (40, 0.1), (60, 0.1), (80, 0.1)]
    assert found["trust_ratio/head.weight"] == [(80, 0.5)]


def test_going_back_within_an_attempt_takes_back_what_was_trained_since(tmp_path: Path) -> None:
    warnings: list[str] = []
    tell(tracker_of(RunDir(tmp_path), warnings), (1, 2, 3, 2))
    assert warnings == []
    assert curves(RunDir(tmp_path))["train/loss"] == [(20, 1.0), (40, 0.5)]


def test_an_evaluation_that_was_still_before_the_run_leaves_the_step_it_is_of(tmp_path: Path) -> None:
    run_dir = RunDir(tmp_path)
    warnings: list[str] = []
    before = tracker_of(run_dir, warnings)
    line = {"kind": "step", "attempt": 1, "time": 1.0, "step": 3, "samples_seen": 60, "loss": 2.0}
    before.take(line)
    before.close()
    tell(tracker_of(run_dir, warnings), (), attempt=2, last=3)
    assert (curves(run_dir)["train/loss"], curves(run_dir)["validation/top1"]) == ([(60, 2.0)], [(60, 0.9)])
