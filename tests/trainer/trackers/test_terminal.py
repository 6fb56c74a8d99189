"""What a person sees on a terminal and in a log file."""

from __future__ import annotations

import io

import pytest
from rich.console import Console

from megabatch.data.steps import Steps
from megabatch.trainer.evaluate import EvaluationResult
from megabatch.trainer.state import TrainState
from megabatch.trainer.step import StepReport
from megabatch.trainer.trackers.step_line import StepLine, is_watched
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


def told_in(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], **variables: str) -> str:
    """What the tracker prints of a step and the best evaluation, to a file, with these variables."""
    for name in ("FORCE_COLOR", "NO_COLOR", "TTY_COMPATIBLE", "TTY_INTERACTIVE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in {"TERM": "xterm-256color", **variables}.items():
        monkeypatch.setenv(name, value)
    steps = Steps(samples=40, epochs=3, global_batch=20, micro_batch=5, last_batch="short")
    tracker = TerminalTracker(steps, print_every_seconds=0.0, validation_split="validation")
    state = TrainState(step=1, samples_seen=20, best_step=1)
    tracker.step(StepReport(0, 0, 20, 1.5, 0.1, None, 0.5, 0.0, 0, False), state)
    tracker.evaluation(EvaluationResult("validation", 10, 0, 0.25, {"top1": 0.9, "top5": 1.0}), state)
    tracker.close()
    return capsys.readouterr().out


def test_a_log_has_no_control_characters(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    told = told_in(monkeypatch, capsys)
    assert all(character.isprintable() for character in told.replace("\n", ""))


def test_forced_colours_colour_a_log_and_rewrite_no_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "\x1b[32m  best so far\x1b[0m" in (told := told_in(monkeypatch, capsys, FORCE_COLOR="1"))
    assert "\r" not in told
    assert "\x1b[2K" not in told
    assert "\x1b" not in told_in(monkeypatch, capsys, FORCE_COLOR="1", NO_COLOR="1")
    assert "\x1b" not in told_in(monkeypatch, capsys, FORCE_COLOR="1", TERM="dumb")


BAR = StepLine(
    0.61, "epoch 2/30", "1m 02s left", ("loss 1.9231", "data 12%", "5,203 samples/s", "step 110/1800", "lr 0.0057")
)


@pytest.mark.parametrize(
    ("width", "told"),
    [(40, 0), (60, 1), (80, 3), (100, 4), (160, 5)],
)
def test_a_narrow_terminal_leaves_out_what_matters_least(width: int, told: int) -> None:
    assert BAR.fitting(width) == BAR.by_worth[:told]
    console = Console(width=width, file=io.StringIO(), force_terminal=True, color_system=None)
    with console.capture() as captured:
        console.print(BAR)
    (line,) = captured.get().splitlines()
    assert len(line) <= width
    assert line.startswith("epoch 2/30  ━")
    assert line.split("━")[-1].rstrip().endswith("left")
    assert all((part in line) == (part in BAR.by_worth[:told]) for part in BAR.by_worth)


@pytest.mark.parametrize("variables", [{}, {"FORCE_COLOR": "1"}, {"TERM": "dumb", "FORCE_COLOR": "1"}], ids=str)
def test_a_file_is_never_taken_for_a_terminal(monkeypatch: pytest.MonkeyPatch, variables: dict[str, str]) -> None:
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    assert not is_watched(Console(file=io.StringIO()))
