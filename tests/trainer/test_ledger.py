"""The ledger: distinct samples, over restarts, up to a limit, and readable after a kill."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from megabatch.configs.data import SkipErrors, StopOnError
from megabatch.data.errors import SkippedSample
from megabatch.trainer.errors import TrainingError
from megabatch.trainer.ledger import Ledger, read_ledger
from megabatch.trainer.world import World

ALONE = World(0, 1, 0, torch.device("cpu"))


def sample(number: int, reason: str = "image") -> SkippedSample:
    return SkippedSample(reason, "train-000000.tar", f"k{number}", number, f"train-000000.tar: sample k{number}: bad")


def test_a_sample_met_in_every_epoch_counts_once_and_a_restart_forgets_none(tmp_path: Path) -> None:
    file = tmp_path / "data-errors.jsonl"
    for _ in range(3):
        ledger = Ledger(file, SkipErrors(max_samples=2), ALONE)
        ledger.add([sample(1), sample(2, "label")], "train")
    assert ledger.summary() == "image: 1, label: 1"
    assert ledger.counts() == {"image": {"train-000000.tar": 1}, "label": {"train-000000.tar": 1}}
    assert [line["sample_id"] for line in read_ledger(file)] == [1, 2] * 3
    with pytest.raises(TrainingError, match=r"3 samples could not be used, data.on_error allows 2 .*sample k3: bad"):
        Ledger(file, SkipErrors(max_samples=2), ALONE).add([sample(3)], "train")


def test_the_same_number_in_two_splits_is_two_samples(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path / "errors", SkipErrors(max_samples=5), ALONE)
    ledger.add([sample(1)], "train")
    ledger.add([sample(1)], "validation")
    assert ledger.summary() == "image: 2"


def test_nothing_is_allowed_without_on_error(tmp_path: Path) -> None:
    with pytest.raises(TrainingError, match=r"data\.on_error allows 0"):
        Ledger(tmp_path / "errors", StopOnError(), ALONE).add([sample(1)], "train")


def test_half_a_line_is_passed_over(tmp_path: Path) -> None:
    file = tmp_path / "errors"
    Ledger(file, SkipErrors(max_samples=5), ALONE).add([sample(1)], "train")
    with file.open("a") as opened:
        opened.write('{"split": "tra')
    ledger = Ledger(file, SkipErrors(max_samples=5), ALONE)
    ledger.add([sample(2)], "train")
    assert ledger.summary() == "image: 2"
    assert Ledger(file, SkipErrors(max_samples=5), ALONE).summary() == "image: 2"
