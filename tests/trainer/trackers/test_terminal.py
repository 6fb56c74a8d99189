"""What a person sees in a log file."""

from __future__ import annotations

import pytest

from megabatch.data.steps import Steps
from megabatch.trainer.evaluate import EvaluationResult
from megabatch.trainer.state import TrainState
from megabatch.trainer.step import StepReport
from megabatch.trainer.trackers.terminal import TerminalTracker


def test_plain_lines_when_the_output_is_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    steps = Steps(samples=40, epochs=3, global_batch=20, micro_batch=5, last_batch="short")
    tracker = TerminalTracker(steps, print_every_seconds=1000.0, validation_split="validation")
    for step in range(1, 7):
        state = TrainState(step=step, samples_seen=20 * step, best_step=6)
        tracker.step(StepReport(step - 1, (step - 1) // 2, 20, 1.5, 0.1, None, 0.5, 0.0, 0, False), state)
    tracker.evaluation(EvaluationResult("validation", 10, 0, 0.25, {"top1": 0.9, "top5": 1.0}), state)
    tracker.evaluation(EvaluationResult("test", 10, 0, 0.25, {"top1": 0.9, "top5": 1.0}), state)
    tracker.close()
    assert capsys.readouterr().out.splitlines() == [
        "epoch 1/3  step 1/6  loss 1.5000  lr 0.1  40 samples/s  2s left",
        "epoch 3/3  step 6/6  loss 1.5000  lr 0.1  40 samples/s  0s left",
        "  validation epoch 3     top-1  90.00%  top-5 100.00%  loss 0.2500  best so far",
        "  test       epoch 3     top-1  90.00%  top-5 100.00%  loss 0.2500",
    ]


def test_waiting_for_data_is_told_when_it_is_worth_it(capsys: pytest.CaptureFixture[str]) -> None:
    steps = Steps(samples=400, epochs=1, global_batch=20, micro_batch=5, last_batch="short")
    tracker = TerminalTracker(steps, print_every_seconds=0.0, validation_split=None)
    for step in range(1, 21):
        waited = 0.0 if step <= 2 else 0.25
        report = StepReport(step - 1, 0, 20, 1.5, 0.1, None, 0.5, waited, 0, False)
        assert report.data_wait_share == waited / 0.5
        tracker.step(report, TrainState(step=step, samples_seen=20 * step))
    lines = capsys.readouterr().out.splitlines()
    assert "waits for data" not in lines[1]
    assert lines[-1].endswith("  42% of the time waits for data")
