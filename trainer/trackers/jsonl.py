"""RUN_DIR/metrics.jsonl: the truth about a run, appended line by line, read by everything else.

After a restart steps are trained again from the last checkpoint. Their lines are appended with a higher `attempt`;
configs/metrics.py reads the file and takes the last attempt of each step.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from megabatch.trainer.evaluate import EvaluationResult
from megabatch.trainer.line_file import LineFile
from megabatch.trainer.state import TrainState
from megabatch.trainer.step import StepReport
from megabatch.trainer.trackers.base import evaluation_values, step_values


class JsonlTracker:
    """Appends one JSON object for everything it is told."""

    def __init__(self, file: Path):
        file.parent.mkdir(parents=True, exist_ok=True)
        self._lines = LineFile(file, keep_open=True)

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
        self._lines.append({"kind": "checkpoint", "time": round(time.time(), 3), **values})

    def message(self, text: str) -> None:
        """Write a line of kind "message"."""
        self._lines.append({"kind": "message", "time": time.time(), "text": text})

    def close(self) -> None:
        """Close the file."""
        self._lines.close()

    def _write(self, kind: str, state: TrainState, values: dict[str, Any]) -> None:
        self._lines.append({"kind": kind, "attempt": state.attempt, "time": round(time.time(), 3), **values})
