"""RUN_DIR/metrics.jsonl: the truth about a run, appended line by line, read by everything else.

After a restart steps are trained again from the last checkpoint. Their lines are appended with a higher `attempt`;
configs/metrics.py reads the file and takes the last attempt of each step.
"""

from __future__ import annotations

import json
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from megabatch.configs.metrics import end_last_line
from megabatch.trainer.evaluate import EvaluationResult
from megabatch.trainer.state import TrainState
from megabatch.trainer.step import StepReport
from megabatch.trainer.trackers.base import evaluation_values, step_values


class JsonlTracker:
    """Appends one JSON object a line at once, so that nothing is lost when the process is killed.

    While the disk is full, lines wait in memory; the training goes on.
    """

    def __init__(self, file: Path):
        file.parent.mkdir(parents=True, exist_ok=True)
        end_last_line(file)
        self._file = file.open("ab", buffering=0)
        self._unwritten = b""

    def step(self, report: StepReport, state: TrainState) -> None:
        """Write a line of kind "step"."""
        self._write("step", state, step_values(report, state))

    def evaluation(self, result: EvaluationResult, state: TrainState) -> None:
        """Write a line of kind "evaluation"."""
        self._write("evaluation", state, evaluation_values(result, state))

    def trust_ratios(self, ratios: dict[str, float], state: TrainState) -> None:
        """Write a line of kind "trust_ratios"."""
        self._write("trust_ratios", state, {"step": state.step, "ratios": ratios})

    def checkpoint(self, values: dict[str, Any]) -> None:
        """Write a line of kind "checkpoint"."""
        self._append({"kind": "checkpoint", "time": round(time.time(), 3), **values})

    def message(self, text: str) -> None:
        """Write a line of kind "message"."""
        self._append({"kind": "message", "time": time.time(), "text": text})

    def close(self) -> None:
        """Close the file."""
        if self._unwritten:
            self._write_on()
        self._file.close()

    def _write(self, kind: str, state: TrainState, values: dict[str, Any]) -> None:
        self._append({"kind": kind, "attempt": state.attempt, "time": round(time.time(), 3), **values})

    def _append(self, line: dict[str, Any]) -> None:
        self._unwritten += json.dumps(line).encode() + b"\n"
        self._write_on()

    def _write_on(self) -> None:
        try:
            while self._unwritten:
                written = self._file.write(self._unwritten) or 0
                self._unwritten = self._unwritten[written:]
        except OSError as error:
            if self._unwritten.count(b"\n") == 1:  # the first that has to wait
                with suppress(OSError):  # the log may lie on the same disk
                    print(f"warning: {self._file.name}: {error}. Lines wait in memory", file=sys.stderr)
