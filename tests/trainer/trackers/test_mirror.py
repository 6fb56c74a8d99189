"""What somebody else's tracker may do: anything, without stopping or slowing the training."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from megabatch.configs.run_dir import RunDir
from megabatch.trainer.errors import TrainingError
from megabatch.trainer.trackers import mirror
from megabatch.trainer.trackers.lines import Line
from megabatch.trainer.trackers.mirror import Mirror
from megabatch.trainer.trackers.own import own_tracker, problems_of_own
from support.tracked import STEPS, tell


def test_every_line_arrives_in_order_and_close_waits_for_the_last() -> None:
    seen: list[Line] = []

    def slow(lines: Iterator[Line]) -> None:
        for line in lines:
            time.sleep(0.01)
            seen.append(line)

    warnings: list[str] = []
    tell(Mirror("slow", slow, warnings.append), (1, 2, 3))
    assert [(line["kind"], line.get("step")) for line in seen] == [
        ("step", 1), ("step", 2), ("step", 3), ("evaluation", 3), ("trust_ratios", 3), ("message", None),
    ]  # fmt: skip
    assert warnings == []


def test_a_failure_there_ends_with_a_message_and_not_the_training() -> None:
    def broken(lines: Iterator[Line]) -> None:
        raise OSError("no space left on device")

    warnings: list[str] = []
    tracker = Mirror("my_trackers:broken", broken, warnings.append)
    for _ in range(20):
        tracker.take({"kind": "step", "step": 1})
        time.sleep(0.001)
    tracker.close()
    assert warnings == [
        "my_trackers:broken stopped: OSError no space left on device. Training goes on; metrics.jsonl has everything"
    ]


def test_one_that_hangs_blocks_neither_a_step_nor_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()
    monkeypatch.setattr(mirror, "_FINISH_SECONDS", 0.2)
    monkeypatch.setattr(mirror, "_QUEUE_LINES", 5)
    warnings: list[str] = []
    began = time.monotonic()
    tell(Mirror("stuck", lambda lines: release.wait() and None, warnings.append), range(1, 20))
    assert time.monotonic() - began < 5
    release.set()
    assert warnings == ["stuck did not finish within 0 s; metrics.jsonl has everything"]


def test_lines_for_which_there_was_no_room_are_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    release, begun = threading.Event(), threading.Event()
    monkeypatch.setattr(mirror, "_QUEUE_LINES", 5)
    warnings: list[str] = []
    seen: list[Line] = []

    def late(lines: Iterator[Line]) -> None:
        begun.set()
        release.wait()
        seen.extend(lines)

    tracker = Mirror("late", late, warnings.append)
    tracker.take({"kind": "step", "step": 1})
    while not begun.wait(0.1):
        pass
    for _ in range(9):
        tracker.message("hello")
    release.set()
    tracker.close()
    assert len(seen) == 6
    assert warnings == ["late was too slow: 4 lines not sent; metrics.jsonl has them"]


def test_what_ends_before_a_step_begins_no_run() -> None:
    begun: list[Line] = []
    tracker = Mirror("never", begun.extend, print)
    tracker.message("evaluating")
    tracker.close()
    assert begun == []


def test_a_tracker_of_ones_own_is_a_function_that_goes_through_the_lines(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_trackers.py").write_text(
        "def best(job, run_dir, lines):\n"
        "    for line in lines:\n"
        "        if line['kind'] == 'evaluation':\n"
        "            (run_dir.root / 'best').write_text(f\"{job} {line['split']} {line['top1']}\")\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    own = own_tracker("my_trackers:best")
    tell(Mirror("my_trackers:best", lambda lines: own("a job", RunDir(tmp_path), lines), print), STEPS)  # type: ignore[arg-type]
    assert (tmp_path / "best").read_text() == "a job validation 0.9"


def test_one_that_cannot_be_found_is_told_by_name() -> None:
    assert problems_of_own(["nowhere:tracker", "math:nothing", "math:pi", "builtins:print"]) == [
        "tracking.own: nowhere:tracker: ModuleNotFoundError: No module named 'nowhere'",
        "tracking.own: math:nothing: AttributeError: module 'math' has no attribute 'nothing'",
        "tracking.own: math:pi is of type float: write the name of a function that takes (job, run_dir, lines)",
    ]
    with pytest.raises(TrainingError, match="nowhere:tracker"):
        own_tracker("nowhere:tracker")
