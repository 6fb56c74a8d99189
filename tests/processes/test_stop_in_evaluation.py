"""A run that is asked to stop while it evaluates does so at once, and has that evaluation before it when it goes on."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from megabatch.configs.best_checkpoint import best_checkpoint
from megabatch.configs.metrics import read_metrics
from megabatch.configs.run_dir import RunDir
from megabatch.launcher.launch import read_result
from megabatch.trainer.checkpoint import chosen
from support.runs import Workplace, finish, losses, trained_samples

pytestmark = pytest.mark.processes
# Evaluates slowly after as many passes of a process as a file says, and tells so in another file.
NETWORK = """\
import time
from pathlib import Path

from network import small


def slow_to_evaluate(num_classes, folder):
    network, held, passes = small(num_classes), Path(folder, "held"), []

    def hook(*_):
        if network.training or not held.exists():
            return
        passes.append(None)
        if len(passes) > int(held.read_text()):
            Path(folder, "evaluating").touch()
            time.sleep(0.3)

    network.register_forward_pre_hook(hook)
    return network
"""
VALIDATION_PASSES = 8  # of rank 0: 15 samples one at a time, on two ranks
RECIPE = (
    "epochs=2", "data.validation_split=validation", "data.test_split=test", "evaluation.micro_batch=1",
    "averaging={name: ema, decay: 0.5}",
)  # fmt: skip


def stop_in_evaluation(workplace: Workplace, run_dir: RunDir, place: Path, passes: int) -> int:
    """Start the ranks, stop them after so many passes of evaluation, and return the step at which they stopped."""
    (place / "held").write_text(str(passes))
    process = workplace.start(run_dir)
    deadline = time.monotonic() + 200
    while not (place / "evaluating").exists():
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    finish(process, run_dir)
    (place / "held").unlink()
    (place / "evaluating").unlink()
    result = read_result(run_dir.result)
    assert result["outcome"] == "stopped"
    assert "test" not in result
    return int(result["step"])


def evaluations(run_dir: RunDir) -> list[tuple[int, str, float]]:
    lines = read_metrics(run_dir.metrics, "evaluation")
    return [(line["step"], line["split"], line["loss"]) for line in lines]


@pytest.mark.parametrize("engine", ["ddp", pytest.param("{name: fsdp, min_parameters: 100}", marks=pytest.mark.matrix)])
def test_it_stops_in_every_evaluation_and_loses_nothing(workplace: Workplace, tmp_path: Path, engine: str) -> None:
    (workplace.folder / "slow.py").write_text(NETWORK)
    recipe = (
        *RECIPE,
        f"engine={engine}",
        "model.name=slow:slow_to_evaluate",
        f"model.options={{folder: '{tmp_path}'}}",
    )
    name = "ddp" if engine == "ddp" else "fsdp"
    run_dir = workplace.job(f"stopped-{name}", 2, *recipe)
    assert stop_in_evaluation(workplace, run_dir, tmp_path, 0) == 3
    assert evaluations(run_dir) == []
    assert stop_in_evaluation(workplace, run_dir, tmp_path, VALIDATION_PASSES) == 6
    assert [split for _, split, _ in evaluations(run_dir)] == ["validation"]
    assert stop_in_evaluation(workplace, run_dir, tmp_path, VALIDATION_PASSES) == 6
    assert [split for _, split, _ in evaluations(run_dir)] == ["validation", "validation"]
    assert run_dir.checkpoint(6).is_dir()
    assert chosen(run_dir, "best") == best_checkpoint(run_dir, run_dir.checkpoint(6))
    finish(workplace.start(run_dir), run_dir)
    reference = workplace.train(f"never-stopped-{name}", 2, *recipe)
    assert losses(run_dir) == losses(reference)
    assert trained_samples(run_dir) == trained_samples(reference)
    assert {*evaluations(run_dir)} == {*evaluations(reference)}
    assert chosen(run_dir, "best").name == chosen(reference, "best").name
    results = read_result(run_dir.result), read_result(reference.result)
    assert results[0]["test"] == results[1]["test"]
    assert results[0]["best_value"] == results[1]["best_value"]
