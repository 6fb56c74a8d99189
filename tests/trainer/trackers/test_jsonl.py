"""metrics.jsonl: nothing lost when the process is killed, and a reader sees each step once."""

from __future__ import annotations

from pathlib import Path

from megabatch.configs.metrics import read_metrics, read_rows
from megabatch.trainer.evaluate import EvaluationResult
from megabatch.trainer.state import TrainState
from megabatch.trainer.step import StepReport
from megabatch.trainer.trackers.jsonl import JsonlTracker
from megabatch.trainer.trackers.lines import rows_of
from support.tracked import tell


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


def test_rows_are_those_of_a_run_that_was_never_stopped(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    tell(JsonlTracker(file), (1, 2, 3))
    before = JsonlTracker(file)
    tell(before, (3, 4), attempt=2, top1=0.8)
    rows = read_rows(file)
    kinds = [(row["step"], row["kind"], row["attempt"]) for row in rows]
    assert kinds == [
        (1, "step", 1), (2, "step", 1), (3, "step", 2), (3, "trust_ratios", 1), (3, "evaluation", 1),
        (4, "step", 2), (4, "trust_ratios", 2), (4, "evaluation", 2),
    ]  # fmt: skip


def test_a_step_trained_again_is_passed_on_once_also_after_a_rollback(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    tell(JsonlTracker(file), (1, 2, 3))
    live = [
        {"kind": "message", "text": "hello"},
        *({"kind": "step", "attempt": 2, "step": step} for step in (3, 4, 5, 4, 5, 6)),
    ]
    assert [(row["kind"], row["step"]) for row in rows_of(iter(live), file, whole=False)] == [
        ("step", 4), ("step", 5), ("step", 6),
    ]  # fmt: skip
    assert [(row["kind"], row["step"]) for row in rows_of(iter(live), file, whole=True)] == [
        ("step", 1), ("step", 2), ("step", 3), ("evaluation", 3), ("trust_ratios", 3), ("step", 4), ("step", 5), ("step", 6),
    ]  # fmt: skip
