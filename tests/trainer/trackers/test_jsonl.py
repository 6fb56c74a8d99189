"""metrics.jsonl: nothing lost when the process is killed, and a reader sees each step once."""

from __future__ import annotations

from pathlib import Path

from megabatch.configs.metrics import read_metrics
from megabatch.trainer.evaluate import EvaluationResult
from megabatch.trainer.state import TrainState
from megabatch.trainer.step import StepReport
from megabatch.trainer.trackers.jsonl import JsonlTracker


def report(loss: float) -> StepReport:
    return StepReport(0, 0, 20, loss, 0.1, None, 0.5, 0.01, 0, False)


def test_the_last_attempt_of_a_step_counts_and_half_a_line_is_passed_over(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    first = JsonlTracker(file)
    for step in (1, 2, 3):
        first.step(report(float(step)), TrainState(step=step, samples_seen=20 * step))
    first.close()
    with file.open("a") as half:
        half.write('{"kind": "step", "st')
    second = JsonlTracker(file)
    for step in (3, 4):
        second.step(report(10.0 * step), TrainState(step=step, samples_seen=20 * step, attempt=2))
    second.evaluation(
        EvaluationResult("validation", 15, 0, 0.5, {"top1": 0.9, "top5": 1.0}), TrainState(step=4, samples_seen=80)
    )
    second.trust_ratios({"head.weight": 0.5}, TrainState(step=4, samples_seen=80))
    second.close()
    (ratios,) = read_metrics(file, "trust_ratios")
    assert (ratios["step"], ratios["ratios"]) == (4, {"head.weight": 0.5})
    lines = read_metrics(file, "step")
    assert [(line["step"], line["loss"], line["attempt"]) for line in lines] == [
        (1, 1.0, 1), (2, 2.0, 1), (3, 30.0, 2), (4, 40.0, 2),
    ]  # fmt: skip
    assert lines[0]["samples_per_second"] == 40.0
    (evaluation,) = read_metrics(file, "evaluation")
    assert (evaluation["split"], evaluation["top1"], evaluation["samples"]) == ("validation", 0.9, 15)
