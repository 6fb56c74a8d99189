"""A few random harms, and a judge that notices when a promise is broken; soak.py does many."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from faults.soak import Soak

from megabatch.configs.run_dir import RunDir
from support.invariants import same_training, violations
from support.runs import Workplace

pytestmark = pytest.mark.processes


@pytest.mark.matrix
def test_a_run_harmed_at_random_moments_ends_with_the_same_bits_as_one_left_alone(workplace: Workplace) -> None:
    report = Soak(workplace, seed=3, ranks=2, engine="ddp").harm(2)
    assert sum(report.harms.values()) == 2
    assert report.finished_runs >= 1
    assert report.broken == []


def forget_a_line(run: Path) -> None:
    file = next((run / "samples").glob("*.jsonl"))
    file.write_text("".join(file.read_text().splitlines(keepends=True)[:-1]))


def change_a_sample(run: Path) -> None:
    file = next((run / "samples").glob("*.jsonl"))
    lines = [json.loads(text) for text in file.read_text().splitlines()]
    lines[1]["sample_ids"][0] = lines[0]["sample_ids"][0]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))


def train_again_with_others(run: Path) -> None:
    file = next((run / "samples").glob("*.jsonl"))
    line = json.loads(file.read_text().splitlines()[0])
    with file.open("a") as log:
        log.write(json.dumps({**line, "sample_ids": line["sample_ids"][::-1]}) + "\n")


def log_a_step_twice(run: Path) -> None:
    text = (run / "metrics.jsonl").read_text()
    step = next(line for line in text.splitlines(keepends=True) if '"step"' in line)
    (run / "metrics.jsonl").write_text(text + step)


def train_again_to_another_loss(run: Path) -> None:
    text = (run / "metrics.jsonl").read_text()
    step = [json.loads(line) for line in text.splitlines() if '"kind": "step"' in line][-1]
    (run / "metrics.jsonl").write_text(text + json.dumps({**step, "attempt": 2, "loss": 0.0}) + "\n")


def flip_a_byte(run: Path) -> None:
    file = next((run / "checkpoints").glob("step-*/model.safetensors"))
    content = bytearray(file.read_bytes())
    content[-1] ^= 1
    file.write_bytes(content)


def lose_a_checkpoint(run: Path) -> None:
    shutil.rmtree(min((run / "checkpoints").glob("step-*")))


@pytest.mark.parametrize(
    ("harm", "found"),
    [
        (forget_a_line, "never trained|finished after|not every sample"),
        (change_a_sample, "epoch 0 has not every sample once"),
        (train_again_with_others, "was trained again with other samples"),
        (log_a_step_twice, "attempt 1 has step 1 after step 6 of attempt 1"),
        (train_again_to_another_loss, "step 6 had another loss"),
        (flip_a_byte, "is not what the manifest says"),
        (lose_a_checkpoint, "1 checkpoints are left"),
    ],
)
def test_the_judge_notices(workplace: Workplace, tmp_path: Path, harm: Callable[[Path], None], found: str) -> None:
    run_dir: RunDir = workplace.train("judged", 1, "checkpoint.every_steps=2")
    shutil.copytree(run_dir.root, tmp_path / "run")
    assert violations(tmp_path / "run", 44, 6) == []
    assert same_training(tmp_path / "run", run_dir.root) == []
    harm(tmp_path / "run")
    assert re.search(found, "\n".join(violations(tmp_path / "run", 44, 6)))
